//! Errors of connects that do not wait: an ICMP error that comes while the program holds the socket ends nothing, but the
//! program can read it (SO_ERROR), and the kernel forgets it then. What the connect ends with is told all the same, on
//! each rung that sees such errors arrive.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use serde_json::Value;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::{Closing, assert_closes};
use crate::lab::counters::Watch;
use crate::lab::firewall::Firewall;
use crate::lab::netns::{CLIENT_V4, Netns, Pair, SERVER_V4};
use crate::lab::rungs::Signal;
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::until;
use crate::lab::watch::Watching;

const PORT: u16 = 8140;
const LIMIT: Duration = Duration::from_secs(10);
const FAILURES: &str = "tracer_tcp_connect_failures_total";
const SIGNALS: [Signal; 2] = [Signal::Connections, Signal::ConnectErrors];
const LOCALHOST_V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOCALHOST_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Every row of the namespace: error and count, zeros left out.
fn failures(agent: &Agent, watch: &Watch<'_>) -> Vec<(String, u64)> {
    let scrape = agent.scrape();
    let labels = [("netns", watch.inode.as_str()), ("port", "8140")];
    let rows = scrape.rows(FAILURES, &labels).filter(|row| row.value > 0.0);
    rows.map(|row| (row.label("error").to_owned(), row.count())).collect()
}

/// What the program is told, which makes the kernel forget it.
fn read_error(client: &Client) -> Errno {
    until("an error of connect()", LIMIT, || client.take_error().ok_or_else(|| "none yet".to_owned()))
}

/// Connects that a rule of their own host turns away with ICMP while `connect()` still runs.
fn turned_away(address: IpAddr, is_seen: fn(&Agent) -> bool) {
    const TIMES: u64 = 5;
    let _lab = Lab::enter(&SIGNALS);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    for (with, error) in [("port-unreachable", Errno::CONNREFUSED), ("host-unreachable", Errno::HOSTUNREACH)] {
        let reject = format!("tcp dport {PORT} reject with icmpx {with}");
        let _firewall = Firewall::install(&netns, "output", &reject);
        for _ in 0..TIMES {
            let client = Client::connect(&netns, SocketAddr::new(address, PORT));
            assert_eq!(read_error(&client), error);
        }
    }
    assert_closes(&agent, &[&watch]);
    let expected = if is_seen(&agent) {
        vec![("refused".to_owned(), TIMES), ("unreachable".to_owned(), TIMES)]
    } else {
        vec![("abandoned".to_owned(), 2 * TIMES)]
    };
    assert_eq!(failures(&agent, &watch), expected);
}

#[test]
fn turned_away_over_ipv4() {
    turned_away(LOCALHOST_V4, |agent| agent.rungs().sees_icmp_of_connects().over_ipv4);
}

#[test]
fn turned_away_over_ipv6() {
    turned_away(LOCALHOST_V6, |agent| agent.rungs().sees_icmp_of_connects().over_ipv6);
}

/// The kernel handles IPv4's error for an IPv6 socket as IPv4.
#[test]
fn turned_away_over_ipv4_on_an_ipv6_socket() {
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    turned_away(mapped, |agent| agent.rungs().sees_icmp_of_connects().over_ipv4);
}

#[test]
fn events_say_what_the_program_was_told() {
    let _lab = Lab::enter(&SIGNALS);
    let netns = Netns::single();
    let watching = Watching::start(&["--kind", "connect", "--netns", &netns.inode()]);
    let _firewall =
        Firewall::install(&netns, "output", &format!("tcp dport {PORT} reject with icmpx port-unreachable"));
    let client = Client::connect(&netns, SocketAddr::new(LOCALHOST_V4, PORT));
    assert_eq!(read_error(&client), Errno::CONNREFUSED);
    drop(client);
    let is_seen = watching.rungs.sees_icmp_of_connects().over_ipv4;
    let seen = watching.end();
    let told: Vec<_> = seen.events.iter().map(|event| (&event["result"], &event["errno"])).collect();
    let expected = if is_seen { (&"refused".into(), &111.into()) } else { (&"abandoned".into(), &Value::Null) };
    assert_eq!(told, [expected], "{}", seen.summary());
}

/// A program that does not read the error leaves it to the kernel, which keeps it to the end.
#[test]
fn an_error_that_nobody_read() {
    let _lab = Lab::enter(&SIGNALS);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let reject = format!("tcp dport {PORT} reject with icmpx host-unreachable");
    let _firewall = Firewall::install(&netns, "output", &reject);
    for address in [LOCALHOST_V4, LOCALHOST_V6] {
        drop(Client::connect(&netns, SocketAddr::new(address, PORT)));
    }
    assert_closes(&agent, &[&watch]);
    assert_eq!(failures(&agent, &watch), [("unreachable".to_owned(), 2)]);
}

/// What an error did not end may succeed, and the socket that gets its memory has no error of its own.
#[test]
fn a_connect_that_outlives_its_error() {
    const TIMES: usize = 8;
    let _lab = Lab::enter(&SIGNALS);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let to = SocketAddr::from((SERVER_V4, PORT));
    let _listener = Listener::open(&pair.server, to, 16);
    let turn_away = |rule| Firewall::install(&pair.client, "output", &format!("tcp dport {PORT} {rule}"));
    let firewall = turn_away("reject with icmpx host-unreachable");
    let clients = Client::connect_many(&pair.client, to, TIMES);
    for client in &clients {
        assert_eq!(read_error(client), Errno::HOSTUNREACH);
    }
    drop(firewall);
    for client in clients {
        drop(client.into_stream());
    }
    let _firewall = Firewall::install(&pair.server, "input", "tcp flags syn drop");
    drop(Client::connect_many(&pair.client, to, 4 * TIMES));
    assert_closes(&agent, &[&watch]);
    assert_eq!(failures(&agent, &watch), [("abandoned".to_owned(), 4 * TIMES as u64)]);
}

/// A route that goes while a connect waits for its answer: the SYN that is to be sent again finds none.
#[test]
fn a_route_that_goes() {
    let _lab = Lab::enter(&SIGNALS);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let _firewall = Firewall::install(&pair.server, "input", "tcp flags syn drop");
    let client = Client::connect(&pair.client, SocketAddr::from((SERVER_V4, PORT)));
    pair.client.command("ip", &["address", "del", &format!("{CLIENT_V4}/16"), "dev", "eth0"]);
    assert!([Errno::HOSTUNREACH, Errno::NETUNREACH].contains(&read_error(&client)));
    drop(client);
    Closing::of(&agent, &[&watch]).check();
    let told = if agent.rungs().sees_refused_retransmits() { "unreachable" } else { "abandoned" };
    assert_eq!(failures(&agent, &watch), [(told.to_owned(), 1)]);
}
