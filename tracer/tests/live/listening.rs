//! Listeners that are no TCP socket behind a descriptor: MPTCP sockets, whose first subflow listens, and sockets
//! whose only descriptor is in flight or held by io_uring. They have queues and names as others have, and their rows
//! stay while they listen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::drops::{ACCEPT_QUEUE_FULL_SYN, assert_drops};
use crate::lab::machine::machine;
use crate::lab::netns::Netns;
use crate::lab::rungs::{Drops, Signal};
use crate::lab::script::Script;
use crate::lab::sockets::{Client, Listener};
use crate::lab::uring;
use crate::lab::wait::{equal, until};

const PORT: u16 = 8140;
const SCRAPES: Duration = Duration::from_secs(10);
const RETRIES: Duration = Duration::from_secs(4);
const PASS_INTERVAL: Duration = Duration::from_millis(200);
/// How long rows outlive their listener here.
const RETAIN: Duration = Duration::from_millis(1200);
const SOCKETS: &str = "tracer_tcp_listening_sockets";
const ACCEPTED: &str = "tracer_tcp_accepted_connections_total";

/// Listens on as many MPTCP sockets as it is told, each for five, and accepts from the first one for each line.
const MPTCP: &str = r#"
my ($family, $address, $port, $count) = @ARGV;
$0 = "go-server";
my @listeners;
for (1 .. $count) {
    socket(my $listener, $family == 6 ? PF_INET6 : PF_INET, SOCK_STREAM, 262) or die "socket: $!";
    setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1) or die "SO_REUSEADDR: $!";
    if ($count > 1) { setsockopt($listener, SOL_SOCKET, SO_REUSEPORT, 1) or die "SO_REUSEPORT: $!"; }
    my $to = Socket::inet_pton($family == 6 ? AF_INET6 : AF_INET, $address);
    bind($listener, $family == 6 ? Socket::pack_sockaddr_in6($port, $to) : pack_sockaddr_in($port, $to)) or die "bind: $!";
    listen($listener, 5) or die "listen: $!";
    push @listeners, $listener;
}
print "ready\n";
while (<STDIN>) { accept(my $connection, $listeners[0]) or die "accept: $!"; print "accepted\n"; }
"#;

fn agent() -> Agent {
    Agent::with(PASS_INTERVAL, &["--retain", &format!("{}ms", RETAIN.as_millis())])
}

fn mptcp(netns: &Netns, address: IpAddr, count: u32) -> Script {
    let family = if address.is_ipv6() { "6" } else { "4" };
    Script::start(netns, MPTCP, &[family, &address.to_string(), &PORT.to_string(), &count.to_string()])
}

/// Waits until each of these gauges of the one listener has its value.
fn await_gauges(agent: &Agent, labels: &[(&str, &str)], gauges: &[(&str, f64)]) {
    until("the listener's gauges", SCRAPES, || {
        let scrape = agent.scrape();
        gauges.iter().try_for_each(|(metric, value)| {
            equal(metric, &scrape.one(metric, labels)?, value)
                .map_err(|error| format!("{error}\n{}", scrape.show("", &labels[..1])))
        })
    });
}

/// How many sockets of the namespace listen: those with a known holder, and those without.
fn await_sockets(agent: &Agent, netns: &str, [known, unknown]: [u64; 2]) {
    until("listening sockets", SCRAPES, || {
        let scrape = agent.scrape();
        let count = |holder| scrape.sum(SOCKETS, &[("netns", netns), ("holder", holder)]);
        equal("known and unknown", &[count("known"), count("unknown")], &[known, unknown])
    });
}

/// Whether the kernel has MPTCP. Debian's 5.10 is built without.
fn has_mptcp() -> bool {
    let is_there = std::fs::exists("/proc/sys/net/mptcp/enabled").unwrap();
    assert!(is_there || machine().kernel < (5, 11, 0), "this kernel should have MPTCP");
    is_there
}

/// A full queue of an MPTCP socket as any other, before and after the row would be reaped.
fn is_as_any_other(address: IpAddr, is_older: bool) {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    if !has_mptcp() {
        return;
    }
    let netns = Netns::single();
    let older = is_older.then(|| mptcp(&netns, address, 1));
    let watch = Watch::from_now(&netns);
    let agent = agent();
    let mut server = older.unwrap_or_else(|| mptcp(&netns, address, 1));

    let tells_holders = agent.rungs().tells_holders();
    // The caller of listen() is known to any agent that was there.
    let process = if tells_holders || !is_older { "go-server" } else { "" };
    let shown = address.to_string();
    let inode = watch.inode.clone();
    let name = [("netns", inode.as_str()), ("process", process), ("address", shown.as_str()), ("port", "8140")];
    let to = SocketAddr::from((address, PORT));
    let mut clients = Client::connect_many(&netns, to, 20);
    until("drops", RETRIES, || match watch.delta("ListenDrops") {
        14.. => Ok(()),
        drops => Err(format!("ListenDrops {drops} of 14")),
    });
    let mut gauges = vec![
        ("tracer_tcp_accept_queue_length", 6.0),
        ("tracer_tcp_accept_queue_limit", 5.0),
        ("tracer_tcp_accept_queue_peak", 6.0),
        ("tracer_tcp_listener_sockets", 1.0),
        (ACCEPTED, 6.0),
    ];
    // The table does not tell it, and no program may read the subflow then.
    if !machine().confidential {
        gauges.extend([("tracer_tcp_syn_queue_length", 0.0), ("tracer_tcp_syn_queue_limit", 5.0)]);
    }
    await_gauges(&agent, &name, &gauges);
    await_sockets(&agent, &inode, if tells_holders { [1, 0] } else { [0, 1] });
    if tells_holders || !is_older {
        until("open files", SCRAPES, || agent.scrape().one("tracer_tcp_listener_open_files", &name).map(drop));
    }
    clients.retain_mut(|client| client.result() == Some(Ok(())));
    assert_closes(&agent, &[&watch]);
    let drops = watch.delta("ListenDrops");
    assert_drops(&agent, &name, &[(ACCEPT_QUEUE_FULL_SYN, drops)]);

    // Quiet for longer than a row outlives its listener.
    std::thread::sleep(RETAIN * 2);
    agent.await_two_passes();
    server.tell("", "accepted");
    let late = Client::connect(&netns, to).into_stream();
    await_gauges(&agent, &name, &[("tracer_tcp_listener_sockets", 1.0), (ACCEPTED, 7.0)]);
    assert_closes(&agent, &[&watch]);
    if agent.rungs().drops != Drops::Totals {
        assert_drops(&agent, &name, &[(ACCEPT_QUEUE_FULL_SYN, drops)]);
    }
    drop((clients, late, server));
    until("the end of the row", SCRAPES, || {
        equal("rows", &agent.scrape().rows("tracer_tcp_listener_sockets", &name[..1]).count(), &0)
    });
    assert_closes(&agent, &[&watch]);
}

#[test]
fn mptcp_listener() {
    is_as_any_other(Ipv4Addr::LOCALHOST.into(), false);
}

#[test]
fn mptcp_listener_older_than_the_agent() {
    is_as_any_other(Ipv4Addr::LOCALHOST.into(), true);
}

#[test]
fn mptcp_listener_over_ipv6() {
    is_as_any_other(Ipv6Addr::LOCALHOST.into(), false);
}

#[test]
fn mptcp_listener_over_ipv6_older_than_the_agent() {
    is_as_any_other(Ipv6Addr::LOCALHOST.into(), true);
}

#[test]
fn group_of_mptcp_and_tcp_sockets() {
    let _lab = Lab::enter(&[Signal::ListenerPass]);
    if !has_mptcp() {
        return;
    }
    let netns = Netns::single();
    let group = mptcp(&netns, Ipv4Addr::UNSPECIFIED.into(), 3);
    let agent = agent();
    let inode = netns.inode();
    let name = [("netns", inode.as_str()), ("address", "0.0.0.0"), ("port", "8140")];
    await_gauges(&agent, &name, &[("tracer_tcp_listener_sockets", 3.0)]);
    let plain = Listener::open_shared(&netns, SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)), 5);
    await_sockets(&agent, &inode, if agent.rungs().tells_holders() { [4, 0] } else { [0, 4] });
    drop((group, plain));
    await_sockets(&agent, &inode, [0, 0]);
}

/// A listener to which no descriptor of any process leads any more: its rows stay, and its connections count there.
fn is_seen_without_a_descriptor(hide: impl FnOnce(OwnedFd) -> Box<dyn Send>, flags: &[&str]) {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let retain = format!("{}ms", RETAIN.as_millis());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let listener = Listener::open(&netns, address, 5);
    let agent = Agent::with(PASS_INTERVAL, &[&["--retain", &retain], flags].concat());
    let inode = watch.inode.clone();
    let name = [("netns", inode.as_str()), ("address", "127.0.0.1"), ("port", "8140")];
    await_gauges(&agent, &name, &[("tracer_tcp_listener_sockets", 1.0)]);
    let hidden = hide(listener.into_fd());
    await_sockets(&agent, &inode, [0, 1]);

    std::thread::sleep(RETAIN * 2);
    agent.await_two_passes();
    let clients = Client::connect_many(&netns, address, 7);
    until("the drops", RETRIES, || match watch.delta("ListenDrops") {
        1.. => Ok(()),
        drops => Err(format!("ListenDrops {drops}")),
    });
    await_gauges(
        &agent,
        &name,
        &[
            ("tracer_tcp_listener_sockets", 1.0),
            ("tracer_tcp_accept_queue_length", 6.0),
            ("tracer_tcp_accept_queue_limit", 5.0),
            (ACCEPTED, 6.0),
        ],
    );
    drop(clients);
    assert_closes(&agent, &[&watch]);
    assert_drops(&agent, &name, &[(ACCEPT_QUEUE_FULL_SYN, watch.delta("ListenDrops"))]);
    drop(hidden);
    await_sockets(&agent, &inode, [0, 0]);
}

#[test]
fn descriptor_in_flight() {
    is_seen_without_a_descriptor(|listener| Box::new(uring::in_flight(listener)), &[]);
}

/// Where the kernel cannot be asked for its table, its sockets are walked for what is missing.
#[test]
fn descriptor_in_flight_without_sock_diag() {
    is_seen_without_a_descriptor(|listener| Box::new(uring::in_flight(listener)), &["--disable-hooks", "sock_diag"]);
}

#[test]
fn descriptor_held_by_io_uring() {
    is_seen_without_a_descriptor(|listener| Box::new(uring::registered(listener)), &[]);
}
