//! Full SYN queues: `tcp_syncookies` 0, 1 and 2, a small `tcp_max_syn_backlog`, spoofed SYNs that
//! nobody answers for. Each reason equals the kernel's counter for it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::{Closing, assert_closes};
use crate::lab::counters::Watch;
use crate::lab::drops::{ACCEPT_QUEUE_FULL_ACK, ACCEPT_QUEUE_FULL_SYN, OTHER, SYN_QUEUE_FULL, assert_drops, drops_are};
use crate::lab::firewall::Firewall;
use crate::lab::machine::machine;
use crate::lab::netns::{Netns, Pair, SERVER_V4, SERVER_V6};
use crate::lab::raw::{RawSender, SYN, spoofed};
use crate::lab::results::note_difference;
use crate::lab::rungs::{Drops, Signal};
use crate::lab::sockets::{Client, Listener, SYN_RECV, TIME_WAIT, servers_in_state};
use crate::lab::wait::{equal, until};

const PORT: u16 = 8084;
const LIMIT: Duration = Duration::from_secs(5);
/// In this time each request expires about four times.
const EDGE_TIME: Duration = Duration::from_secs(4);
/// Drops the SYN-ACKs before the clients get them.
const SYN_ACKS_LOST: &str = "tcp flags & (syn | ack) == syn | ack drop";

/// Two namespaces with the server's SYN-queue settings made.
fn pair(syncookies: &str, max_syn_backlog: &str) -> Pair {
    let pair = Pair::new();
    pair.server.set_tcp("tcp_syncookies", syncookies);
    pair.server.set_tcp("tcp_max_syn_backlog", max_syn_backlog);
    // Requests of sources that never answer go after one second without being sent again.
    pair.server.set_tcp("tcp_synack_retries", "0");
    pair
}

fn server() -> (SocketAddr, SocketAddrV4) {
    let IpAddr::V4(address) = SERVER_V4 else { panic!("an IPv4 address expected") };
    (SocketAddr::from((address, PORT)), SocketAddrV4::new(address, PORT))
}

/// What the listener's rows say: SYN queue full, accept queue full at SYN, other.
fn reasons_are(agent: &Agent, watch: &Watch<'_>, [syn_queue, accept_queue, other]: [u64; 3]) -> Result<(), String> {
    let expected = [(SYN_QUEUE_FULL, syn_queue), (ACCEPT_QUEUE_FULL_SYN, accept_queue), (OTHER, other)];
    drops_are(agent, &[("netns", &watch.inode), ("port", "8084")], &expected)
}

#[track_caller]
fn assert_reasons(agent: &Agent, watch: &Watch<'_>, expected: [u64; 3]) {
    reasons_are(agent, watch, expected).unwrap_or_else(|error| panic!("{error}\n{}", agent.log()));
}

/// A client that is turned away may come again between the two readings.
#[track_caller]
fn assert_reasons_are_the_kernels(agent: &Agent, watch: &Watch<'_>) {
    until("the reasons", LIMIT, || reasons_are(agent, watch, by_kernel(watch).0));
}

/// The kernel's counters for the same, and all drops.
fn by_kernel(watch: &Watch<'_>) -> ([u64; 3], u64) {
    let [syn_queue, overflows, drops] =
        ["TCPReqQFullDrop", "ListenOverflows", "ListenDrops"].map(|name| watch.delta(name));
    ([syn_queue, overflows, drops - syn_queue - overflows], drops)
}

/// How many requests this kernel queues for a listener with this backlog.
fn room(backlog: u16) -> u64 {
    machine().syn_queue_room(backlog).into()
}

/// Ten spoofed SYNs to a listener with a backlog of 4.
fn ten_syns(syncookies: &str) -> ([u64; 3], u64) {
    let pair = pair(syncookies, "2048");
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let (address, to) = server();
    let _listener = Listener::open(&pair.server, address, 4);
    RawSender::open(&pair.client).flood(to, 10);
    assert_closes(&agent, &[&watch]);
    assert_reasons_are_the_kernels(&agent, &watch);
    (by_kernel(&watch).0, watch.delta("TCPReqQFullDoCookies"))
}

#[test]
fn without_cookies_the_queue_drops() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    assert_eq!(ten_syns("0"), ([10 - room(4), 0, 0], 0));
}

#[test]
fn with_cookies_nothing_is_dropped() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    assert_eq!(ten_syns("1"), ([0, 0, 0], 10 - room(4)));
}

#[test]
fn with_cookies_always_nothing_is_dropped() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    assert_eq!(ten_syns("2"), ([0, 0, 0], 10));
}

#[test]
fn unproven_sources_are_pruned() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = pair("0", "8");
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let (address, to) = server();
    let _listener = Listener::open(&pair.server, address, 64);
    RawSender::open(&pair.client).flood(to, 12);
    // A quarter of the eight is kept for sources that were seen before.
    assert_eq!(servers_in_state(&pair.server, PORT, SYN_RECV), 7);
    assert_closes(&agent, &[&watch]);
    assert_eq!(by_kernel(&watch), ([0, 0, 5], 5));
    assert_reasons(&agent, &watch, [0, 0, 5]);
}

/// Fills the accept queue with 5 and the SYN queue to its limit, shrinks both to 4, sends 6 more SYNs.
fn both_queues_full(syncookies: &str) -> ([u64; 3], u64) {
    let pair = pair(syncookies, "2048");
    // The requests must stay while the test looks.
    pair.server.set_tcp("tcp_synack_retries", "5");
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let (address, to) = server();
    let listener = Listener::open(&pair.server, address, 9);
    let queued: Vec<_> = Client::connect_many(&pair.client, address, 5).into_iter().map(Client::into_stream).collect();
    let raw = RawSender::open(&pair.client);
    let room = machine().syn_queue_room(9);
    raw.flood(to, room);
    assert_eq!(servers_in_state(&pair.server, PORT, SYN_RECV), usize::from(room));
    listener.listen_again(4);
    for number in room..room + 6 {
        raw.send(spoofed(number), to, SYN);
    }
    assert_closes(&agent, &[&watch]);
    assert_reasons_are_the_kernels(&agent, &watch);
    // Document 002: spoofed SYNs pile up in SYN_RECV.
    let labels = [("netns", watch.inode.as_str()), ("port", "8084")];
    let gauge = |metric| agent.scrape().one(metric, &labels);
    assert_eq!(gauge("tracer_tcp_syn_queue_length"), Ok(f64::from(room)));
    assert_eq!(gauge("tracer_tcp_syn_queue_limit"), Ok(4.0));
    drop(queued);
    by_kernel(&watch)
}

#[test]
fn without_cookies_the_syn_queue_comes_first() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    assert_eq!(both_queues_full("0"), ([6, 0, 0], 6));
}

#[test]
fn with_cookies_the_accept_queue_decides() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    assert_eq!(both_queues_full("1"), ([0, 6, 0], 6));
}

/// Both queues are full, and clients come again from the ports of connections that the server has in TIME_WAIT. From 6.10
/// on the kernel asks no SYN queue then, so that the accept queue turns them away.
#[test]
fn syns_that_meet_time_wait_skip_the_syn_queue() {
    const PORTS: RangeInclusive<u16> = 7101..=7103;
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = pair("0", "2048");
    // The requests must stay while the test looks.
    pair.server.set_tcp("tcp_synack_retries", "5");
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let (address, to) = server();
    let listener = Listener::open(&pair.server, address, 9);
    for client in Client::connect_from(&pair.client, PORTS, address) {
        let mut client = client.into_stream();
        drop(listener.accept_stream());
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "the server closes first");
    }
    until("TIME_WAIT", LIMIT, || equal("sockets", &servers_in_state(&pair.server, PORT, TIME_WAIT), &3));
    let queued: Vec<_> = Client::connect_many(&pair.client, address, 5).into_iter().map(Client::into_stream).collect();
    let room = machine().syn_queue_room(9);
    RawSender::open(&pair.client).flood(to, room);
    assert_eq!(servers_in_state(&pair.server, PORT, SYN_RECV), usize::from(room));
    listener.listen_again(4);
    // Closed clients do not send their SYNs again: by then nothing is in TIME_WAIT any more.
    drop(Client::connect_from(&pair.client, PORTS, address));
    let skips = machine().kernel >= (6, 10, 0);
    let expected = (if skips { [0, 3, 0] } else { [3, 0, 0] }, 3);
    until("the kernel's counts", LIMIT, || equal("drops", &by_kernel(&watch), &expected));
    if skips && agent.rungs().drops == Drops::Packets {
        // Packets do not show what their SYN met, so the SYN queue gets the blame.
        Closing::of(&agent, &[&watch]).without("listen_overflows").without("syn_queue_full_drops").check();
        assert_reasons(&agent, &watch, [3, 0, 0]);
        note_difference("listen_overflows", 3);
        note_difference("syn_queue_full_drops", -3);
    } else {
        assert_closes(&agent, &[&watch]);
        assert_reasons_are_the_kernels(&agent, &watch);
    }
    drop(queued);
}

#[test]
fn cookies_always_and_a_full_accept_queue() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = pair("2", "2048");
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let (address, to) = server();
    let _listener = Listener::open(&pair.server, address, 4);
    // Each of these handshakes completes by its cookie.
    let queued: Vec<_> = Client::connect_many(&pair.client, address, 5).into_iter().map(Client::into_stream).collect();
    assert_eq!(watch.delta("SyncookiesRecv"), 5);
    RawSender::open(&pair.client).flood(to, 10);
    assert_closes(&agent, &[&watch]);
    assert_eq!(by_kernel(&watch), ([0, 10, 0], 10));
    assert_reasons(&agent, &watch, [0, 10, 0]);
    drop(queued);
}

#[test]
fn cookie_acks_meet_a_full_accept_queue() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    cookie_acks_meet_a_full_queue_of(Listener::open);
}

/// A group keeps the time of its last cookie for all its sockets.
#[test]
fn cookie_acks_meet_a_full_accept_queue_of_a_reuseport_group() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    cookie_acks_meet_a_full_queue_of(Listener::open_shared);
}

fn cookie_acks_meet_a_full_queue_of(open: fn(&Netns, SocketAddr, i32) -> Listener) {
    let pair = pair("2", "2048");
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let (address, _) = server();
    let listener = open(&pair.server, address, 9);
    // Ten hold their cookies' ACKs back while six of them could be queued.
    let firewall = Firewall::install(&pair.client, "output", "tcp flags & (syn | ack) == ack drop");
    let mut late: Vec<_> =
        Client::connect_many(&pair.client, address, 10).into_iter().map(Client::into_stream).collect();
    drop(firewall);
    let queued: Vec<_> = Client::connect_many(&pair.client, address, 5).into_iter().map(Client::into_stream).collect();
    listener.listen_again(4);
    // Data carries the ACK that was held; the queue of 4 holds 5.
    for stream in &mut late {
        stream.write_all(b"x").unwrap();
    }
    let firewall = Firewall::install(&pair.client, "output", "tcp flags & (syn | ack) == ack drop");
    assert_closes(&agent, &[&watch]);
    assert!(watch.delta("ListenOverflows") >= 10);
    assert_eq!(watch.delta("ListenDrops"), watch.delta("ListenOverflows"));
    assert_drops(&agent, &[("netns", &watch.inode)], &[(ACCEPT_QUEUE_FULL_ACK, watch.delta("ListenDrops"))]);
    drop((firewall, late, queued));
}

#[test]
fn queue_of_an_ipv6_listener_without_cookies() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = pair("0", "2048");
    pair.server.set_tcp("tcp_synack_retries", "5");
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let address = SocketAddr::from((SERVER_V6, PORT));
    let _listener = Listener::open(&pair.server, address, 4);
    // Clients that never hear of their SYN-ACKs stay in the SYN queue.
    let firewall = Firewall::install(&pair.client, "input", SYN_ACKS_LOST);
    let clients = Client::connect_many(&pair.client, address, 10);
    assert_eq!(servers_in_state(&pair.server, PORT, SYN_RECV), usize::from(machine().syn_queue_room(4)));
    // Closed clients do not send their SYNs again. A minute later these would meet a queue from which requests expire,
    // which is what the next test is about.
    drop(clients);
    let drops = 10 - room(4);
    assert_eq!(by_kernel(&watch), ([drops, 0, 0], drops));
    assert_closes(&agent, &[&watch]);
    assert_reasons_are_the_kernels(&agent, &watch);
    drop(firewall);
}

/// Requests go and others come on two processors while SYNs are turned away: between a look at the queue and the
/// kernel's own another one may have come.
#[test]
fn edge_of_the_queue_of_an_ipv6_listener_without_cookies() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    // A request expires after one second.
    let pair = pair("0", "2048");
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let address = SocketAddr::from((SERVER_V6, PORT));
    let _listener = Listener::open(&pair.server, address, 4);
    let firewall = Firewall::install(&pair.client, "input", SYN_ACKS_LOST);
    let deadline = Instant::now() + EDGE_TIME;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                pair.client.run(|| {
                    while Instant::now() < deadline {
                        drop(Client::connect_here(address));
                    }
                });
            });
        }
    });
    Closing::at_the_edge(&agent, &[&watch]).check();
    assert!(watch.delta("TCPReqQFullDrop") > 100);
    assert_eq!(watch.delta("ListenDrops"), watch.delta("TCPReqQFullDrop"));
    drop(firewall);
}
