//! What goes to a terminal and what does not: colours, the line that says what is waited for, and readers that leave.
//! Belongs here: what is seen through a pseudo-terminal or a closed pipe, without root.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::advise::{SOUND, clamped};
use crate::binary::{run_without_rights, tracer};

/// How the line is taken away.
const ERASE: &str = "\r\x1b[K";

/// A pseudo-terminal: what is shown on it, and the end that a process gets.
struct Terminal {
    shown: OwnedFd,
    end: File,
}

impl Terminal {
    fn open() -> Self {
        let shown = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&shown).unwrap();
        unlockpt(&shown).unwrap();
        let name = ptsname(&shown, Vec::new()).unwrap();
        let path = std::ffi::OsStr::from_bytes(name.as_bytes());
        let end = OpenOptions::new().read(true).write(true).open(path).unwrap();
        Self { shown, end }
    }

    /// Runs the command and gives what it wrote to the terminal; `connect` hands it the end.
    fn watch(self, command: &mut Command, connect: impl FnOnce(&mut Command, File)) -> String {
        connect(command, self.end);
        let mut child = command.spawn().unwrap();
        // The last holder of the end is the child, so that reading ends with it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shown = Vec::new();
        let mut reader = File::from(self.shown);
        let mut buffer = [0; 4096];
        loop {
            match reader.read(&mut buffer) {
                // EIO: nobody holds the other end any more.
                Ok(0) | Err(_) => break,
                Ok(len) => shown.extend_from_slice(&buffer[..len]),
            }
        }
        child.wait().unwrap();
        String::from_utf8(shown).unwrap()
    }
}

fn on_stderr(command: &mut Command, end: File) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(end);
}

fn on_stdout(command: &mut Command, end: File) {
    command.stdin(Stdio::null()).stdout(end).stderr(Stdio::null());
}

/// An agent's address that answers once, after a while.
fn slow_agent(delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        thread::sleep(delay);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", SOUND.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(SOUND.as_bytes()).unwrap();
    });
    format!("http://{address}")
}

#[test]
fn a_long_wait_is_shown_on_a_terminal_and_taken_away() {
    let url = slow_agent(Duration::from_millis(2500));
    let shown = Terminal::open().watch(&mut tracer(&["advise", "--from", &url]), on_stderr);
    assert!(shown.starts_with(&format!("{ERASE}asking {url} … ")), "{shown:?}");
    assert!(shown.ends_with(ERASE), "{shown:?}");
    assert!(!shown.contains('\n'), "{shown:?}");
}

#[test]
fn a_short_wait_is_not_shown() {
    let url = slow_agent(Duration::ZERO);
    assert_eq!(Terminal::open().watch(&mut tracer(&["advise", "--from", &url]), on_stderr), "");
}

/// A recording that comes in two parts, with a pause between them.
fn slow_recording() -> io::PipeReader {
    let bytes = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings/experiments.rec")).unwrap();
    let (reader, mut writer) = io::pipe().unwrap();
    thread::spawn(move || {
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        writer.write_all(first).unwrap();
        thread::sleep(Duration::from_millis(2500));
        writer.write_all(rest).unwrap();
    });
    reader
}

#[test]
fn a_long_replay_into_a_file_is_shown_and_what_is_said_stands_on_lines_of_its_own() {
    let shown = Terminal::open().watch(&mut tracer(&["replay", "-"]), |command, end| {
        command.stdin(slow_recording()).stdout(tempfile::tempfile().unwrap()).stderr(end);
    });
    let (before, after) = shown.split_once(ERASE).unwrap();
    assert!(before.starts_with("tracer: recorded by ") && before.ends_with("\r\n"), "{shown:?}");
    assert!(after.starts_with("reading the recording … 1 s"), "{shown:?}");
    let said = after.rsplit(ERASE).next().unwrap();
    assert!(said.starts_with("tracer: ") && said.contains(" shown (") && said.ends_with("\r\n"), "{shown:?}");
}

/// Behind the pipe may be a pager, which has the terminal.
#[test]
fn a_long_replay_into_a_pipe_is_not_shown() {
    let shown = Terminal::open().watch(&mut tracer(&["replay", "-"]), |command, end| {
        command.stdin(slow_recording()).stdout(Stdio::piped()).stderr(end);
    });
    assert!(shown.contains(" shown (") && !shown.contains('\x1b'), "{shown:?}");
}

#[test]
fn where_no_terminal_is_no_wait_is_shown() {
    let url = slow_agent(Duration::from_millis(2500));
    let output = tracer(&["advise", "--from", &url]).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(!output.stdout.contains(&0x1b));
}

/// A command with nothing of the caller's about colours in its environment.
fn with_environment(args: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = tracer(args);
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm").envs(environment.iter().copied());
    command
}

#[test]
fn colours_follow_one_rule_in_help_and_advice() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("metrics.txt");
    fs::write(&file, clamped(312)).unwrap();
    for args in [&["--help"][..], &["advise", "--from", file.to_str().unwrap()]] {
        for (environment, in_pipe, on_terminal) in [
            (&[][..], false, true),
            (&[("NO_COLOR", "1")][..], false, false),
            (&[("NO_COLOR", "")], false, true),
            (&[("CLICOLOR_FORCE", "1")], true, true),
            (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false, false),
            (&[("CLICOLOR", "0")], false, false),
            (&[("TERM", "dumb")], false, false),
        ] {
            let output = with_environment(args, environment).output().unwrap();
            assert!(output.stderr.is_empty(), "{output:?}");
            assert_eq!(output.stdout.contains(&0x1b), in_pipe, "{args:?} {environment:?} in a pipe");
            let shown = Terminal::open().watch(&mut with_environment(args, environment), on_stdout);
            assert_eq!(shown.contains('\x1b'), on_terminal, "{args:?} {environment:?} on a terminal: {shown:?}");
        }
    }
}

#[test]
fn an_error_on_a_terminal_is_plain() {
    let shown = Terminal::open().watch(&mut with_environment(&["run", "--lisen"], &[]), on_stderr);
    assert!(shown.starts_with("tracer: unexpected argument '--lisen'") && !shown.contains('\x1b'), "{shown:?}");
}

/// The other end of the pipe is closed before the command writes, which is the worst that `head` can do.
fn into_nobodys_pipe(command: &mut Command) {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    command.stdout(writer);
}

#[test]
fn a_reader_that_left_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("metrics.txt");
    fs::write(&file, clamped(312)).unwrap();
    let file = file.to_str().unwrap();
    for (args, code) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["metrics-doc"], 0),
        (&["completions", "bash"], 0),
        (&["advise", "--from", file], 2),
        (&["advise", "--output", "json", "--from", file], 2),
    ] {
        let mut command = tracer(args);
        into_nobodys_pipe(&mut command);
        let output = command.output().unwrap();
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(code), &b""[..]), "{args:?}");
    }
    for args in [&["doctor"][..], &["doctor", "--output", "json"]] {
        let output = run_without_rights(args, into_nobodys_pipe);
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(2), &b""[..]), "{args:?}");
    }
}
