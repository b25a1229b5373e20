//! The agent's end: within five seconds of the signal, whatever it waits for at that moment.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::gate::Gate;
use crate::lab::setting::agent_command;
use crate::lab::wait::until;

const LIMIT: Duration = Duration::from_secs(5);
const PASS_INTERVAL: Duration = Duration::from_millis(200);
/// Within which a page is answered whatever the passes are at.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// The writing end of a pipe that is full; nobody reads it while the other end lives.
fn full_pipe() -> (std::io::PipeReader, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
    while rustix::io::write(&writer, b".").is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer.into())
}

#[test]
fn nobody_reads_standard_error() {
    let _lab = Lab::enter(&[]);
    let (_reader, full) = full_pipe();
    let mut agent = Agent::spawn(agent_command(), full.into(), PASS_INTERVAL, &["--log-level", "debug"]);
    agent.await_start();
    // Each bad request is a line at this level, and all of them are more than may wait.
    until("lines to be lost", Duration::from_mins(1), || {
        for _ in 0..200 {
            let mut stream = std::net::TcpStream::connect(agent.url().trim_start_matches("http://")).unwrap();
            stream.write_all(b"no request\r\n\r\n").unwrap();
        }
        let lost = agent.scrape().one("tracer_log_lines_lost_total", &[])?;
        if lost > 0.0 { Ok(()) } else { Err("none lost by now".to_owned()) }
    });
    assert!(agent.terminate_within(LIMIT).success());
}

#[test]
fn nobody_reads_either_output() {
    let _lab = Lab::enter(&[]);
    let (_reader, full) = full_pipe();
    let shell = r#"exec "$0" "$@" 1>&2"#;
    let mut command = Command::new("sh");
    command.args(["-c", shell]).arg(agent_command().get_program());
    let agent = Agent::spawn(command, Stdio::from(full), PASS_INTERVAL, &["--log-level", "debug"]);
    // It says nowhere where it serves.
    std::thread::sleep(Duration::from_secs(3));
    assert!(agent.terminate_within(LIMIT).success());
}

#[test]
fn entering_a_namespace_hangs() {
    let _lab = Lab::enter(&[]);
    let gate = Gate::on_setns();
    let mut agent = Agent::spawn(gate.agent(), Stdio::piped(), PASS_INTERVAL, &[]);
    agent.read_log();
    agent.await_start();
    gate.hold();
    std::thread::sleep(Duration::from_secs(1));
    assert!(agent.terminate_within(LIMIT).success());
}

#[test]
fn entering_a_namespace_hangs_from_the_start() {
    let _lab = Lab::enter(&[]);
    let gate = Gate::on_setns();
    gate.hold();
    let mut agent = Agent::spawn(gate.agent(), Stdio::piped(), PASS_INTERVAL, &[]);
    agent.read_log();
    std::thread::sleep(Duration::from_secs(2));
    agent.terminate_within(LIMIT);
}

/// A file system whose server answers nothing.
struct DeadMount {
    directory: tempfile::TempDir,
    _server: OwnedFd,
}

impl DeadMount {
    fn new() -> Self {
        use std::os::fd::AsRawFd as _;
        let directory = tempfile::tempdir().unwrap();
        let server = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        mount("dead", directory.path(), "fuse", MountFlags::empty(), options.as_c_str()).unwrap();
        Self { directory, _server: server }
    }
}

impl Drop for DeadMount {
    fn drop(&mut self) {
        // Whoever waits for it is ended first.
        let _ = unmount(self.directory.path(), UnmountFlags::DETACH | UnmountFlags::FORCE);
    }
}

#[test]
fn names_of_logs_are_on_a_dead_file_system() {
    let _lab = Lab::enter(&[]);
    let dead = DeadMount::new();
    let logs = dead.directory.path().to_str().unwrap().to_owned();
    let mut agent = Agent::spawn(agent_command(), Stdio::piped(), PASS_INTERVAL, &["--pod-logs", &logs]);
    agent.read_log();
    agent.await_start();
    let asked = Instant::now();
    assert_eq!(agent.scrape().sum("tracer_build_info", &[]), 1);
    assert!(asked.elapsed() < ANSWER_LIMIT, "{:?}", asked.elapsed());
    assert!(agent.terminate_within(LIMIT).success());
}

/// The response to a client that reads nothing is waited for no longer than the rest.
#[test]
fn a_scrape_is_not_read() {
    let _lab = Lab::enter(&[]);
    let agent = Agent::start();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut stream = std::net::TcpStream::connect(agent.url().trim_start_matches("http://")).unwrap();
        for _ in 0..200 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        }
        clients.push(stream);
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(agent.terminate_within(LIMIT).success());
}
