//! Resets: each way to send one is counted once, with the kernel's reason where it tells one, and what
//! comes of it at the other end; the sum of those sent equals `OutRsts`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::{Closing, assert_closes};
use crate::lab::counters::Watch;
use crate::lab::equations::RESETS;
use crate::lab::firewall::Firewall;
use crate::lab::load::Connection;
use crate::lab::machine::machine;
use crate::lab::netns::{CLIENT_V6, Pair, SERVER_V4, SERVER_V6};
use crate::lab::results::note_difference;
use crate::lab::rungs::{Signal, resets_have_reasons};
use crate::lab::setting::patient;
use crate::lab::sockets::{Client, FIN_WAIT2, Listener, servers_in_state};
use crate::lab::wait::{equal, until};

const PORT: u16 = 8091;
const LIMIT: Duration = Duration::from_secs(10);

type Resets = BTreeMap<(String, String), u64>;

/// Every reset of the namespace by direction and reason, zeros left out.
fn resets(agent: &Agent, watch: &Watch<'_>) -> Resets {
    let scrape = agent.scrape();
    let mut resets = Resets::new();
    for row in scrape.rows(RESETS, &[("netns", &watch.inode)]).filter(|row| row.value > 0.0) {
        *resets.entry((row.label("direction").to_owned(), row.label("reason").to_owned())).or_default() += row.count();
    }
    resets
}

/// So many resets sent for the kernel's reasons, and received.
fn expected(sent: &[(&str, u64)], received: &[(&str, u64)]) -> Resets {
    let mut resets = Resets::new();
    let told = |reason| if resets_have_reasons(machine()) { reason } else { "unknown" };
    let sent = sent.iter().map(|(reason, count)| ("sent", told(*reason), count));
    for (direction, reason, count) in sent.chain(received.iter().map(|(reason, count)| ("received", *reason, count))) {
        *resets.entry((direction.to_owned(), reason.to_owned())).or_default() += count;
    }
    resets
}

/// Reads until the connection ends, and says how.
fn end_of(connection: &mut impl Read) -> Option<Errno> {
    let error = connection.read(&mut [0; 1]).err()?;
    Errno::from_io_error(&error)
}

/// A pair of namespaces with an agent that knows both, and one connection.
fn connected(test: impl FnOnce(&Pair, &Agent, [&Watch<'_>; 2], Connection)) {
    let pair = Pair::new();
    let (client, server) = (Watch::from_now(&pair.client), Watch::from_now(&pair.server));
    let agent = Agent::start();
    let to = SocketAddr::from((SERVER_V4, PORT));
    let listener = Listener::open(&pair.server, to, 16);
    let connection = Connection::open(&pair, &listener, to);
    connection.client.set_read_timeout(Some(patient(LIMIT))).unwrap();
    connection.server.set_read_timeout(Some(patient(LIMIT))).unwrap();
    drop(listener);
    test(&pair, &agent, [&client, &server], connection);
}

/// Sends data once the server's FIN is acknowledged, and waits for the answer.
fn speak_late(pair: &Pair, client: &mut impl Write, server: &Watch<'_>) {
    until("FIN_WAIT2", LIMIT, || equal("sockets", &servers_in_state(&pair.server, PORT, FIN_WAIT2), &1));
    client.write_all(b"late").unwrap();
    until("the reset", LIMIT, || equal("OutRsts", &server.delta("OutRsts"), &1));
}

#[test]
fn a_closed_port_resets_in_the_name_of_its_namespace() {
    let _lab = Lab::enter(&[Signal::Resets]);
    let pair = Pair::new();
    let (client, server) = (Watch::from_now(&pair.client), Watch::from_now(&pair.server));
    let agent = Agent::start();
    for address in [SERVER_V4, SERVER_V4, SERVER_V6] {
        let mut connecting = Client::connect(&pair.client, SocketAddr::from((address, PORT)));
        assert_eq!(connecting.outcome(LIMIT), Err(Errno::CONNREFUSED));
    }
    assert_closes(&agent, &[&client, &server]);
    assert_eq!(server.delta("OutRsts"), 3);
    assert_eq!(resets(&agent, &server), expected(&[("no_socket", 3)], &[]));
    assert_eq!(resets(&agent, &client), expected(&[], &[("refused", 3)]));
    let scrape = agent.scrape();
    for row in scrape.rows(RESETS, &[("netns", &server.inode)]) {
        let owner = ["namespace", "pod", "container", "unit"].map(|label| row.label(label));
        assert_eq!(owner, [""; 4], "there is no socket to tell an owner: {row:?}");
    }
    // The rest of the machine may have resets of its own.
    let seen = if resets_have_reasons(machine()) { 6 } else { 3 };
    assert!(scrape.sum("tracer_events_total", &[("kind", "reset")]) >= seen);
    assert_eq!(scrape.sum("tracer_counts_lost_total", &[("counter", "reset")]), 0);
}

#[test]
fn closing_with_data_unread() {
    let _lab = Lab::enter(&[Signal::Resets]);
    connected(|_, agent, [client, server], mut connection| {
        connection.client.write_all(b"unread").unwrap();
        until("the data at the server", LIMIT, || match connection.server.peek(&mut [0; 1]) {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        drop(connection.server);
        assert_eq!(end_of(&mut connection.client), Some(Errno::CONNRESET));
        assert_closes(agent, &[client, server]);
        assert_eq!((server.delta("OutRsts"), server.delta("TCPAbortOnClose")), (1, 1));
        assert_eq!(resets(agent, server), expected(&[("abort_on_close", 1)], &[]));
        assert_eq!(resets(agent, client), expected(&[], &[("established", 1)]));
    });
}

#[test]
fn closing_with_linger_zero() {
    let _lab = Lab::enter(&[Signal::Resets]);
    connected(|_, agent, [client, server], mut connection| {
        sockopt::set_socket_linger(&connection.client, Some(Duration::ZERO)).unwrap();
        drop(connection.client);
        assert_eq!(end_of(&mut connection.server), Some(Errno::CONNRESET));
        assert_closes(agent, &[client, server]);
        assert_eq!((client.delta("OutRsts"), client.delta("TCPAbortOnData")), (1, 1));
        assert_eq!(resets(agent, client), expected(&[("state", 1)], &[]));
        assert_eq!(resets(agent, server), expected(&[], &[("established", 1)]));
    });
}

/// The server's socket is in TIME_WAIT (for FIN_WAIT2) by then: cut short, and without an owner.
#[test]
fn data_for_a_socket_in_time_wait() {
    let _lab = Lab::enter(&[Signal::Resets]);
    connected(|pair, agent, [client, server], mut connection| {
        drop(connection.server);
        speak_late(pair, &mut connection.client, server);
        assert_closes(agent, &[client, server]);
        assert_eq!(resets(agent, server), expected(&[("timewait_socket", 1)], &[]));
        assert_eq!(resets(agent, client), expected(&[], &[("close_wait", 1)]));
    });
}

/// The kernel ends a socket without owner by the function that ends one for a reset that came.
#[test]
fn data_for_a_socket_without_owner() {
    let _lab = Lab::enter(&[Signal::Resets]);
    connected(|pair, agent, [client, server], mut connection| {
        // Longer than TIME_WAIT lasts: then FIN_WAIT2 is spent as a full socket.
        pair.server.set_tcp("tcp_fin_timeout", "61");
        drop(connection.server);
        speak_late(pair, &mut connection.client, server);
        assert_closes(agent, &[client, server]);
        assert_eq!(server.delta("TCPAbortOnData"), 1);
        assert_eq!(resets(agent, server), expected(&[("abort_on_data", 1)], &[("closing", 1)]));
        assert_eq!(resets(agent, client), expected(&[], &[("close_wait", 1)]));
    });
}

/// The server's end goes without a word that arrives; the client learns of it when it speaks.
#[test]
fn half_open() {
    let _lab = Lab::enter(&[Signal::Resets]);
    connected(|pair, agent, [client, server], mut connection| {
        let firewall = Firewall::install(&pair.server, "output", "meta l4proto tcp drop");
        sockopt::set_socket_linger(&connection.server, Some(Duration::ZERO)).unwrap();
        drop(connection.server);
        drop(firewall);
        connection.client.write_all(b"anybody there?").unwrap();
        assert_eq!(end_of(&mut connection.client), Some(Errno::CONNRESET));
        assert_closes(agent, &[client, server]);
        // What a rule refuses counts as sent.
        assert_eq!((server.delta("OutRsts"), server.delta("TCPAbortFailed")), (2, 1));
        assert_eq!(resets(agent, server), expected(&[("state", 1), ("no_socket", 1)], &[]));
        assert_eq!(resets(agent, client), expected(&[], &[("established", 1)]));
    });
}

/// Document 003: the path is cut while the connection is idle, and keepalive finds out.
#[test]
fn keepalive_finds_a_cut_connection_dead() {
    let _lab = Lab::enter(&[Signal::Resets]);
    connected(|pair, agent, [client, server], mut connection| {
        let socket = &connection.client;
        sockopt::set_tcp_keepidle(socket, Duration::from_secs(1)).unwrap();
        sockopt::set_tcp_keepintvl(socket, Duration::from_secs(1)).unwrap();
        sockopt::set_tcp_keepcnt(socket, 3).unwrap();
        sockopt::set_socket_keepalive(socket, true).unwrap();
        let _cut = Firewall::install(&pair.server, "input", "meta l4proto tcp drop");
        assert_eq!(end_of(&mut connection.client), Some(Errno::TIMEDOUT));
        assert_closes(agent, &[client, server]);
        let counters = ["TCPKeepAlive", "TCPAbortOnTimeout", "OutRsts"];
        assert_eq!(counters.map(|name| client.delta(name)), [3, 1, 1]);
        assert_eq!(resets(agent, client), expected(&[("keepalive_timeout", 1)], &[]));
        assert_eq!(resets(agent, server), expected(&[], &[]), "the server does not know yet");
    });
}

/// Over IPv6 the kernel looks for the way back after the hook, and counts what has one. Over IPv4 it
/// counts before it looks.
#[test]
fn a_reset_that_finds_no_way_back_is_no_secret() {
    let _lab = Lab::enter(&[Signal::Resets]);
    let pair = Pair::new();
    let (client, server) = (Watch::from_now(&pair.client), Watch::from_now(&pair.server));
    let agent = Agent::start();
    let IpAddr::V6(_) = CLIENT_V6 else { panic!("{CLIENT_V6} is no address of IPv6") };
    pair.server.command("ip", &["route", "add", "unreachable", &format!("{CLIENT_V6}/128")]);
    let connecting = Client::connect(&pair.client, SocketAddr::from((SERVER_V6, PORT)));
    let labels = [("netns", server.inode.as_str()), ("direction", "sent"), ("reason", "no_socket")];
    if resets_have_reasons(machine()) {
        until("the hook's count", LIMIT, || match agent.scrape().sum(RESETS, &labels) {
            1.. => Ok(()),
            count => Err(format!("{count}")),
        });
    }
    drop(connecting);
    Closing::of(&agent, &[&server]).without("resets_sent").check();
    assert_eq!(server.delta("OutRsts"), 0);
    // One for each SYN: after a second without an answer there is another.
    let syns = if resets_have_reasons(machine()) { 1 + client.delta("TCPSynRetrans") } else { 0 };
    assert_eq!(agent.scrape().sum(RESETS, &labels), syns);
    let difference = -syns.cast_signed();
    let shown = agent.scrape().one("tracer_count_difference", &[("netns", &server.inode), ("signal", "resets_sent")]);
    assert_eq!(shown.map(|value| value.to_string()), Ok(difference.to_string()));
    note_difference("resets_sent", difference);
}
