//! Network namespaces of a test: made with `ip netns`, entered by threads of their own, removed
//! on drop.
//!
//! Nothing here touches the namespace of the caller: whatever is done inside happens on a thread
//! that entered it and ends there. No descriptor of a namespace is kept.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Addresses of a [`Pair`].
pub(crate) const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
pub(crate) const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
pub(crate) const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1));
pub(crate) const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2));
/// Sources of spoofed packets: routed to the client, which neither owns them nor forwards, so
/// that answers vanish without an ICMP error or a RST.
pub(crate) const SPOOFED_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 0);

/// The interface that joins a [`Pair`], named alike at both ends.
const VETH: &str = "eth0";
/// Locally administered; each pair is alone on its wire.
const CLIENT_MAC: &str = "02:00:00:00:00:01";
const SERVER_MAC: &str = "02:00:00:00:00:02";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with its loopback up.
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    /// A namespace with nothing but loopback.
    pub(crate) fn single() -> Self {
        let name = format!("live{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        checked(Command::new("ip").args(["netns", "add", &name]));
        let netns = Self { name };
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    /// Name under /run/netns.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Inode number: the value of the label `netns`.
    pub(crate) fn inode(&self) -> String {
        std::fs::metadata(self.path()).unwrap().ino().to_string()
    }

    /// Runs `inside` on a thread in this namespace. Sockets made there keep the namespace.
    pub(crate) fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let handle = File::open(self.path()).unwrap();
                move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                drop(handle);
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command inside and fails with its output when it fails.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Output {
        self.run(|| checked(Command::new(program).args(arguments)))
    }

    /// Sets a TCP sysctl of this namespace.
    pub(crate) fn set_tcp(&self, name: &str, value: &str) {
        self.run(|| std::fs::write(sysctl_path(name), value).unwrap());
    }

    /// Sets a TCP sysctl that older kernels do not have; says whether it exists.
    pub(crate) fn try_set_tcp(&self, name: &str, value: &str) -> bool {
        self.run(|| std::fs::write(sysctl_path(name), value).is_ok())
    }

    /// The range that clients' ports are taken from.
    pub(crate) fn ephemeral_ports(&self) -> std::ops::RangeInclusive<u16> {
        let text = self.run(|| std::fs::read_to_string(sysctl_path("ip_local_port_range")).unwrap());
        let bounds: Vec<u16> = text.split_whitespace().map(|bound| bound.parse().unwrap()).collect();
        bounds[0]..=bounds[1]
    }

    /// Lets every packet carry one segment, so that a packet lost is a segment lost.
    pub(crate) fn offloads_off(&self) {
        self.command("ethtool", &["-K", VETH, "tso", "off", "gso", "off", "gro", "off"]);
    }

    /// Gives this end its addresses and tells it where the other end is. Were the neighbour looked
    /// for, the first SYNs would wait and then come all at once, and meet another queue than SYNs
    /// that come one by one.
    fn join(&self, [v4, v6]: [IpAddr; 2], neighbours: [IpAddr; 2], mac: &str) {
        self.ip(&["address", "add", &format!("{v4}/16"), "dev", VETH]);
        // Without `nodad` the address could not be used for the first second.
        self.ip(&["address", "add", &format!("{v6}/64"), "dev", VETH, "nodad"]);
        self.ip(&["link", "set", VETH, "up"]);
        for neighbour in neighbours {
            let address = neighbour.to_string();
            self.ip(&["neighbour", "add", &address, "lladdr", mac, "dev", VETH, "nud", "permanent"]);
        }
    }

    fn ip(&self, arguments: &[&str]) {
        checked(Command::new("ip").args(["-n", &self.name]).args(arguments));
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Best effort: the test's own failure matters more than what is left of its namespace.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Two namespaces joined by veth.
pub(crate) struct Pair {
    /// Owns [`CLIENT_V4`] and [`CLIENT_V6`].
    pub(crate) client: Netns,
    /// Owns [`SERVER_V4`] and [`SERVER_V6`].
    pub(crate) server: Netns,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let pair = Self { client: Netns::single(), server: Netns::single() };
        let (client, server) = (&pair.client, &pair.server);
        let peer = ["peer", "name", VETH, "address", SERVER_MAC, "netns", server.name()];
        client.ip(&[&["link", "add", VETH, "address", CLIENT_MAC, "type", "veth"], &peer[..]].concat());
        client.join([CLIENT_V4, CLIENT_V6], [SERVER_V4, SERVER_V6], SERVER_MAC);
        server.join([SERVER_V4, SERVER_V6], [CLIENT_V4, CLIENT_V6], CLIENT_MAC);
        pair.server.ip(&["route", "add", &format!("{SPOOFED_V4}/16"), "via", &CLIENT_V4.to_string()]);
        pair
    }
}

fn sysctl_path(name: &str) -> String {
    format!("/proc/sys/net/ipv4/{name}")
}

fn checked(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}
