//! What the walk over the node's open files takes, listing listeners alone and counting sockets as
//! well, in turns, with more and more sockets open.
//!
//! Run it as root in a namespace of its own, so that its connections meet nobody else's:
//! `unshare -n sh -c 'ip link set lo up; walk_cost'`. Prints medians of CPU time. The rest of the node's sockets
//! and files is in all figures, the first of which is with none of its own. The sockets are held by
//! processes of its own, since a process may have few descriptors; they end with it.

use std::env;
use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use tracer::agent;
use tracer::config::{Config, Flags};
use tracer::kernel::load::Kernel;
use tracer::kernel::maps::Maps;

/// Processes that hold sockets, by measurement.
const HOLDERS: [usize; 3] = [0, 1, 5];
const SOCKETS_EACH: usize = 10_000;
const ROUNDS: u32 = 41;
const LISTING: &str = "listeners_by_task";
const COUNTING: &str = "sockets_by_task";
/// The argument that makes a process a holder.
const HOLD: &str = "hold";

fn main() -> Result<()> {
    if env::args().nth(1).as_deref() == Some(HOLD) {
        return hold();
    }
    let config = Config::load(&Flags::default())?;
    let mut kernel = agent::prepare(&config).map_err(|failure| anyhow!(failure.message))?;
    let maps = kernel.maps()?;
    kernel.attach(&maps)?;
    let mut holders = Vec::new();
    let mut generation = 0;
    println!("    held  counted      listing     counting   more, each");
    for count in HOLDERS {
        while holders.len() < count {
            holders.push(start_holder()?);
        }
        measure(&mut kernel, &maps, count * SOCKETS_EACH, &mut generation)?;
    }
    for mut holder in holders {
        drop(holder.stdin.take());
        holder.wait()?;
    }
    Ok(())
}

fn start_holder() -> Result<Child> {
    let mut holder =
        Command::new(env::current_exe()?).arg(HOLD).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(holder.stdout.take().context("no pipe")?).read_line(&mut line)?;
    ensure!(line == "holding\n", "a process could not open {SOCKETS_EACH} sockets");
    Ok(holder)
}

/// Holds both ends of connections until its input ends.
fn hold() -> Result<()> {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit })?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut held = Vec::with_capacity(SOCKETS_EACH);
    while held.len() < SOCKETS_EACH {
        held.push(TcpStream::connect(listener.local_addr()?)?);
        held.push(listener.accept()?.0);
    }
    println!("holding");
    io::stdin().lines().for_each(drop);
    Ok(())
}

fn measure(kernel: &mut Kernel, maps: &Maps, held: usize, generation: &mut u32) -> Result<()> {
    let (mut listing, mut counting, mut counted) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        listing.push(time(|| kernel.walk(LISTING, |_| {}))?);
        *generation += 1;
        let socket_maps = maps.socket_maps()?;
        socket_maps.begin(*generation)?;
        counting.push(time(|| kernel.walk(COUNTING, |_| {}))?);
        counted = socket_maps.read()?.rows.iter().flat_map(|(_, row)| row.counts).sum::<u32>();
    }
    let (listing, counting) = (median(listing), median(counting));
    let more = counting.saturating_sub(listing).as_nanos() / u128::from(counted.max(1));
    let [listing, counting] = [listing, counting].map(|time| time.as_secs_f64() * 1e3);
    println!("{held:>8} {counted:>8} {listing:>9.2} ms {counting:>9.2} ms {more:>9} ns");
    Ok(())
}

fn time<T>(walk: impl FnOnce() -> io::Result<T>) -> io::Result<Duration> {
    let start = cpu_time();
    walk()?;
    Ok(cpu_time().saturating_sub(start))
}

/// Of this thread, in the kernel's walks too; a busy machine does not lengthen it.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
