//! The agent under measurement: started as a user would start it, asked over HTTP, read in /proc.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::child::Dialogue;

/// Clock ticks a second in /proc, the same on all architectures that the agent runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running agent.
pub(super) struct Agent {
    process: Dialogue,
    address: String,
}

/// An answer to a GET request.
pub(super) struct Answer {
    pub(super) body: String,
    /// From the connect to the last byte.
    pub(super) took: Duration,
}

impl Agent {
    /// Starts the agent; it serves and its hooks are attached when this returns.
    pub(super) fn start(binary: &Path, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(["run", "--listen", "127.0.0.1:0", "--log-level", "error"]).args(args);
        let mut process = Dialogue::start(&mut command)?;
        loop {
            let line = process.hear()?;
            if let Some(url) = line.strip_prefix("metrics: http://") {
                let address = url.trim_end_matches("/metrics").to_owned();
                return Ok(Self { process, address });
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(super) fn metrics(&self) -> Result<Answer> {
        let start = Instant::now();
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let took = start.elapsed();
        let (_, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
        Ok(Answer { body: body.to_owned(), took })
    }

    /// Processor time used so far, seconds.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        cpu_seconds(&stat).context("reading the agent's processor time")
    }

    /// The same of the one thread that makes the passes.
    pub(super) fn passes_cpu_seconds(&self) -> Result<f64> {
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let stat = fs::read_to_string(task?.path().join("stat"))?;
            if stat.contains(" (passes) ") {
                return cpu_seconds(&stat).context("reading the processor time of the passes");
            }
        }
        bail!("the agent has no thread that makes passes")
    }

    /// A line of /proc/PID/status that is in kB, for example `VmRSS`; MiB.
    pub(super) fn memory_mib(&self, field: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        memory_mib(&status, field).with_context(|| format!("no {field} in /proc/{}/status", self.pid()))
    }
}

/// The value of the sample whose line begins so.
pub(super) fn sample(exposition: &str, series: &str) -> Option<f64> {
    let rest = exposition.lines().find_map(|line| line.strip_prefix(series))?;
    rest.trim().parse().ok()
}

/// User and system time; the name in brackets may hold anything.
pub(super) fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn memory_mib(status: &str, field: &str) -> Option<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: f64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_after_the_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 12345 1000 200";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("1 (x) S 1"), None);
    }

    #[test]
    fn memory_is_read_by_name() {
        assert_eq!(memory_mib("VmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n", "VmRSS"), Some(1.0));
        assert_eq!(memory_mib("VmHWM:\t 2048 kB\n", "VmRSS"), None);
    }

    #[test]
    fn a_sample_is_found_by_the_whole_of_its_name() {
        let text = "a_seconds{pass=\"x\"} 0.25\na 3\n";
        assert_eq!(sample(text, "a "), Some(3.0));
        assert_eq!(sample(text, "a_seconds{pass=\"x\"}"), Some(0.25));
        assert_eq!(sample(text, "b "), None);
    }
}
