//! Connections without a listener: a socket that connects to itself, and two ends that connect to each other at the
//! same time. Such a socket goes from SYN_SENT to SYN_RECV, as no child of a listener does, and its `connect()` ends
//! there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use serde_json::Value;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::{Closing, assert_closes};
use crate::lab::counters::Watch;
use crate::lab::equations::{RETRANSMITS, TIMEOUTS};
use crate::lab::firewall::Firewall;
use crate::lab::netns::{CLIENT_V4, CLIENT_V6, Netns, Pair, SERVER_V4, SERVER_V6};
use crate::lab::rungs::Signal;
use crate::lab::sockets::{Client, ESTABLISHED, Listener, SYN_RECV, SYN_SENT, clients_in_state, servers_in_state};
use crate::lab::wait::{equal, until};
use crate::lab::watch::Watching;

/// The port of the end that stays in SYN_SENT until an answer comes.
const PORT: u16 = 8130;
/// The port of the end whose SYN meets another one.
const CROSSED_PORT: u16 = 8131;
const LIMIT: Duration = Duration::from_secs(20);
const ACCEPTED: &str = "tracer_tcp_accepted_connections_total";
const FAILURES: &str = "tracer_tcp_connect_failures_total";
const ENDED: &str = "tracer_tcp_connect_syn_retries_count";

/// How connects of the namespace ended: `result` and count, zeros left out.
fn ended(agent: &Agent, watch: &Watch<'_>) -> Vec<(String, u64)> {
    let scrape = agent.scrape();
    let netns = [("netns", watch.inode.as_str())];
    let rows = scrape.rows(ENDED, &netns).filter(|row| row.value > 0.0);
    rows.map(|row| (row.label("result").to_owned(), row.count())).collect()
}

fn accepted(agent: &Agent, watch: &Watch<'_>) -> u64 {
    agent.scrape().sum(ACCEPTED, &[("netns", &watch.inode)])
}

/// A socket that is bound to where it connects finds nobody there but itself.
#[test]
fn a_socket_that_connects_to_itself() {
    const TIMES: u16 = 10;
    let _lab = Lab::enter(&[Signal::Connections]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    // A child of a listener before and after: the kernel may give its socket's memory to the next one.
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let listener = Listener::open(&netns, to, 16);
    for number in 0..TIMES {
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let itself = SocketAddr::new(address, 20_000 + number);
            Client::connect_bound_blocking(&netns, itself, itself).reset();
            let mut client = Client::connect_bound(&netns, itself, itself).unwrap();
            assert_eq!(client.outcome(LIMIT), Ok(()));
            client.reset();
        }
        let client = Client::connect(&netns, to).into_stream();
        drop((listener.accept_stream(), client));
    }
    assert_closes(&agent, &[&watch]);
    let (alone, with_listener) = (4 * u64::from(TIMES), u64::from(TIMES));
    assert_eq!(watch.delta("ActiveOpens"), alone + with_listener);
    assert_eq!(ended(&agent, &watch), [("established".to_owned(), alone + with_listener)]);
    assert_eq!(accepted(&agent, &watch), with_listener);
}

/// Two namespaces, in each of which a socket connects to the other: `server`'s SYNs are lost, so that `client` stays in
/// SYN_SENT until the answer comes to the SYN of its own, which meets `server` in SYN_SENT.
struct Crossing<'a> {
    pair: &'a Pair,
    at_client: SocketAddr,
    at_server: SocketAddr,
}

impl<'a> Crossing<'a> {
    fn over_ipv4(pair: &'a Pair) -> Self {
        let (at_client, at_server) = ((CLIENT_V4, PORT).into(), (SERVER_V4, CROSSED_PORT).into());
        Self { pair, at_client, at_server }
    }

    fn over_ipv6(pair: &'a Pair) -> Self {
        let (at_client, at_server) = ((CLIENT_V6, PORT).into(), (SERVER_V6, CROSSED_PORT).into());
        Self { pair, at_client, at_server }
    }

    /// Both ends on their way; `lost` is what does not come to the client.
    fn begin(&self, lost: &str) -> (Firewall<'a>, Client, Client) {
        let firewall = Firewall::install(&self.pair.client, "input", lost);
        let crossed = Client::connect_from_shared(&self.pair.server, self.at_server, self.at_client);
        assert_eq!(clients_in_state(&self.pair.server, PORT, SYN_SENT), 1);
        let other = Client::connect_bound(&self.pair.client, self.at_client, self.at_server).unwrap();
        (firewall, crossed, other)
    }

    /// The same with the crossed end in SYN_RECV, and with no answer of it that would come to the client.
    fn stand(&self) -> (Firewall<'a>, Client, Client) {
        let begun = self.begin("meta l4proto tcp drop");
        let crossed = || equal("sockets in SYN_RECV", &clients_in_state(&self.pair.server, PORT, SYN_RECV), &1);
        until("the crossed end in SYN_RECV", LIMIT, crossed);
        begun
    }
}

const SYN_ALONE: &str = "tcp flags & (syn | ack) == syn drop";

fn established(crossing: &Crossing<'_>) {
    let (client, server) = (Watch::from_now(&crossing.pair.client), Watch::from_now(&crossing.pair.server));
    let agent = Agent::start();
    let (_firewall, mut crossed, mut other) = crossing.begin(SYN_ALONE);
    assert_eq!((crossed.outcome(LIMIT), other.outcome(LIMIT)), (Ok(()), Ok(())));
    assert_closes(&agent, &[&client, &server]);
    for watch in [&client, &server] {
        assert_eq!((watch.delta("ActiveOpens"), watch.delta("PassiveOpens")), (1, 0));
        assert_eq!(ended(&agent, watch), [("established".to_owned(), 1)]);
        assert_eq!(accepted(&agent, watch), 0);
    }
}

#[test]
fn established_over_ipv4() {
    let _lab = Lab::enter(&[Signal::Connections]);
    established(&Crossing::over_ipv4(&Pair::new()));
}

#[test]
fn established_over_ipv6() {
    let _lab = Lab::enter(&[Signal::Connections]);
    established(&Crossing::over_ipv6(&Pair::new()));
}

/// As hole punching does it: the port that connects is one that is listened on too. Its SYN-ACKs are a client's all the
/// same, and so is the time-out, with or without the listener's row.
fn gives_up(crossing: &Crossing<'_>, backlog: i32) {
    crossing.pair.server.set_tcp("tcp_syn_retries", "1");
    // Does not exist before 6.5, where there are none.
    crossing.pair.server.try_set_tcp("tcp_syn_linear_timeouts", "0");
    let watch = Watch::from_now(&crossing.pair.server);
    let agent = Agent::start();
    let _listener = Listener::open_shared(&crossing.pair.server, crossing.at_server, backlog);
    let (_firewall, mut crossed, other) = crossing.stand();
    // Its next SYN would come to the listener once the crossed end has gone.
    drop(other);
    assert_eq!(crossed.outcome(LIMIT), Err(Errno::TIMEDOUT));
    assert_closes(&agent, &[&watch]);
    assert_eq!(ended(&agent, &watch), [("timed_out".to_owned(), 1)]);
    assert_eq!(accepted(&agent, &watch), 0);
    let scrape = agent.scrape();
    let as_client = [("netns", watch.inode.as_str()), ("role", "client"), ("port", "8130")];
    assert_eq!(scrape.sum(TIMEOUTS, &as_client), 1, "{}", scrape.show(TIMEOUTS, &as_client[..1]));
    assert!(watch.delta("RetransSegs") > 0);
    assert_eq!(scrape.sum(RETRANSMITS, &as_client), watch.delta("RetransSegs"));
}

#[test]
fn given_up_over_ipv4() {
    let _lab = Lab::enter(&[Signal::Connections, Signal::Retransmits]);
    gives_up(&Crossing::over_ipv4(&Pair::new()), 16);
}

/// A child of a listener with a backlog of 0 looks like a client but for its port.
#[test]
fn given_up_over_ipv6_beside_a_listener_without_a_queue() {
    let _lab = Lab::enter(&[Signal::Connections, Signal::Retransmits]);
    gives_up(&Crossing::over_ipv6(&Pair::new()), 0);
}

/// One that was in SYN_RECV before the agent started is a client's too.
#[test]
fn closed_by_its_owner() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let pair = Pair::new();
    let crossing = Crossing::over_ipv4(&pair);
    let (_firewall, crossed, _other) = crossing.stand();
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    drop(crossed);
    // It sent SYN-ACKs all the time, also between the watch's start and the agent's.
    Closing::of(&agent, &[&watch]).without("retransmitted_segments").without("syn_retransmits").check();
    assert_eq!(ended(&agent, &watch), [("abandoned".to_owned(), 1)]);
    assert_eq!(failure(&agent, &watch, "abandoned"), 1);
}

#[test]
fn reset_by_the_other_end() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let watching = Watching::start(&["--kind", "connect", "--netns", &watch.inode]);
    let crossing = Crossing::over_ipv6(&pair);
    let (firewall, mut crossed, other) = crossing.stand();
    drop((other, firewall));
    // The next SYN-ACK finds nobody.
    assert_eq!(crossed.outcome(LIMIT), Err(Errno::CONNRESET));
    let seen = watching.end();
    let ends = |event: &Value| (event["result"].clone(), event["errno"].clone(), event["local_port"].clone());
    let told: Vec<_> = seen.events.iter().map(ends).collect();
    assert_eq!(told, [("reset".into(), 104.into(), CROSSED_PORT.into())], "{}", seen.summary());
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("AttemptFails"), 1);
    assert_eq!(ended(&agent, &watch), [("reset".to_owned(), 1)]);
    assert_eq!(failure(&agent, &watch, "reset"), 1);
    assert_eq!(accepted(&agent, &watch), 0);
}

/// A child of TCP Fast Open has a descriptor in SYN_RECV if it is accepted before its handshake ends. With a backlog of 0
/// it looks like a client but for its port.
#[test]
fn a_child_of_fast_open_that_was_accepted_early_is_no_connect() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let pair = Pair::new();
    // Client and server, both without cookies, and every listener.
    pair.client.set_tcp("tcp_fastopen", "5");
    pair.server.set_tcp("tcp_fastopen", "1538");
    let (client, server) = (Watch::from_now(&pair.client), Watch::from_now(&pair.server));
    let agent = Agent::start();
    let to = SocketAddr::from((SERVER_V4, PORT));
    let listener = Listener::open(&pair.server, to, 1);
    // What it takes of Fast Open stays as the first call made it.
    listener.listen_again(0);
    let firewall = Firewall::install(&pair.server, "input", "tcp flags & (syn | ack) == ack drop");
    let connecting = Client::fast_open(&pair.client, to, b"early");
    let accepted_early = listener.accept_stream();
    assert_eq!(clients_in_state(&pair.client, PORT, SYN_RECV), 0);
    assert_eq!(servers_in_state(&pair.server, PORT, SYN_RECV), 1);
    drop(firewall);
    let established = || equal("established", &servers_in_state(&pair.server, PORT, ESTABLISHED), &1);
    until("the end of the handshake", LIMIT, established);
    assert_closes(&agent, &[&client, &server]);
    assert_eq!((ended(&agent, &server), accepted(&agent, &server)), (vec![], 1));
    drop((connecting, accepted_early));
}

fn failure(agent: &Agent, watch: &Watch<'_>, error: &str) -> u64 {
    agent.scrape().sum(FAILURES, &[("netns", &watch.inode), ("error", error), ("port", "8130")])
}
