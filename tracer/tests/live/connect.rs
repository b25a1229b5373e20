//! How `connect()` fails: each way is told apart and counted once.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::equations::as_value;
use crate::lab::firewall::Firewall;
use crate::lab::netns::{Netns, Pair, SERVER_V4, SERVER_V6};
use crate::lab::rungs::Signal;
use crate::lab::sockets::{Client, Listener, SYN_SENT, clients_in_state};

const PORT: u16 = 8090;
const LIMIT: Duration = Duration::from_secs(10);
const FAILURES: &str = "tracer_tcp_connect_failures_total";

/// Every row of the namespace: (error, port, count), zeros left out.
fn failures(agent: &Agent, watch: &Watch<'_>) -> Vec<(String, String, u64)> {
    let scrape = agent.scrape();
    let netns = [("netns", watch.inode.as_str())];
    let rows = scrape.rows(FAILURES, &netns);
    rows.filter(|row| row.value > 0.0)
        .map(|row| (row.label("error").to_owned(), row.label("port").to_owned(), row.count()))
        .collect()
}

fn only(error: &str, count: u64) -> Vec<(String, String, u64)> {
    vec![(error.to_owned(), PORT.to_string(), count)]
}

#[test]
fn refused() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let pair = Pair::new();
    let (client, server) = (Watch::from_now(&pair.client), Watch::from_now(&pair.server));
    let agent = Agent::start();
    for address in [SERVER_V4, SERVER_V4, SERVER_V6] {
        let mut connecting = Client::connect(&pair.client, SocketAddr::from((address, PORT)));
        assert_eq!(connecting.outcome(LIMIT), Err(Errno::CONNREFUSED));
    }
    assert_closes(&agent, &[&client, &server]);
    assert_eq!(client.delta("AttemptFails"), 3);
    assert_eq!(failures(&agent, &client), only("refused", 3));
}

#[test]
fn timed_out() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let pair = Pair::new();
    pair.client.set_tcp("tcp_syn_retries", "1");
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let _firewall = Firewall::install(&pair.server, "input", "tcp flags syn drop");
    let mut clients = Client::connect_many(&pair.client, SocketAddr::from((SERVER_V4, PORT)), 4);
    for client in &mut clients {
        assert_eq!(client.outcome(LIMIT), Err(Errno::TIMEDOUT));
    }
    assert_closes(&agent, &[&watch]);
    assert_eq!(failures(&agent, &watch), only("timed_out", 4));
}

#[test]
fn unreachable_by_icmp() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let _firewall = Firewall::install(&pair.server, "input", "meta l4proto tcp reject with icmpx host-unreachable");
    for address in [SERVER_V4, SERVER_V6] {
        let mut connecting = Client::connect(&pair.client, SocketAddr::from((address, PORT)));
        assert_eq!(connecting.outcome(LIMIT), Err(Errno::HOSTUNREACH));
    }
    assert_closes(&agent, &[&watch]);
    assert_eq!(failures(&agent, &watch), only("unreachable", 2));
}

#[test]
fn without_a_route_nothing_was_tried() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let mut connecting = Client::connect(&netns, SocketAddr::from((SERVER_V4, PORT)));
    assert_eq!(connecting.outcome(LIMIT), Err(Errno::NETUNREACH));
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("ActiveOpens"), 0);
    assert_eq!(failures(&agent, &watch), vec![]);
}

#[test]
fn abandoned() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let _firewall = Firewall::install(&pair.server, "input", "tcp flags syn drop");
    let clients = Client::connect_many(&pair.client, SocketAddr::from((SERVER_V4, PORT)), 5);
    assert_eq!(clients_in_state(&pair.client, PORT, SYN_SENT), 5);
    drop(clients);
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("AttemptFails"), 0, "the kernel counts these nowhere");
    assert_eq!(failures(&agent, &watch), only("abandoned", 5));
}

#[test]
fn no_ephemeral_port_is_left() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let netns = Netns::single();
    netns.set_tcp("ip_local_port_range", "40000 40001");
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let _listener = Listener::open(&netns, to, 16);
    let connected: Vec<_> = Client::connect_many(&netns, to, 2).into_iter().map(Client::into_stream).collect();
    for _ in 0..3 {
        assert_eq!(Client::connect(&netns, to).outcome(LIMIT), Err(Errno::ADDRNOTAVAIL));
    }
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("ActiveOpens"), 2);
    assert_eq!(failures(&agent, &watch), only("no_port", 3));

    let scrape = agent.scrape();
    let count =
        |result| scrape.one("tracer_tcp_connect_syn_retries_count", &[("netns", &watch.inode), ("result", result)]);
    assert_eq!((count("established"), count("no_port")), (Ok(as_value(2)), Ok(as_value(3))));
    drop(connected);
}
