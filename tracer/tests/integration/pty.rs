//! A pseudo-terminal with the binary on it, as a user has it: keys go in, and what comes out is what a terminal
//! would show. Belongs here: the terminal; what the binary shows is in the tests.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

/// A busy machine takes its time.
const LIMIT: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(20);

/// What came out so far.
struct Output {
    parser: vt100::Parser,
    bytes: Vec<u8>,
}

/// The binary on a terminal of its own; killed on drop.
pub struct Terminal {
    child: Child,
    master: File,
    /// Held, so that what the binary left can be asked after its end.
    slave: OwnedFd,
    before: LocalModes,
    output: Arc<Mutex<Output>>,
}

fn winsize(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    /// Starts the binary on a terminal of this size, as `ssh -t` does: in a session of its own, where no shell waits.
    pub fn start(args: &[&str], size: (u16, u16), configure: impl FnOnce(&mut Command)) -> Self {
        // Without a session of its own the binary would not hear of a new size.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(cargo_bin!("tracer"));
        Self::run(command, args, size, configure)
    }

    /// Starts it as a job of this process, which is a shell to it: a process group of its own in the same session.
    pub fn start_job(args: &[&str], size: (u16, u16)) -> Self {
        Self::run(Command::new(cargo_bin!("tracer")), args, size, |command| _ = command.process_group(0))
    }

    fn run(
        mut command: Command,
        args: &[&str],
        (columns, rows): (u16, u16),
        configure: impl FnOnce(&mut Command),
    ) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        tcsetwinsize(&slave, winsize(columns, rows)).unwrap();
        let before = tcgetattr(&slave).unwrap().local_modes;
        command.args(args).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let end = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        configure(&mut command);
        let child = command.spawn().unwrap();
        let parser = vt100::Parser::new(rows.try_into().unwrap(), columns.try_into().unwrap(), 0);
        let output = Arc::new(Mutex::new(Output { parser, bytes: Vec::new() }));
        let master = File::from(master);
        let (mut source, sink) = (master.try_clone().unwrap(), Arc::clone(&output));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // It ends with an error once nobody holds the other end: the binary has left, and this terminal is gone.
            while let Ok(read @ 1..) = source.read(&mut buffer) {
                let mut output = sink.lock().unwrap();
                output.parser.process(&buffer[..read]);
                output.bytes.extend_from_slice(&buffer[..read]);
            }
        });
        Self { child, master, slave, before, output }
    }

    /// Types.
    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Drags the window's corner.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        self.output.lock().unwrap().parser.screen_mut().set_size(rows.try_into().unwrap(), columns.try_into().unwrap());
        tcsetwinsize(&self.master, winsize(columns, rows)).unwrap();
    }

    /// What is seen.
    pub fn screen(&self) -> String {
        self.output.lock().unwrap().parser.screen().contents()
    }

    /// All bytes so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.output.lock().unwrap().bytes.clone()
    }

    /// Waits until the screen is as it should be, and gives it.
    #[track_caller]
    pub fn until(&mut self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let limit = Instant::now() + LIMIT;
        loop {
            let screen = self.screen();
            if is_so(&screen) {
                return screen;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < limit, "{what}: {ended:?}, on the screen:\n{screen}");
            thread::sleep(PAUSE);
        }
    }

    /// Waits until the bytes so far are as they should be.
    #[track_caller]
    pub fn until_bytes(&self, what: &str, is_so: impl Fn(&[u8]) -> bool) {
        let limit = Instant::now() + LIMIT;
        while !is_so(&self.bytes()) {
            assert!(Instant::now() < limit, "{what}; on the screen:\n{}", self.screen());
            thread::sleep(PAUSE);
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the process is stopped.
    #[track_caller]
    pub fn until_stopped(&mut self) {
        let stat = format!("/proc/{}/stat", self.child.id());
        let state = || fs::read_to_string(&stat).unwrap().rsplit_once(") ").unwrap().1.starts_with('T');
        let limit = Instant::now() + LIMIT;
        while !state() {
            assert!(Instant::now() < limit, "it does not stop; on the screen:\n{}", self.screen());
            thread::sleep(PAUSE);
        }
    }

    /// The terminal must be as it was before the start.
    #[track_caller]
    pub fn assert_restored(&self) {
        assert_eq!(tcgetattr(&self.slave).unwrap().local_modes, self.before, "keys are read as before");
        self.until_restored(Instant::now() + LIMIT);
    }

    /// Sets the terminal and writes on it as a shell does that has got it.
    pub fn as_a_shell_has_it(&mut self) {
        let mut modes = tcgetattr(&self.slave).unwrap();
        modes.local_modes = self.before;
        tcsetattr(&self.slave, OptionalActions::Now, &modes).unwrap();
        File::from(self.slave.try_clone().unwrap()).write_all(b"\r\n[1]+  Stopped\r\n$ fg\r\n").unwrap();
    }

    /// Waits for the end. The terminal must be as it was, and what stays on it is given back.
    #[track_caller]
    pub fn end(mut self) -> (ExitStatus, String) {
        let limit = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < limit, "it does not end; on the screen:\n{}", self.screen());
            thread::sleep(PAUSE);
        };
        self.assert_restored();
        (status, self.screen())
    }

    #[track_caller]
    fn until_restored(&self, limit: Instant) {
        loop {
            let output = self.output.lock().unwrap();
            let screen = output.parser.screen();
            let (alternate, hidden) = (screen.alternate_screen(), screen.hide_cursor());
            drop(output);
            if !alternate && !hidden {
                return;
            }
            assert!(Instant::now() < limit, "left behind: other screen {alternate}, no cursor {hidden}");
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
