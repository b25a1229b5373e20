//! Handshakes dropped at their last ACK: the queue fills after the SYN-ACKs are out. They are told
//! apart from drops of SYNs.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::drops::{ACCEPT_QUEUE_FULL_ACK, ACCEPT_QUEUE_FULL_SYN, assert_drops};
use crate::lab::firewall::Firewall;
use crate::lab::netns::{Pair, SERVER_V4, SERVER_V6};
use crate::lab::rungs::Signal;
use crate::lab::sockets::{Client, Listener, SYN_RECV, servers_in_state};
use crate::lab::wait::until;

const PORT: u16 = 8082;
/// Ports of the clients that come too late, and the ACKs of theirs that are held.
const LATE: RangeInclusive<u16> = 7001..=7004;
const HELD: &str = "tcp sport 7001-7004 tcp flags & (syn | ack) == ack drop";
const LIMIT: Duration = Duration::from_secs(5);

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
