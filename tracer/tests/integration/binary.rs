//! The binary under test. Belongs here: how a test runs it, with which rights, and what every
//! refusal looks like.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use assert_cmd::assert::OutputAssertExt;
use assert_cmd::cargo::cargo_bin;

/// `nobody` of most distributions: owns nothing and holds no capability.
const NOBODY: u32 = 65_534;

/// The agent with these arguments, with the rights of whoever runs the tests.
pub fn tracer(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin!("tracer"));
    command.args(args);
    command
}

/// Runs the agent without any right, whoever runs the tests. The binary is inherited as a
/// descriptor, since the directories that it lies in may be closed to others.
pub fn run_without_rights(args: &[&str], configure: impl FnOnce(&mut Command)) -> Output {
    let binary = File::open(cargo_bin!("tracer")).unwrap();
    let mut command = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()));
    command.args(args);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    configure(&mut command);
    command.output().unwrap()
}

/// What a refusal said: the exit code is `code`, nothing is on stdout, one line on stderr.
pub fn refusal(output: Output, code: i32) -> String {
    let assert = output.assert().code(code).stdout("");
    let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    let line = said.strip_prefix("tracer: ").and_then(|said| said.strip_suffix('\n'));
    let line = line.unwrap_or_else(|| panic!("not a line of the tracer's: {said:?}"));
    assert!(!line.contains('\n') && !line.contains("panicked"), "{said}");
    line.to_owned()
}
