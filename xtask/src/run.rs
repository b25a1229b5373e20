//! `cargo xtask run`: builds the agent and becomes it, as root or with its capabilities.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build;
use crate::process;

/// What the agent needs when it is not root, with the capability's number in <linux/capability.h>. The unit and
/// the least-privilege manifest grant the same.
pub(crate) const CAPABILITIES: &[(u32, &str)] = &[
    (2, "CAP_DAC_READ_SEARCH"),
    (12, "CAP_NET_ADMIN"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// Options of `cargo xtask run`.
#[derive(Args)]
pub(crate) struct Opts {
    /// Arguments for `tracer run`.
    #[arg(last = true)]
    agent: Vec<String>,
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    let agent = build::agent()?;
    let missing = if process::is_root() { Vec::new() } else { missing_capabilities(own_capabilities()?) };
    let mut command = match (missing.as_slice(), process::find("sudo")) {
        ([], _) => Command::new(&agent),
        (_, Some(sudo)) => {
            let mut command = Command::new(sudo);
            command.arg("--").arg(&agent);
            command
        }
        (_, None) => {
            bail!("the agent needs {} and there is no sudo; run `{} run` as root", missing.join(", "), agent.display())
        }
    };
    Err(process::replace_with(command.arg("run").args(&opts.agent)))
}

/// The capabilities that are in force for this process and that it hands to a program it becomes.
fn own_capabilities() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    ambient(&status).context("no capabilities in /proc/self/status")
}

/// The ambient set of /proc/PID/status: alone it outlives the exec of a file without capabilities.
fn ambient(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("CapAmb:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

fn missing_capabilities(held: u64) -> Vec<&'static str> {
    CAPABILITIES.iter().filter(|(number, _)| held >> number & 1 == 0).map(|&(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_each_capability_that_is_missing() {
        assert_eq!(missing_capabilities(0).len(), CAPABILITIES.len());
        assert_eq!(missing_capabilities(!(1 << 39)), ["CAP_BPF"]);
        assert!(missing_capabilities(u64::MAX).is_empty());
    }

    #[test]
    fn reads_the_ambient_set() {
        let status = "Name:\tx\nCapEff:\t000001ffffffffff\nCapAmb:\t0000000000001004\n";
        assert_eq!(ambient(status), Some(1 << 2 | 1 << 12));
        assert_eq!(ambient("Name:\tx\n"), None);
    }
}
