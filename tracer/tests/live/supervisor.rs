//! What a service manager hears of the agent, over a real notification socket: ready once it is, alive while
//! passes go on, stopping when it is told to.

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::Lab;
use crate::lab::setting::{agent_command, patient};

const LIMIT: Duration = Duration::from_secs(30);
/// A quarter of it passes between two signs of life.
const WATCHDOG: Duration = Duration::from_secs(2);

/// An agent with a service manager; killed on drop.
struct Supervised {
    child: Child,
    socket: UnixDatagram,
    _directory: tempfile::TempDir,
}

impl Supervised {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(patient(LIMIT))).unwrap();
        let child = agent_command()
            .args(["run", "--listen", "127.0.0.1:0", "--pass-interval", "200ms"])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, socket, _directory: directory }
    }

    /// The next message.
    fn heard(&self) -> String {
        let mut message = [0; 1024];
        let length = self.socket.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status code of a GET.
fn get(address: &str, path: &str) -> u16 {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn ready_alive_and_stopping_are_told() {
    let _lab = Lab::enter(&[]);
    let mut agent = Supervised::start();

    // The first thing that is heard, and true when it is.
    let ready = agent.heard();
    let status = ready.strip_prefix("READY=1\nSTATUS=http://").unwrap_or_else(|| panic!("{ready:?}"));
    let address = status.split_once("/metrics; ").unwrap().0.to_owned();
    assert_eq!(get(&address, "/readyz"), 200);
    assert!(status.trim_end().contains(" signals by their best hook"), "{status}");

    let since = Instant::now();
    for _ in 0..4 {
        assert_eq!(agent.heard(), "WATCHDOG=1\n");
    }
    // Four signs and no more in the time that one is due in.
    assert!(since.elapsed() >= WATCHDOG / 2, "{:?}", since.elapsed());

    kill_process(Pid::from_raw(i32::try_from(agent.child.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    let stopping = std::iter::repeat_with(|| agent.heard()).find(|message| message != "WATCHDOG=1\n").unwrap();
    assert!(stopping.starts_with("STOPPING=1\nSTATUS="), "{stopping:?}");
    assert!(agent.child.wait().unwrap().success());
}
