//! Connections that are older than the agent: no hook saw their handshake, so role and port come
//! from what can still be known, and from nothing else.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::equations::RETRANSMITS;
use crate::lab::firewall::Firewall;
use crate::lab::load::Connection;
use crate::lab::netns::{Pair, SERVER_V4};
use crate::lab::rungs::Signal;
use crate::lab::sockets::Listener;
use crate::lab::wait::until;

const PORT: u16 = 8091;
const LIMIT: Duration = Duration::from_secs(6);

/// One connection from before the agent's start, and what is known of its server.
struct Older {
    port: u16,
    backlog: i32,
    /// Whether the listener is still there when the agent starts.
    listener_stays: bool,
    /// Role and port that the client's and the server's retransmits must carry.
    client: (&'static str, &'static str),
    server: (&'static str, &'static str),
}

fn check(older: &Older) {
    let _lab = Lab::enter(&[Signal::Retransmits]);
    let pair = Pair::new();
    let to = SocketAddr::from((SERVER_V4, older.port));
    let listener = Listener::open(&pair.server, to, older.backlog);
    let mut connection = Connection::open(&pair, &listener, to);
    let listener = older.listener_stays.then_some(listener);
    let (client, server) = (Watch::from_now(&pair.client), Watch::from_now(&pair.server));
    let agent = Agent::start();

    let firewalls =
        [&pair.client, &pair.server].map(|netns| Firewall::install(netns, "input", "meta l4proto tcp drop"));
    connection.client.write_all(b"lost").unwrap();
    connection.server.write_all(b"lost").unwrap();
    until("retransmits at both ends", LIMIT, || match (client.delta("RetransSegs"), server.delta("RetransSegs")) {
        (2.., 2..) => Ok(()),
        counts => Err(format!("{counts:?}")),
    });
    drop(firewalls);
    assert_closes(&agent, &[&client, &server]);

    let scrape = agent.scrape();
    for (watch, (role, port)) in [(&client, older.client), (&server, older.server)] {
        let named = scrape.sum(RETRANSMITS, &[("netns", &watch.inode), ("role", role), ("port", port)]);
        let all = watch.delta("RetransSegs");
        assert_eq!(
            named,
            all,
            "role {role:?}, port {port:?} expected\n{}",
            scrape.show(RETRANSMITS, &[("netns", &watch.inode)])
        );
    }
    drop((connection, listener));
}

#[test]
fn server_and_client_of_a_listener_that_stays() {
    let expected = ("server", "8091");
    check(&Older { port: PORT, backlog: 16, listener_stays: true, client: ("client", "8091"), server: expected });
}

/// The port range speaks for the client. The server is still one: a child keeps its listener's
/// backlog, and a socket that connected has none.
#[test]
fn server_whose_listener_is_gone() {
    let expected = ("server", "8091");
    check(&Older { port: PORT, backlog: 16, listener_stays: false, client: ("client", "8091"), server: expected });
}

#[test]
fn server_without_a_backlog_whose_listener_stays() {
    let expected = ("server", "8091");
    check(&Older { port: PORT, backlog: 0, listener_stays: true, client: ("client", "8091"), server: expected });
}

/// Nothing tells this server from a client but the ports: its own is below the range, so it is no
/// client, and the remote one must not become a label.
#[test]
fn server_without_a_backlog_whose_listener_is_gone() {
    let expected = ("unknown", "");
    check(&Older { port: PORT, backlog: 0, listener_stays: false, client: ("client", "8091"), server: expected });
}
