//! What commands that need root print, and with which exit code. Belongs here: the rest is decided without root, and
//! tested there.

use std::process::Stdio;

use crate::lab::Lab;
use crate::lab::setting::agent_command;

/// The verdict of `tracer doctor` is its exit code, on whatever rung this machine has, and a reader that leaves after a
/// line changes nothing.
#[test]
fn doctors_verdict_is_its_exit_code() {
    let _lab = Lab::enter(&[]);
    let output = agent_command().args(["doctor", "--output", "json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "", "a pipe is told no progress");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let code = match found["verdict"].as_str().unwrap() {
        "best" => 0,
        "degraded" => 1,
        verdict => panic!("{verdict}: {found:#}"),
    };
    assert_eq!(output.status.code(), Some(code));

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = agent_command().arg("doctor").stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(code), ""));
}

/// Colours in the log follow the same rule as elsewhere.
#[test]
fn the_log_is_coloured_where_that_is_asked_for() {
    let _lab = Lab::enter(&[]);
    for (environment, is_coloured) in [(None, false), (Some("CLICOLOR_FORCE"), true)] {
        let mut command = agent_command();
        command.args(["run", "--listen", "127.0.0.1:0", "--log-level", "debug"]);
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").envs(environment.map(|name| (name, "1")));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
        while !line.starts_with("metrics: ") {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut lines, &mut line).unwrap(), 0, "it ended before it served");
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(log.contains("stopped"), "{log}");
        assert_eq!(log.contains('\x1b'), is_coloured, "{log}");
    }
}
