//! `tracer run`: the agent until SIGINT or SIGTERM.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use super::{stop, supervisor};
use crate::{
    agent::{self, Shared},
    config::{Config, Flags, LogLevel},
    export::http,
    failure::Failure,
    kernel::{
        hooks::{LadderReport, Report, Verdict},
        load::chain,
        shortage,
    },
    log_lines::{self, LogLines},
    progress::Progress,
    terminal,
};

/// Time from a signal to the end of the process, whatever hangs: less than the five seconds that are promised.
const END_LIMIT: Duration = Duration::from_millis(4500);

/// Runs the agent with these flags.
pub fn run(flags: &Flags) -> Result<(), Failure> {
    let config = Config::load(flags).map_err(|error| Failure::usage(&error))?;
    start_log(config.log_level);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .map_err(|error| Failure::other(format!("cannot start the runtime: {}", shortage::explain(&error))))?;
    let served = runtime.block_on(serve(config));
    // A scrape that hangs on its thread ends with the process.
    runtime.shutdown_background();
    served
}

async fn serve(config: Config) -> Result<(), Failure> {
    let http = bind(config.listen)?;
    let address = http.local_addr().map_err(|error| Failure::other(error.to_string()))?;
    let signals = stop::within(END_LIMIT)?;
    let shutdown = async {
        signals.await;
        supervisor::stopping();
    };
    let progress = Progress::new("attaching, and a first pass", None);
    let starting = supervisor::Starting::new();
    let announce = move |shared: &Arc<Shared>| {
        drop((progress, starting));
        print_announcement(address, Arc::clone(&shared.report));
        supervisor::ready(address, &shared.report);
        supervisor::keep_alive(Arc::clone(shared));
    };
    agent::run(config, http, shutdown, announce).await?;
    tracing::info!("stopped; nothing is attached any more");
    Ok(())
}

/// Binds the address. Where the kernel has no IPv6, all addresses are those of IPv4.
fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = http::bind(address).or_else(|error| {
        let instead = without_ipv6(address, &error).ok_or(error)?;
        tracing::warn!("this host has no IPv6: the agent listens on {instead} instead of {address}");
        http::bind(instead)
    });
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Failure::other(format!(
            "{address} is in use, perhaps by another agent; choose another with --listen ADDRESS:PORT"
        )),
        io::ErrorKind::AddrNotAvailable => {
            Failure::other(format!("this host has no address {}; choose another with --listen", address.ip()))
        }
        _ => {
            let remedy = shortage::remedy_or(&error, "choose another address with --listen");
            Failure::other(format!("cannot listen on {address}: {}; {remedy}", chain(&error)))
        }
    })
}

/// What stands for all addresses of IPv6 where there are none: the kernel was built without, or started with
/// `ipv6.disable=1`.
fn without_ipv6(address: SocketAddr, refusal: &io::Error) -> Option<SocketAddr> {
    let has_none = matches!(refusal.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL));
    (has_none && address.is_ipv6() && address.ip().is_unspecified())
        .then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
}

pub(super) fn start_log(level: LogLevel) {
    // Without the thread lines are written as they come.
    let _ = log_lines::start();
    // Third-party crates have nothing to say below warnings that would help a user.
    let directives = format!("warn,tracer={level},tracer_bpf={level},tracer_ebpf={level}", level = level.name());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives))
        .with_writer(|| LogLines)
        .with_ansi(terminal::colors_stderr())
        .with_target(false)
        .finish();
    // Fails only if another subscriber is there already, which then gets the output.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Writes the announcement on a thread of its own: nobody may be reading, and `/status` has the same.
fn print_announcement(address: SocketAddr, report: Arc<Report>) {
    let print = move || _ = write_announcement(&mut io::stdout().lock(), address, &report);
    if let Err(error) = thread::Builder::new().name("announcement".into()).spawn(print) {
        tracing::warn!(%error, "the hooks in force cannot be printed; /status has them");
    }
}

/// What the agent says once it serves: the hooks in force and why better ones are not, the address.
pub fn write_announcement(out: &mut impl Write, address: SocketAddr, report: &Report) -> io::Result<()> {
    for ladder in &report.ladders {
        write_ladder(out, ladder)?;
    }
    writeln!(out, "metrics: http://{address}/metrics")?;
    out.flush()
}

pub(super) fn signal_in_words(ladder: &LadderReport) -> String {
    ladder.signal.name().replace('_', " ")
}

/// One signal: what is in force, then why nothing better is.
pub fn write_ladder(out: &mut impl Write, ladder: &LadderReport) -> io::Result<()> {
    let signal = signal_in_words(ladder);
    let mark = if ladder.verdict() == Verdict::Best { "best" } else { "degraded" };
    writeln!(out, "{signal:<20} {mark:<9} {}", ladder.in_force)?;
    if ladder.verdict() == Verdict::Best {
        return Ok(());
    }
    if !ladder.cost.is_empty() {
        writeln!(out, "{:<30} {}", "", ladder.cost)?;
    }
    for refusal in &ladder.refusals {
        writeln!(out, "{:<30} not {}: {}", "", refusal.hook, refusal.cause)?;
        writeln!(out, "{:<30}     remedy: {}", "", refusal.remedy)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_those_of_ipv4_where_there_is_no_ipv6() {
        let instead = |address: &str, errno| {
            let found = without_ipv6(address.parse().unwrap(), &io::Error::from_raw_os_error(errno));
            found.map(|address| address.to_string())
        };
        for errno in [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL] {
            assert_eq!(instead("[::]:9795", errno).as_deref(), Some("0.0.0.0:9795"));
            // One address is what was meant, and no other.
            assert_eq!(instead("[::1]:9795", errno), None);
            assert_eq!(instead("192.0.2.1:9795", errno), None);
        }
        assert_eq!(instead("[::]:9795", libc::EADDRINUSE), None);
    }
}
