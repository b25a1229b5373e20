//! Handshakes dropped at their last ACK: the queue fills after the SYN-ACKs are out. They are told
//! apart from drops of SYNs. By default the peer is not told; with `tcp_abort_on_overflow` it is reset.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::time::Duration;

use rustix::io::Errno;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::cgroup::Cgroup;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::drops::{ACCEPT_QUEUE_FULL_ACK, ACCEPT_QUEUE_FULL_SYN, assert_drops};
use crate::lab::equations::RESETS;
use crate::lab::firewall::Firewall;
use crate::lab::foreign::{ForeignListener, Plan};
use crate::lab::netns::{Pair, SERVER_V4, SERVER_V6};
use crate::lab::rungs::Signal;
use crate::lab::setting::patient;
use crate::lab::sockets::{Client, Listener, SYN_RECV, servers_in_state};
use crate::lab::wait::until;

const PORT: u16 = 8082;
/// Ports of the clients that come too late, and the ACKs of theirs that are held.
const LATE: RangeInclusive<u16> = 7001..=7004;
const HELD: &str = "tcp sport 7001-7004 tcp flags & (syn | ack) == ack drop";
const LIMIT: Duration = Duration::from_secs(5);

fn v4_address() -> SocketAddrV4 {
    let IpAddr::V4(address) = SERVER_V4 else { panic!("{SERVER_V4} is no address of IPv4") };
    SocketAddrV4::new(address, PORT)
}

fn held_acks_meet_a_full_queue(to: SocketAddr) {
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let _listener = Listener::open(&pair.server, to, 5);
    let assert_drops = |at_ack, at_syn| {
        let expected = [(ACCEPT_QUEUE_FULL_ACK, at_ack), (ACCEPT_QUEUE_FULL_SYN, at_syn)];
        assert_drops(&agent, &[("netns", &watch.inode)], &expected);
    };

    // Four clients get their SYN-ACK, their ACKs are held, however often the server asks for them.
    let hold = || Firewall::install(&pair.client, "output", HELD);
    let firewall = hold();
    let late: Vec<_> = Client::connect_from(&pair.client, LATE, to).into_iter().map(Client::into_stream).collect();
    assert_eq!(servers_in_state(&pair.server, PORT, SYN_RECV), 4);
    // Six others take all the room; then the server asks the four again, and their ACKs come too late.
    let quick: Vec<_> = Client::connect_many(&pair.client, to, 6).into_iter().map(Client::into_stream).collect();
    drop(firewall);
    until("drops of last ACKs", LIMIT, || match watch.delta("ListenDrops") {
        drops if drops >= 8 => Ok(()),
        drops => Err(format!("ListenDrops {drops}")),
    });
    // Hold them again, so that only SYNs are dropped from here on.
    let firewall = hold();
    assert_closes(&agent, &[&watch]);
    let at_ack = watch.delta("ListenDrops");
    assert_eq!(watch.delta("ListenOverflows"), at_ack);
    assert_drops(at_ack, 0);

    let refused = Client::connect_many(&pair.client, to, 5);
    until("SYNs to be sent again", LIMIT, || match watch.delta("ListenDrops") - at_ack {
        10.. => Ok(()),
        drops => Err(format!("{drops} SYNs dropped")),
    });
    drop(refused);
    assert_closes(&agent, &[&watch]);
    let at_syn = watch.delta("ListenDrops") - at_ack;
    assert_drops(at_ack, at_syn);
    drop((firewall, late, quick));
}

/// `tcp_abort_on_overflow`: who comes too late is told so at once, by a reset that the listener sends. Each is
/// one drop and one reset, since nobody is left to come again.
fn late_acks_are_answered_by_resets(name: &str, cgroup: &Cgroup) {
    let pair = Pair::new();
    pair.server.set_tcp("tcp_abort_on_overflow", "1");
    let (client, server) = (Watch::from_now(&pair.client), Watch::from_now(&pair.server));
    let agent = Agent::start();
    let to = v4_address();
    let plan = Plan { process: "service", address: to, backlog: 5, defer_accept_s: 0, cgroup: cgroup.path() };
    let listener = ForeignListener::start(&pair.server, &plan);
    let to = SocketAddr::V4(to);
    let firewall = Firewall::install(&pair.client, "output", HELD);
    let late: Vec<_> = Client::connect_from(&pair.client, LATE, to).into_iter().map(Client::into_stream).collect();
    let quick: Vec<_> = Client::connect_many(&pair.client, to, 6).into_iter().map(Client::into_stream).collect();
    drop(firewall);
    for mut connection in late {
        connection.set_read_timeout(Some(patient(LIMIT))).unwrap();
        let error = connection.read(&mut [0; 1]).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::CONNRESET));
    }
    assert_closes(&agent, &[&client, &server]);
    let counters = ["ListenOverflows", "ListenDrops", "EmbryonicRsts", "OutRsts"];
    assert_eq!(counters.map(|name| server.delta(name)), [4; 4]);

    let owner = [("netns", server.inode.as_str()), ("unit", name)];
    let listener_labels = [&owner[..], &[("process", "service"), ("port", "8082")]].concat();
    assert_drops(&agent, &listener_labels, &[(ACCEPT_QUEUE_FULL_ACK, 4), (ACCEPT_QUEUE_FULL_SYN, 0)]);
    let scrape = agent.scrape();
    let resets =
        |labels: &[(&str, &str)], direction| scrape.sum(RESETS, &[labels, &[("direction", direction)]].concat());
    // The listener is a full socket, so its owner is known on every kernel.
    assert_eq!((resets(&owner, "sent"), resets(&owner[..1], "received")), (4, 0));
    let of_client = [("netns", client.inode.as_str()), ("reason", "established")];
    assert_eq!((resets(&of_client, "received"), resets(&of_client[..1], "sent")), (4, 0));
    drop(quick);
    listener.exit();
}

#[test]
fn last_acks_that_are_reset() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::Resets]);
    let name = format!("tracer-live-{}.service", std::process::id());
    late_acks_are_answered_by_resets(&name, &Cgroup::make(&name));
}

#[test]
fn last_acks_over_ipv4() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    held_acks_meet_a_full_queue(SocketAddr::from((SERVER_V4, PORT)));
}

#[test]
fn last_acks_over_ipv6() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    held_acks_meet_a_full_queue(SocketAddr::from((SERVER_V6, PORT)));
}
