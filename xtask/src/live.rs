//! The live tests on this machine's kernel, with the agent as it is released, as in guests.
//!
//! Owns the one excuse that a test has here: a kernel that runs no BPF program while PID 1 is current hides events
//! that no test can foresee, so there up to [`SECOND_TRIES_MAX`] tests that failed are run once more, and it is said.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::build::{self, GuestParts};
use crate::process::{self, command};
use crate::workspace::Arch;

/// The exit code of a test runner that saw tests fail.
const FAILED_TESTS: i32 = 101;

/// Events come while PID 1 is current once in some hundred ticks of the timer.
const SECOND_TRIES_MAX: usize = 2;

/// One test after the other: each compares counts of namespaces that it owns, but the hooks are machine-wide.
pub(crate) fn run() -> Result<()> {
    let parts = build::guest_parts(Arch::native()?)?;
    let failed = failures(&mut suite(&parts))?;
    if failed.is_empty() {
        return Ok(());
    }
    if failed.len() > SECOND_TRIES_MAX || !hides_pid_1()? {
        bail!("{} live tests failed: {}", failed.len(), failed.join(", "));
    }
    println!(
        "live: once more, since this kernel hides from programs what comes while PID 1 runs: {}",
        failed.join(", ")
    );
    let again = failures(suite(&parts).arg("--exact").args(&failed))?;
    ensure!(again.is_empty(), "these live tests failed twice: {}", again.join(", "));
    Ok(())
}

fn suite(parts: &GuestParts) -> Command {
    let mut suite = command(&parts.live_tests);
    suite.arg("--test-threads=1").env("TRACER_LIVE_AGENT", &parts.agent);
    suite
}

/// Runs the tests, shows what they say as it comes, and gives back the names of those that failed.
fn failures(suite: &mut Command) -> Result<Vec<String>> {
    let shown = process::shown(suite);
    let mut child = suite.stdout(Stdio::piped()).spawn().with_context(|| format!("starting `{shown}`"))?;
    let mut said = String::new();
    for line in BufReader::new(child.stdout.take().context("stdout is a pipe")?).lines() {
        let line = line?;
        println!("{line}");
        said.push_str(&line);
        said.push('\n');
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(Vec::new());
    }
    let failed = listed(&said);
    ensure!(
        status.code() == Some(FAILED_TESTS) && said.contains(&format!(" {} failed;", failed.len())),
        "`{shown}` ended with {status}"
    );
    Ok(failed)
}

/// The names below the runner's last heading `failures:`.
fn listed(said: &str) -> Vec<String> {
    let (_, list) = said.rsplit_once("\nfailures:\n").unwrap_or_default();
    list.lines().map_while(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
}

/// Whether the kernel tells programs that PID 1 owns from others; docs/kernels.md says what follows.
fn hides_pid_1() -> Result<bool> {
    let types = fs::read("/sys/kernel/btf/vmlinux").context("reading the kernel's type information")?;
    let member = b"\0init_owned\0";
    Ok(types.windows(member.len()).any(|window| window == member))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(script: &str) -> Result<Vec<String>> {
        failures(command("sh").args(["-c", script]))
    }

    #[test]
    fn failed_tests_are_those_that_the_runner_lists() {
        assert!(runner("echo 'test result: ok. 5 passed; 0 failed;'").unwrap().is_empty());
        let list = "printf '\\nfailures:\\n    a::b\\n    c::d\\n\\ntest result: FAILED. 1 passed; 2 failed;\\n'";
        assert_eq!(runner(&format!("{list}; exit 101")).unwrap(), ["a::b", "c::d"]);
        for broken in
            [format!("{list}; exit 1"), "exit 101".to_owned(), list.replace("2 failed", "3 failed") + "; exit 101"]
        {
            assert!(runner(&broken).is_err(), "{broken}");
        }
    }
}
