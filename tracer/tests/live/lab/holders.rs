//! A service in processes of its own that holds connections to itself: it accepts them, and by choice
//! lets other processes hold them as well. It never closes what its peer has shut down.
//!
//! A perl script, as in [`super::foreign`].

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::machine::machine;
use super::netns::Netns;
use super::setting::patient;

/// Outlasts any test; ends what a test leaves behind that was killed.
const LIFE: Duration = Duration::from_mins(1);

/// Holds until its stdin closes or its time is up. The children have the same stdin.
const SCRIPT: &str = r#"
use strict; use Socket;
my ($cgroup, $port, $count, $shut, $forks, $clone, $life_s) = @ARGV;
if ($cgroup) { open(my $procs, ">", "$cgroup/cgroup.procs") or die "cgroup: $!"; print $procs $$; close($procs) or die "cgroup: $!"; }
alarm $life_s;
my $to = pack_sockaddr_in($port, inet_aton("127.0.0.1"));
socket(my $listener, PF_INET, SOCK_STREAM, 6) or die "socket: $!";
setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1) or die "SO_REUSEADDR: $!";
bind($listener, $to) or die "bind: $!";
listen($listener, 128) or die "listen: $!";
my @held;
for (1 .. $count) {
    socket(my $client, PF_INET, SOCK_STREAM, 6) or die "socket: $!";
    connect($client, $to) or die "connect: $!";
    accept(my $server, $listener) or die "accept: $!";
    shutdown($client, 1) if $shut;
    push @held, $client, $server;
}
my @copies = map { open(my $copy, "+<&", $_) or die "dup: $!"; $copy } @held[0 .. ($forks ? 9 : -1)];
for (1 .. $forks) { my $pid = fork(); die "fork: $!" unless defined $pid; if (!$pid) { alarm $life_s; <STDIN>; exit 0; } }
if ($clone) {
    # CLONE_FILES | SIGCHLD: a process with the same table of files.
    my $pid = syscall($clone, 0x400 | 17, 0, 0, 0, 0);
    die "clone: $!" if $pid < 0;
    if (!$pid) { alarm $life_s; <STDIN>; exit 0; }
}
$| = 1; print "holding\n";
<STDIN>;
"#;

/// What the service does.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// Directory of the cgroup that it enters first; empty = that of the test.
    pub(crate) cgroup: &'a str,
    pub(crate) port: u16,
    /// Connections, of which it holds both ends.
    pub(crate) connections: u32,
    /// Whether the clients' ends say that they are done.
    pub(crate) shut: bool,
    /// Forked processes that hold copies of all descriptors; with any, ten are duplicated as well.
    pub(crate) forks: u32,
    /// Whether one more process uses the same table of descriptors.
    pub(crate) shares_table: bool,
}

/// The running service.
pub(crate) struct Holders {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Holders {
    /// Starts the service and returns once all is held.
    pub(crate) fn start(netns: &Netns, plan: &Plan<'_>) -> Self {
        let clone = match machine().architecture {
            _ if !plan.shares_table => 0,
            "x86_64" => 56,
            "aarch64" => 220,
            other => panic!("the number of clone() on {other} is not known"),
        };
        let flags = [u32::from(plan.port), plan.connections, plan.shut.into(), plan.forks, clone];
        let mut child = netns.run(|| {
            Command::new("perl")
                .args(["-e", SCRIPT, plan.cgroup])
                .args(flags.map(|flag| flag.to_string()))
                .arg(patient(LIFE).as_secs().to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let stdin = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let holders = Self { child, stdin };
        assert_eq!(line, "holding\n", "the service on {}:{} did not start", Ipv4Addr::LOCALHOST, plan.port);
        holders
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        // All of its processes read this pipe, and end with it.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
