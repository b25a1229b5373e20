//! Very many listeners and very many owners: processes that listen on thousands of ports, and one
//! process that goes from cgroup to cgroup and tries to connect from each.
//!
//! Perl scripts as in [`super::foreign`]. Everything ends with the value that stands for it.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::cgroup;
use super::netns::Netns;
use super::setting::patient;

/// Outlasts any test; ends what a test leaves behind that was killed.
const LIFE: Duration = Duration::from_mins(5);

/// Descriptors beside those of listeners.
const FURTHER_DESCRIPTORS: u16 = 100;

/// Listens on ports in a row until its stdin closes or its time is up.
const LISTEN: &str = r#"
use strict; use Socket;
my ($address, $first, $count, $backlog, $life_s) = @ARGV;
$0 = "herd"; alarm $life_s;
my @listeners;
for my $port ($first .. $first + $count - 1) {
    socket(my $listener, PF_INET, SOCK_STREAM, 6) or die "socket: $!";
    bind($listener, pack_sockaddr_in($port, inet_aton($address))) or die "bind: $!";
    listen($listener, $backlog) or die "listen: $!";
    push @listeners, $listener;
}
$| = 1; print "listening\n";
<STDIN>;
"#;

/// Enters one cgroup after the other and connects from each; dies if a connection is made. Goes back to where it
/// came from, so that the cgroups can be removed.
const WANDER: &str = r#"
use strict; use Socket;
my ($cgroups, $first, $end, $address, $port, $home, $life_s) = @ARGV;
$0 = "wanderer"; alarm $life_s;
sub enter { my ($cgroup) = @_; open(my $procs, ">", "$cgroup/cgroup.procs") or die "$cgroup: $!"; print $procs $$; close($procs) or die "$cgroup: $!"; }
for my $number ($first .. $end - 1) {
    enter("$cgroups/owner-$number.service");
    socket(my $client, PF_INET, SOCK_STREAM, 6) or die "socket: $!";
    die "somebody listens" if connect($client, pack_sockaddr_in($port, inet_aton($address)));
    die "connect: $!" unless $!{ECONNREFUSED};
}
enter($home);
"#;

/// A process that listens on many ports.
pub(crate) struct Herd {
    child: Child,
    stdin: Option<ChildStdin>,
    address: Ipv4Addr,
    ports: Range<u16>,
}

impl Herd {
    /// Starts the process and returns once it listens on `count` ports.
    pub(crate) fn start(netns: &Netns, address: Ipv4Addr, first: u16, count: u16, backlog: u16) -> Self {
        let descriptors = count + FURTHER_DESCRIPTORS;
        let mut child = netns.run(|| {
            Command::new("sh")
                .args(["-c", &format!("ulimit -n {descriptors} && exec perl -e \"$0\" \"$@\""), LISTEN])
                .args([address.to_string(), first.to_string(), count.to_string(), backlog.to_string()])
                .arg(patient(LIFE).as_secs().to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let stdin = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n", "the listeners did not start");
        Self { child, stdin, address, ports: first..first + count }
    }

    /// Where it listens.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.ports.clone().map(|port| SocketAddr::from((self.address, port)))
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Cgroups of the v2 hierarchy with the names of systemd's services, removed at the end.
pub(crate) struct Cgroups {
    root: PathBuf,
    /// Where processes come from and go back to: the hierarchy's root.
    home: PathBuf,
    count: usize,
}

impl Cgroups {
    pub(crate) fn make(count: usize) -> Self {
        let home = cgroup::root();
        let root = home.join(format!("live{}.slice", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        // From here on what was made is removed, whatever happens.
        let mut cgroups = Self { root, home, count: 0 };
        for number in 0..count {
            std::fs::create_dir(cgroups.path(number)).unwrap();
            cgroups.count += 1;
        }
        cgroups
    }

    fn path(&self, number: usize) -> PathBuf {
        self.root.join(format!("owner-{number}.service"))
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for number in 0..self.count {
            let _ = std::fs::remove_dir(self.path(number));
        }
        if let Err(error) = std::fs::remove_dir(&self.root) {
            eprintln!("could not remove {}: {error}", self.root.display());
        }
    }
}

/// A process that connects in vain from one cgroup after the other.
pub(crate) struct Wanderer<'a> {
    pub(crate) netns: &'a Netns,
    pub(crate) cgroups: &'a Cgroups,
    pub(crate) to: SocketAddr,
}

impl Wanderer<'_> {
    /// Connects once from each of these cgroups; returns how many they are.
    pub(crate) fn visit(&self, owners: Range<usize>) -> usize {
        let status = self.netns.run(|| {
            Command::new("perl")
                .args(["-MErrno", "-e", WANDER])
                .arg(&self.cgroups.root)
                .args([owners.start.to_string(), owners.end.to_string()])
                .args([self.to.ip().to_string(), self.to.port().to_string()])
                .arg(&self.cgroups.home)
                .arg(patient(LIFE).as_secs().to_string())
                .status()
                .unwrap()
        });
        assert!(status.success(), "the process that connects: {status}");
        owners.len()
    }
}
