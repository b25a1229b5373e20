//! The live tests on this machine's kernel, with the agent as it is released, as in guests.
//!
//! Owns the one excuse that a test has here: a kernel that runs no BPF program while PID 1 is current hides events
//! that no test can foresee. A test that failed for nothing else says so; up to [`SECOND_TRIES_MAX`] of them are run
//! once more, and it is said.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::build::{self, GuestParts};
use crate::process::{self, command};
use crate::test::SECOND_TRY;
use crate::workspace::{self, Arch};

/// The exit code of a test runner that saw tests fail.
const FAILED_TESTS: i32 = 101;

/// Events come while PID 1 is current once in some hundred ticks of the timer.
const SECOND_TRIES_MAX: usize = 2;

/// The tests that take longest: rows by the ten thousand, churn for seconds, waits for the kernel to give up.
pub(crate) const LONGEST: &[&str] = &["cardinality::", "accept_queue_edge::", "timeouts::"];

/// Runs the tests but for those whose name contains one of `left_out`. One test after the other: each compares counts of
/// namespaces that it owns, but the hooks are machine-wide.
pub(crate) fn run(left_out: &[&str]) -> Result<()> {
    let parts = build::guest_parts(Arch::native()?)?;
    let unshown = Unshown::anew()?;
    let mut suite_once = suite(&parts, &unshown.0);
    for left_out in left_out {
        println!("live: left out: {left_out}");
        suite_once.args(["--skip", left_out]);
    }
    let failed = failures(&mut suite_once)?;
    if failed.is_empty() {
        return Ok(());
    }
    let reasons = unshown.reasons(&failed)?;
    if failed.len() > SECOND_TRIES_MAX || reasons.len() != failed.len() {
        bail!("{} live tests failed: {}", failed.len(), failed.join(", "));
    }
    let again = failures(suite(&parts, &unshown.0).arg("--exact").args(&failed))?;
    for reason in &reasons {
        println!("{SECOND_TRY}this kernel: {reason}");
    }
    ensure!(again.is_empty(), "these live tests failed twice: {}", again.join(", "));
    Ok(())
}

fn suite(parts: &GuestParts, unshown: &Path) -> Command {
    let mut suite = command(&parts.live_tests);
    suite.arg("--test-threads=1").env("TRACER_LIVE_AGENT", &parts.agent).env("TRACER_LIVE_UNSHOWN", unshown);
    suite
}

/// The file to which tests add a line, their name and what was hidden, if they fail for nothing but events that the
/// kernel hid.
struct Unshown(PathBuf);

impl Unshown {
    fn anew() -> Result<Self> {
        let directory = workspace::root().join("target/test");
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        let file = directory.join("unshown");
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", file.display()))
            }
            _ => Ok(Self(file)),
        }
    }

    /// What those of the tests say that failed for nothing else, a line each.
    fn reasons(&self, failed: &[String]) -> Result<Vec<String>> {
        let said = match fs::read_to_string(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            said => said.with_context(|| format!("reading {}", self.0.display()))?,
        };
        let of = |test: &String| said.lines().find(|line| line.split_once(": ").is_some_and(|(name, _)| name == test));
        Ok(failed.iter().filter_map(of).map(str::to_owned).collect())
    }
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

    #[test]
    fn a_test_that_says_nothing_of_hidden_events_has_no_excuse() {
        let directory = tempfile::tempdir().unwrap();
        let unshown = Unshown(directory.path().join("unshown"));
        let failed = ["a::b".to_owned(), "c::d".to_owned()];
        assert!(unshown.reasons(&failed).unwrap().is_empty());
        fs::write(&unshown.0, "a::b: 3 retransmits\na::bc: 1 drops\nc::d\n").unwrap();
        assert_eq!(unshown.reasons(&failed).unwrap(), ["a::b: 3 retransmits"]);
    }
}
