//! Requests a second of `wrk` to nginx over loopback, with and without the agent on the packet rung.
//!
//! nginx runs in the foreground as one process, with a configuration and files of its own.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::pairs::{Arm, ratio, take_turns};
use super::table::{Table, Target};
use super::{PACKET_RUNG, Plan};
use crate::child::Guarded;
use crate::process;

const PACKETS: &str = "wrk to nginx with the packet rung";
const NO_PACKETS: &str = "wrk to nginx without the packet rung";

pub(super) fn measure(plan: &Plan, table: &mut Table) -> Result<()> {
    let (Some(nginx), Some(wrk)) = (process::find("nginx"), process::find("wrk")) else {
        table.add_missing(PACKETS, "nginx and wrk are needed; they are in Debian's packages nginx-light and wrk");
        return Ok(());
    };
    let server = Server::start(&nginx, plan.scratch)?;
    let arms = [Arm::Alone, Arm::Agent(&plan.agent, PACKET_RUNG), Arm::Agent(&plan.agent, &["--no-packet-hook"])];
    let rates = take_turns(&arms, plan.web_pairs, || requests_a_second(&wrk, server.port, plan.web_window))?;
    for (measure, with) in [(PACKETS, &rates[1]), (NO_PACKETS, &rates[2])] {
        let (percent, figure) = ratio(with, &rates[0], "a second");
        table.add(measure, percent, figure, Target::None);
    }
    Ok(())
}

struct Server {
    _process: Guarded,
    port: u16,
}

impl Server {
    fn start(nginx: &Path, scratch: &Path) -> Result<Self> {
        let directory = scratch.join("nginx");
        fs::create_dir_all(&directory)?;
        let port = free_port()?;
        let file = directory.join("nginx.conf");
        fs::write(&file, configuration(&directory, port))?;
        let mut process = Guarded::start(Command::new(nginx).arg("-p").arg(&directory).arg("-c").arg(&file))?;
        let limit = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            process.check_runs()?;
            if Instant::now() > limit {
                bail!("nginx does not answer on port {port}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { _process: process, port })
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// One process, so that killing it leaves no worker; every file below the directory.
fn configuration(directory: &Path, port: u16) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", directory.join(kind).display()))
        .concat();
    let path = |name: &str| -> PathBuf { directory.join(name) };
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {};\nerror_log {} crit;\n\
         events {{ worker_connections 256; }}\n\
         http {{\naccess_log off;\nkeepalive_requests 1000000000;\n{temporary}\
         server {{ listen 127.0.0.1:{port}; location / {{ return 200 \"ok\\n\"; }} }}\n}}\n",
        path("pid").display(),
        path("error.log").display(),
    )
}

fn requests_a_second(wrk: &Path, port: u16, time: Duration) -> Result<f64> {
    let mut command = Command::new(wrk);
    command.args(["-t1", "-c32", &format!("-d{}s", time.as_secs())]).arg(format!("http://127.0.0.1:{port}/"));
    let report = process::capture(&mut command)?;
    parse(&report).with_context(|| format!("no rate in what wrk printed: {report}"))
}

fn parse(report: &str) -> Option<f64> {
    report.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_the_report() {
        assert_eq!(parse("Running 3s test\nRequests/sec: 102000.50\nTransfer/sec: 1MB\n"), Some(102_000.5));
        assert_eq!(parse("unable to connect\n"), None);
    }
}
