//! What a listener discards without dropping a handshake: none of it may count as a drop.
//!
//! All of these raise `sk_drops`, or leave a packet without an answer, which is what a careless
//! hook would count.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::firewall::Firewall;
use crate::lab::foreign::{ForeignListener, Plan};
use crate::lab::netns::{CLIENT_V4, Pair, SERVER_V4};
use crate::lab::raw::{ACK, FIN, RawSender};
use crate::lab::rungs::Signal;
use crate::lab::sockets::{Client, Listener, SYN_RECV, servers_in_state};
use crate::lab::wait::{equal, until};

const PORT: u16 = 8081;
/// A port that nobody listens on.
const CALLED_PORT: u16 = 8100;
const LIMIT: Duration = Duration::from_secs(5);

fn v4(address: IpAddr, port: u16) -> SocketAddrV4 {
    match address {
        IpAddr::V4(address) => SocketAddrV4::new(address, port),
        IpAddr::V6(_) => panic!("an IPv4 address expected"),
    }
}

/// FIN, NULL and ACK probes, from a source without a socket.
fn probe(pair: &Pair, count: u16) {
    let raw = RawSender::open(&pair.client);
    for number in 0..count {
        for flags in [FIN, 0, ACK, FIN | ACK] {
            raw.send(v4(CLIENT_V4, 20_000 + number), v4(SERVER_V4, PORT), flags);
        }
    }
}

#[test]
fn stray_segments_are_no_drops() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    let (watch, clients) = (Watch::from_now(&pair.server), Watch::from_now(&pair.client));
    let agent = Agent::start();
    let listener = Listener::open(&pair.server, SocketAddr::from((SERVER_V4, PORT)), 5);
    probe(&pair, 5);
    // The listener still works.
    let client = Client::connect(&pair.client, SocketAddr::from((SERVER_V4, PORT))).into_stream();
    drop((listener.accept_stream(), client));
    assert_closes(&agent, &[&watch, &clients]);
    assert_eq!(watch.delta("ListenDrops"), 0);
}

#[test]
fn stray_segments_at_a_full_listener_are_no_drops() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    let (watch, clients) = (Watch::from_now(&pair.server), Watch::from_now(&pair.client));
    let agent = Agent::start();
    let to = SocketAddr::from((SERVER_V4, PORT));
    let _listener = Listener::open(&pair.server, to, 5);
    let queued = Client::connect_many(&pair.client, to, 6);
    let turned_away = Client::connect_many(&pair.client, to, 3);
    probe(&pair, 5);
    drop(turned_away);
    assert_closes(&agent, &[&watch, &clients]);
    assert_eq!(watch.delta("ListenDrops"), 3);
    drop(queued);
}

#[test]
fn lost_syn_acks_are_no_drops() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::SynackRetransmits]);
    let pair = Pair::new();
    let (watch, clients) = (Watch::from_now(&pair.server), Watch::from_now(&pair.client));
    let agent = Agent::start();
    let to = SocketAddr::from((SERVER_V4, PORT));
    let listener = Listener::open(&pair.server, to, 5);
    let firewall = Firewall::install(&pair.client, "input", "tcp flags & (syn | ack) == syn | ack drop");
    let connecting = Client::connect_many(&pair.client, to, 3);
    until("SYN-ACKs sent again", LIMIT, || match watch.delta("TCPSynRetrans") {
        again if again >= 3 => Ok(()),
        again => Err(format!("TCPSynRetrans {again}")),
    });
    drop(firewall);
    let streams: Vec<_> = connecting.into_iter().map(Client::into_stream).collect();
    let accepted: Vec<_> = streams.iter().map(|_| listener.accept_stream()).collect();
    assert_closes(&agent, &[&watch, &clients]);
    assert_eq!(watch.delta("ListenDrops"), 0);
    drop(accepted);
}

#[test]
fn deferred_accept_leaves_bare_acks_unanswered() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    let (watch, clients) = (Watch::from_now(&pair.server), Watch::from_now(&pair.client));
    let agent = Agent::start();
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
    let foreign = ForeignListener::start(
        &pair.server,
        &Plan { process: "deferring", address, backlog: 5, defer_accept_s: 10, cgroup: "" },
    );
    let to = SocketAddr::from((SERVER_V4, PORT));
    let mut streams: Vec<_> = Client::connect_many(&pair.client, to, 4).into_iter().map(Client::into_stream).collect();
    // The clients are through, the server ignores their bare ACKs.
    assert_eq!(servers_in_state(&pair.server, PORT, SYN_RECV), 4);
    assert_closes(&agent, &[&watch, &clients]);
    assert_eq!((watch.delta("TCPDeferAcceptDrop"), watch.delta("PassiveOpens")), (4, 0));

    for stream in &mut streams {
        stream.write_all(b"x").unwrap();
    }
    until("the data to complete the handshakes", LIMIT, || equal("PassiveOpens", &watch.delta("PassiveOpens"), &4));
    assert_closes(&agent, &[&watch, &clients]);
    assert_eq!(watch.delta("ListenDrops"), 0);
    foreign.exit();
}

/// Where a rule sends connections to another port, the SYN-ACK carries the port that was called by
/// the time it leaves: the answer has to be known by something else.
#[test]
fn redirected_syns_are_answered() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    let (watch, clients) = (Watch::from_now(&pair.server), Watch::from_now(&pair.client));
    let agent = Agent::start();
    let listener = Listener::open(&pair.server, SocketAddr::from((SERVER_V4, PORT)), 16);
    pair.server.command("nft", &["add", "table", "ip", "live_nat"]);
    let chain = "{ type nat hook prerouting priority -100; }";
    pair.server.command("nft", &["add", "chain", "ip", "live_nat", "prerouting", chain]);
    let redirect = format!("tcp dport {CALLED_PORT} redirect to :{PORT}");
    let rule: Vec<&str> =
        ["add", "rule", "ip", "live_nat", "prerouting"].into_iter().chain(redirect.split(' ')).collect();
    pair.server.command("nft", &rule);

    let to = SocketAddr::from((SERVER_V4, CALLED_PORT));
    let streams: Vec<_> = Client::connect_many(&pair.client, to, 6).into_iter().map(Client::into_stream).collect();
    let accepted: Vec<_> = streams.iter().map(|_| listener.accept_stream()).collect();
    assert_closes(&agent, &[&watch, &clients]);
    assert_eq!((watch.delta("PassiveOpens"), watch.delta("ListenDrops")), (6, 0));
    drop((streams, accepted));
}
