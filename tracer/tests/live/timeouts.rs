//! Connections that the kernel gives up: counted once, by what waited for an answer, whichever error the
//! application is told; the sum equals `TCPAbortOnTimeout`.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::equations::TIMEOUTS;
use crate::lab::firewall::Firewall;
use crate::lab::load::Connection;
use crate::lab::netns::{Pair, SERVER_V4, SERVER_V6};
use crate::lab::rungs::Signal;
use crate::lab::scrape::Sample;
use crate::lab::setting::patient;
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::until;

const PORT: u16 = 8092;
const LIMIT: Duration = Duration::from_secs(20);
/// What `TCP_USER_TIMEOUT` is set to where nothing else ends the waiting soon.
const USER_TIMEOUT_MS: u32 = 1500;

/// Every row of the namespace: role, port, cause, count; zeros left out.
fn timeouts(agent: &Agent, watch: &Watch<'_>) -> Vec<(String, String, String, u64)> {
    let scrape = agent.scrape();
    let netns = [("netns", watch.inode.as_str())];
    let label = |row: &Sample, name| row.label(name).to_owned();
    scrape
        .rows(TIMEOUTS, &netns)
        .filter(|row| row.value > 0.0)
        .map(|row| (label(row, "role"), label(row, "port"), label(row, "cause"), row.count()))
        .collect()
}

fn only(role: &str, cause: &str, count: u64) -> Vec<(String, String, String, u64)> {
    vec![(role.to_owned(), PORT.to_string(), cause.to_owned(), count)]
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
    test(&pair, &agent, [&client, &server], connection);
}

fn wait_for_a_timeout(watch: &Watch<'_>) {
    until("a connection that is given up", LIMIT, || match watch.delta("TCPAbortOnTimeout") {
        1 => Ok(()),
        count => Err(format!("TCPAbortOnTimeout {count}")),
    });
}

#[test]
fn of_connect() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let pair = Pair::new();
    pair.client.set_tcp("tcp_syn_retries", "1");
    // Does not exist before 6.5, where there are none.
    pair.client.try_set_tcp("tcp_syn_linear_timeouts", "0");
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let _cut = Firewall::install(&pair.server, "input", "meta l4proto tcp drop");
    for address in [SERVER_V4, SERVER_V6] {
        let mut client = Client::connect(&pair.client, SocketAddr::from((address, PORT)));
        assert_eq!(client.outcome(LIMIT), Err(Errno::TIMEDOUT));
    }
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("TCPAbortOnTimeout"), 2);
    assert_eq!(timeouts(&agent, &watch), only("client", "syn", 2));
}

#[test]
fn of_data_by_a_client_and_by_a_server() {
    let _lab = Lab::enter(&[Signal::Connections]);
    connected(|pair, agent, [client, server], mut connection| {
        let _cut = [&pair.client, &pair.server].map(|end| Firewall::install(end, "input", "meta l4proto tcp drop"));
        for end in [&mut connection.client, &mut connection.server] {
            sockopt::set_tcp_user_timeout(&*end, USER_TIMEOUT_MS).unwrap();
            end.write_all(b"lost").unwrap();
        }
        for end in [&mut connection.client, &mut connection.server] {
            assert_eq!(end_of(end), Some(Errno::TIMEDOUT));
        }
        assert_closes(agent, &[client, server]);
        assert_eq!(timeouts(agent, client), only("client", "retransmit", 1));
        assert_eq!(timeouts(agent, server), only("server", "retransmit", 1));
    });
}

/// The application is told what ICMP said, and the kernel counts a time-out all the same.
#[test]
fn of_data_that_a_router_turns_away() {
    let _lab = Lab::enter(&[Signal::Connections]);
    connected(|pair, agent, [client, _], mut connection| {
        let reject = "meta l4proto tcp reject with icmpx host-unreachable";
        let _cut = Firewall::install(&pair.server, "input", reject);
        sockopt::set_tcp_user_timeout(&connection.client, USER_TIMEOUT_MS).unwrap();
        connection.client.write_all(b"lost").unwrap();
        assert_eq!(end_of(&mut connection.client), Some(Errno::HOSTUNREACH));
        assert_closes(agent, &[client]);
        assert_eq!(client.delta("TCPAbortOnTimeout"), 1);
        assert_eq!(timeouts(agent, client), only("client", "retransmit", 1));
    });
}

/// An ICMP error that ends connect() at once is no time-out, also if the first one came too early to.
#[test]
fn of_none_that_icmp_ends() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let _cut = Firewall::install(&pair.server, "input", "meta l4proto tcp reject with icmpx host-unreachable");
    for address in [SERVER_V4, SERVER_V6] {
        let mut client = Client::connect(&pair.client, SocketAddr::from((address, PORT)));
        assert_eq!(client.outcome(LIMIT), Err(Errno::HOSTUNREACH));
    }
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("TCPAbortOnTimeout"), 0);
    assert_eq!(timeouts(&agent, &watch), vec![]);
}

/// Document 003: the path is cut while the connection is idle.
#[test]
fn of_keepalive() {
    let _lab = Lab::enter(&[Signal::Connections]);
    connected(|pair, agent, [_, server], mut connection| {
        let socket = &connection.server;
        sockopt::set_tcp_keepidle(socket, Duration::from_secs(1)).unwrap();
        sockopt::set_tcp_keepintvl(socket, Duration::from_secs(1)).unwrap();
        sockopt::set_tcp_keepcnt(socket, 3).unwrap();
        sockopt::set_socket_keepalive(socket, true).unwrap();
        // Something has been sent: that it was acknowledged is what tells this death from the others.
        connection.server.write_all(b"hello").unwrap();
        connection.client.read_exact(&mut [0; 5]).unwrap();
        let _cut = Firewall::install(&pair.server, "input", "meta l4proto tcp drop");
        assert_eq!(end_of(&mut connection.server), Some(Errno::TIMEDOUT));
        assert_closes(agent, &[server]);
        assert_eq!(["TCPKeepAlive", "TCPAbortOnTimeout"].map(|name| server.delta(name)), [3, 1]);
        assert_eq!(timeouts(agent, server), only("server", "keepalive", 1));
    });
}

/// The peer is there and answers, but reads nothing.
#[test]
fn of_a_closed_window() {
    let _lab = Lab::enter(&[Signal::Connections]);
    connected(|_, agent, [client, server], mut connection| {
        sockopt::set_tcp_user_timeout(&connection.client, USER_TIMEOUT_MS).unwrap();
        connection.client.set_write_timeout(Some(patient(LIMIT))).unwrap();
        let mut writing = || connection.client.write_all(&[0; 1 << 12]).err();
        let error = std::iter::from_fn(|| Some(writing())).flatten().next().unwrap();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::TIMEDOUT));
        assert_closes(agent, &[client, server]);
        assert_eq!(client.delta("TCPAbortOnTimeout"), 1);
        assert_eq!(timeouts(agent, client), only("client", "zero_window", 1));
    });
}

/// The application has closed, and nobody answers the FIN.
#[test]
fn of_a_fin() {
    let _lab = Lab::enter(&[Signal::Connections]);
    connected(|pair, agent, [client, server], connection| {
        pair.client.set_tcp("tcp_orphan_retries", "1");
        pair.server.set_tcp("tcp_orphan_retries", "1");
        let _cut = Firewall::install(&pair.server, "input", "meta l4proto tcp drop");
        drop(connection.client);
        wait_for_a_timeout(client);
        // It knows nothing of that, and what the client's namespace answers does not come through.
        drop(connection.server);
        wait_for_a_timeout(server);
        assert_closes(agent, &[client, server]);
        assert_eq!(timeouts(agent, client), only("client", "fin", 1));
        assert_eq!(timeouts(agent, server), only("server", "fin", 1));
    });
}
