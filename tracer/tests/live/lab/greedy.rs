//! A server that accepts until it has no descriptor left: a perl process under a soft limit of its own, as
//! its unit or its shell would have set it.

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddrV4;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::netns::Netns;
use super::setting::patient;

/// Outlasts any test; ends what a test leaves behind that was killed.
const LIFE: Duration = Duration::from_mins(2);

/// Accepts and keeps connections until that fails, says how many and why, and goes on listening.
const SCRIPT: &str = r#"
use strict; use Socket;
my ($name, $address, $port, $backlog, $life_s) = @ARGV;
$0 = $name;
alarm $life_s;
socket(my $listener, PF_INET, SOCK_STREAM, 6) or die "socket: $!";
setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1) or die "SO_REUSEADDR: $!";
bind($listener, pack_sockaddr_in($port, inet_aton($address))) or die "bind: $!";
listen($listener, $backlog) or die "listen: $!";
$| = 1; print "listening\n";
my @held;
while (accept(my $connection, $listener)) { push @held, $connection; }
print scalar(@held), " ", $! + 0, "\n";
<STDIN>;
"#;

/// The running server.
pub(crate) struct GreedyServer {
    child: Child,
    stdin: Option<ChildStdin>,
    end: Receiver<(usize, i32)>,
}

impl GreedyServer {
    /// Starts the server, which may have `nofile` descriptors, and returns once it listens.
    pub(crate) fn start(netns: &Netns, process: &str, address: SocketAddrV4, backlog: u32, nofile: u64) -> Self {
        let mut child = netns.run(|| {
            Command::new("sh")
                .args(["-c", r#"ulimit -S -n "$0" && exec perl -e "$@""#, &nofile.to_string(), SCRIPT, process])
                .args([address.ip().to_string(), address.port().to_string(), backlog.to_string()])
                .arg(patient(LIFE).as_secs().to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let stdin = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "listening", "the greedy server did not start");
        Self { child, stdin, end: last_words(lines) }
    }

    /// How many connections it took and which error stopped it, once it did.
    pub(crate) fn stopped(&self) -> Option<(usize, i32)> {
        self.end.try_recv().ok()
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

impl Drop for GreedyServer {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Fails only if it was waited for before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the line about the end on a thread of its own.
fn last_words(mut lines: Lines<BufReader<ChildStdout>>) -> Receiver<(usize, i32)> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        if let Some(Ok(line)) = lines.next() {
            let (held, error) = line.split_once(' ').unwrap();
            // Nobody waits any more if the test is over.
            let _ = sender.send((held.parse().unwrap(), error.parse().unwrap()));
        }
    });
    receiver
}
