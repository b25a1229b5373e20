//! Drops that no queue explains: no route back to the client, ICMP against a half-open handshake.
//! The kernel counts them in `ListenDrops` alone. Also what looks like one and is none: a SYN-ACK
//! that the server's own host discards.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::{Closing, account_of_drops, assert_closes};
use crate::lab::counters::Watch;
use crate::lab::drops::{OTHER, assert_drops};
use crate::lab::equations::DROPS;
use crate::lab::firewall::Firewall;
use crate::lab::netns::{Netns, Pair, SERVER_V4, SERVER_V6};
use crate::lab::raw::{RawSender, SYN};
use crate::lab::results::note_difference;
use crate::lab::rungs::{Drops, Signal};
use crate::lab::sockets::{Client, Listener, SYN_RECV, servers_in_state};
use crate::lab::wait::{equal, until};

const PORT: u16 = 8095;
const LIMIT: Duration = Duration::from_secs(5);
/// Ports of the clients whose ACKs are held, and the rule that holds ACKs without data.
const LATE: RangeInclusive<u16> = 7001..=7005;
const HELD: &str = "tcp sport 7001-7005 tcp flags & (syn | ack) == ack meta length < 100 drop";

fn server() -> (SocketAddr, SocketAddrV4) {
    let IpAddr::V4(address) = SERVER_V4 else { panic!("an IPv4 address expected") };
    (SocketAddr::from((address, PORT)), SocketAddrV4::new(address, PORT))
}

/// Asserts that the namespace has so many drops for reasons other than queues.
#[track_caller]
fn assert_others(agent: &Agent, watch: &Watch<'_>, count: u64) {
    assert_drops(agent, &[("netns", &watch.inode)], &[(OTHER, count)]);
}

#[test]
fn syns_without_a_way_back() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let (address, to) = server();
    let _listener = Listener::open(&pair.server, address, 16);
    let raw = RawSender::open(&pair.client);
    for host in 1..=5 {
        // The server has a route to neither this network nor to anywhere.
        raw.send(SocketAddrV4::new(Ipv4Addr::new(10, 98, 0, host), 20_000), to, SYN);
    }
    assert_eq!((watch.delta("ListenDrops"), watch.delta("ListenOverflows")), (5, 0));
    assert_closes(&agent, &[&watch]);
    assert_others(&agent, &watch, 5);
}

/// The server loses its route to the clients between the SYN-ACKs and the ACKs. The kernel drops these ACKs as it drops
/// those that meet a full accept queue, but this queue is empty.
fn last_acks_without_a_way_back(to: SocketAddr, route: &[&str]) {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    // As small as the rung can tell by: hooks at packets look at the queue some time before the kernel does.
    let backlog = if agent.rungs().drops == Drops::Packets { 6 } else { 5 };
    let listener = Listener::open(&pair.server, to, backlog);
    let firewall = Firewall::install(&pair.client, "output", HELD);
    let clients = Client::connect_from(&pair.client, LATE, to);
    let mut clients: Vec<_> = clients.into_iter().map(Client::into_stream).collect();
    assert_eq!(servers_in_state(&pair.server, PORT, SYN_RECV), clients.len());
    // A SYN-ACK that cannot be sent again ends its handshake. After the second time there is none for four seconds.
    until("SYN-ACKs to be sent again", LIMIT, || match watch.delta("TCPSynRetrans") {
        10.. => Ok(()),
        again => Err(format!("TCPSynRetrans {again}")),
    });
    listener.listen_again(backlog - 4);
    pair.server.command("ip", route);
    for client in &mut clients {
        client.write_all(&[b'x'; 100]).unwrap();
    }
    until("drops of last ACKs", LIMIT, || match watch.delta("ListenDrops") {
        drops if drops >= 5 => Ok(()),
        drops => Err(format!("ListenDrops {drops}")),
    });
    // The clients send again and again: hold them, so that the counters stand still.
    firewall.add("output", "tcp sport 7001-7005 drop");
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("ListenOverflows"), 0);
    assert_others(&agent, &watch, watch.delta("ListenDrops"));
}

#[test]
fn last_acks_without_a_way_back_over_ipv4() {
    let route = ["route", "del", "10.77.0.0/16", "dev", "eth0"];
    last_acks_without_a_way_back(SocketAddr::from((SERVER_V4, PORT)), &route);
}

#[test]
fn last_acks_without_a_way_back_over_ipv6() {
    let route = ["-6", "route", "del", "fd00:77::/64", "dev", "eth0"];
    last_acks_without_a_way_back(SocketAddr::from((SERVER_V6, PORT)), &route);
}

/// Listeners close while children of TCP Fast Open are made for them: a child that is not taken any more is a drop.
#[test]
fn fast_open_children_of_closing_listeners() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    // Client and server, both without cookies, and every listener.
    netns.set_tcp("tcp_fastopen", "1543");
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let refused = || watch.delta("ListenDrops") - watch.delta("ListenOverflows");
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            netns.run(|| {
                while !is_done.load(Ordering::Relaxed) {
                    Client::fast_open_here(address, b"early").reset();
                }
            });
        });
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                let _listener = Listener::open(&netns, address, 4096);
                // Some clients meet it open.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
            until("refused children", LIMIT * 4, || match refused() {
                3.. => Ok(()),
                count => Err(format!("{count} refused")),
            });
        }));
        is_done.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    agent.await_two_passes();
    // Packets tell a refusal only where it comes before the answer is out.
    let told = agent.scrape().sum(DROPS, &[("netns", &watch.inode), ("reason", "other")]);
    let unseen = if agent.rungs().drops == Drops::Packets { refused() - told } else { 0 };
    Closing::of(&agent, &[&watch]).unknown_drops(unseen).check();
    assert_others(&agent, &watch, refused() - unseen);
}

#[test]
fn icmp_ends_handshakes() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let (address, to) = server();
    let _listener = Listener::open(&pair.server, address, 16);
    // The SYN-ACKs come to the client, which says that there is no such host.
    let unreachable = "ip daddr 10.99.0.0/16 reject with icmp host-unreachable";
    let _firewall = Firewall::install(&pair.client, "prerouting", unreachable);
    RawSender::open(&pair.client).flood(to, 6);
    until("ICMP errors", LIMIT, || equal("ListenDrops", &watch.delta("ListenDrops"), &6));
    assert_eq!(servers_in_state(&pair.server, PORT, SYN_RECV), 0);
    // Hooks that see packets only do not see these: then they are the namespace's, unattributed.
    let unseen = if agent.rungs().drops == Drops::Packets { 6 } else { 0 };
    Closing::of(&agent, &[&watch]).unknown_drops(unseen).check();
    assert_others(&agent, &watch, 6 - unseen);
}

/// A hook that sees packets only takes this for a drop. That is said: what it counts too much is
/// the difference, to the unit, and the kernel's own figure stays right.
#[test]
fn syn_acks_lost_on_their_own_host() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let (address, _) = server();
    let _listener = Listener::open(&pair.server, address, 16);
    let _firewall = Firewall::install(&pair.server, "output", "tcp flags & (syn | ack) == syn | ack drop");
    drop(Client::connect_many(&pair.client, address, 4));
    assert_eq!(watch.delta("ListenDrops"), 0);
    let too_much = if agent.rungs().drops == Drops::Packets { 4 } else { 0 };
    agent.await_two_passes();
    until("the account", LIMIT, || {
        equal("account, sum, difference", &account_of_drops(&agent, &watch)?, &[0, too_much, -too_much])
    });
    note_difference("listen_drops", -too_much);
}
