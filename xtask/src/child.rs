//! Processes that a command of this program starts and that do not outlive it.
//!
//! Owns their end: each is killed and waited for when its handle is dropped, by its own id, also
//! when a command fails. What they attached or made (eBPF programs, network namespaces) the
//! kernel removes with them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process::shown;

/// A process that ends with its handle.
pub(crate) struct Guarded {
    child: Child,
    command: String,
}

impl Guarded {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let shown = shown(command);
        let child = command.spawn().with_context(|| format!("starting `{shown}`"))?;
        Ok(Self { child, command: shown })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the process has ended of itself.
    pub(crate) fn check_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("`{}` ended: {status}", self.command),
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Fails only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that answers what is written to it, line by line.
pub(crate) struct Dialogue {
    process: Guarded,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Dialogue {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut process = Guarded::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = process.child.stdin.take().context("the input is a pipe")?;
        let output = process.child.stdout.take().context("the output is a pipe")?;
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Fails when the process has ended of itself.
    pub(crate) fn check_runs(&mut self) -> Result<()> {
        self.process.check_runs()
    }

    /// The next line that the process prints, which must be this one.
    pub(crate) fn expect(&mut self, line: &str) -> Result<()> {
        let heard = self.hear()?;
        if heard != line {
            bail!("`{}` says `{heard}` instead of `{line}`", self.process.command);
        }
        Ok(())
    }

    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").with_context(|| format!("writing to `{}`", self.process.command))
    }

    /// The next line that the process prints.
    pub(crate) fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.output.read_line(&mut line)?;
        if length == 0 {
            bail!("`{}` ended instead of answering", self.process.command);
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Waits until `done` gives something. Says what it waited for when it did not come in time.
pub(crate) fn until<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = done()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// The command in a network namespace of its own, which ends with it: loopback up, and all ports
/// but the privileged ones for the clients of the loops, which use 14 000 a second.
pub(crate) fn in_own_netns(program: &Path, args: &[&str]) -> Command {
    const PREPARE: &str =
        "ip link set lo up && echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", PREPARE]).arg(program).args(args);
    command
}
