//! A listener in a process of its own, under a name of its own, started inside a namespace.
//!
//! It is a perl script, because perl-base is essential on Debian, and setting `$0` sets `comm`.

use std::io::{BufRead, BufReader};
use std::net::SocketAddrV4;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::netns::Netns;
use super::setting::patient;

/// Outlasts any test; ends what a test leaves behind that was killed.
const LIFE: Duration = Duration::from_mins(1);

/// Listens until its stdin closes or its time is up.
const SCRIPT: &str = r#"
use strict; use Socket;
my ($name, $address, $port, $backlog, $defer_s, $life_s, $cgroup) = @ARGV;
$0 = $name;
if ($cgroup) { open(my $procs, ">", "$cgroup/cgroup.procs") or die "cgroup: $!"; print $procs $$; close($procs) or die "cgroup: $!"; }
alarm $life_s;
socket(my $listener, PF_INET, SOCK_STREAM, 6) or die "socket: $!";
setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1) or die "SO_REUSEADDR: $!";
setsockopt($listener, 6, 9, pack("i", $defer_s)) or die "TCP_DEFER_ACCEPT: $!" if $defer_s;
bind($listener, pack_sockaddr_in($port, inet_aton($address))) or die "bind: $!";
listen($listener, $backlog) or die "listen: $!";
$| = 1; print "listening\n";
<STDIN>;
"#;

/// What the process is and does.
pub(crate) struct Plan<'a> {
    /// Its `comm`, at most 15 bytes.
    pub(crate) process: &'a str,
    pub(crate) address: SocketAddrV4,
    pub(crate) backlog: u32,
    /// `TCP_DEFER_ACCEPT` in seconds; 0 = not set.
    pub(crate) defer_accept_s: u32,
    /// Directory of the cgroup that it enters first; empty = that of the test.
    pub(crate) cgroup: &'a str,
}

/// The running process.
pub(crate) struct ForeignListener {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl ForeignListener {
    /// Starts the process and returns once it listens.
    pub(crate) fn start(netns: &Netns, plan: &Plan<'_>) -> Self {
        let mut child = netns.run(|| {
            Command::new("perl")
                .args(["-e", SCRIPT, plan.process, &plan.address.ip().to_string()])
                .args([plan.address.port().to_string(), plan.backlog.to_string(), plan.defer_accept_s.to_string()])
                .args([&patient(LIFE).as_secs().to_string(), plan.cgroup])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let stdin = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n", "the foreign listener did not start");
        Self { child, stdin }
    }

    /// Lets the process exit and waits for it.
    pub(crate) fn exit(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.stdin.take());
        // Fails only if it was waited for before.
        let _ = self.child.wait();
    }
}

impl Drop for ForeignListener {
    fn drop(&mut self) {
        self.end();
    }
}
