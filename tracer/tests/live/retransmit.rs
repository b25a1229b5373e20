//! Retransmitted segments under real loss: every one is counted, with its cause, the role of the
//! socket that sent it and the server's port.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::{Closing, assert_closes};
use crate::lab::counters::Watch;
use crate::lab::equations::{RETRANSMITS, RETRANSMITS_FAILED, as_value};
use crate::lab::firewall::Firewall;
use crate::lab::load::{Connection, Direction};
use crate::lab::machine::machine;
use crate::lab::netns::{Netns, Pair, SERVER_V4, SERVER_V6};
use crate::lab::results::note_difference;
use crate::lab::rungs::Signal;
use crate::lab::setting::patient;
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::{equal, until};

const PORT: u16 = 8086;
const LOSS: &str = "meta l4proto tcp numgen random mod 100 < 3 drop";
const MEGABYTE: usize = 1 << 20;
const LIMIT: Duration = Duration::from_secs(6);
/// A connect gives up after 7 s here.
const GIVE_UP: Duration = Duration::from_secs(15);

/// Waits until the kernel counted this many retransmitted segments.
fn wait_for_retransmits(watch: &Watch<'_>, at_least: u64) {
    until("retransmits", LIMIT, || match watch.delta("RetransSegs") {
        count if count >= at_least => Ok(()),
        count => Err(format!("RetransSegs {count} of {at_least}")),
    });
}

fn retransmits(agent: &Agent, watch: &Watch<'_>, labels: &[(&str, &str)]) -> u64 {
    let mut wanted = vec![("netns", watch.inode.as_str())];
    wanted.extend_from_slice(labels);
    agent.scrape().sum(RETRANSMITS, &wanted)
}

fn random_loss(direction: Direction, to: SocketAddr) {
    let pair = Pair::new();
    pair.client.offloads_off();
    pair.server.offloads_off();
    let (client, server) = (Watch::from_now(&pair.client), Watch::from_now(&pair.server));
    let agent = Agent::start();
    let listener = Listener::open(&pair.server, to, 16);
    let mut connections: Vec<_> = (0..3).map(|_| Connection::open(&pair, &listener, to)).collect();
    let firewalls = [Firewall::install(&pair.client, "input", LOSS), Firewall::install(&pair.server, "input", LOSS)];
    std::thread::scope(|scope| {
        for connection in &mut connections {
            scope.spawn(move || {
                connection.transfer(direction, 2 * MEGABYTE, Duration::from_secs(3));
            });
        }
    });
    drop(firewalls);
    drop(connections);
    assert_closes(&agent, &[&client, &server]);

    let (sender, role) = match direction {
        Direction::ToServer => (&client, "client"),
        Direction::ToClient => (&server, "server"),
    };
    let segments = sender.delta("RetransSegs");
    assert!(segments >= 20, "only {segments} segments sent again");
    // Those that the kernel did not show to the hook, which the closing check has held against its number.
    let unseen = retransmits(&agent, sender, &[("cause", "unknown")]);
    assert_eq!(retransmits(&agent, sender, &[("role", role), ("port", "8086")]) + unseen, segments);
    let causes = ["fast", "slow_start", "rto", "tail_loss_probe", "fin"];
    let by_cause = causes.map(|cause| retransmits(&agent, sender, &[("role", role), ("cause", cause)]));
    assert_eq!(by_cause.iter().sum::<u64>() + unseen, segments, "every segment has a cause");
    // A tail-loss probe may be new data as well, so the kernel's counter of these says nothing here.
    let kernel = ["TCPFastRetrans", "TCPSlowStartRetrans", "TCPTimeouts"];
    let kernel = kernel.map(|name| sender.delta(name));
    let too_few = by_cause.iter().zip(&kernel).map(|(named, counted)| counted.checked_sub(*named));
    let too_few = too_few.sum::<Option<u64>>();
    assert!(too_few.is_some_and(|few| few <= unseen), "{causes:?}: {by_cause:?}, kernel {kernel:?}, unseen {unseen}");
}

#[test]
fn loss_towards_the_server() {
    let _lab = Lab::enter(&[Signal::Retransmits]);
    random_loss(Direction::ToServer, SocketAddr::from((SERVER_V4, PORT)));
}

#[test]
fn loss_towards_the_client() {
    let _lab = Lab::enter(&[Signal::Retransmits]);
    random_loss(Direction::ToClient, SocketAddr::from((SERVER_V6, PORT)));
}

#[test]
fn silence_shows_the_probe_and_the_timeouts() {
    let _lab = Lab::enter(&[Signal::Retransmits]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let to = SocketAddr::from((SERVER_V4, PORT));
    let listener = Listener::open(&pair.server, to, 16);
    let mut connection = Connection::open(&pair, &listener, to);
    let firewall = Firewall::install(&pair.server, "input", "meta l4proto tcp drop");
    connection.client.write_all(b"lost").unwrap();
    wait_for_retransmits(&watch, 4);
    drop(firewall);
    // The next time-out is seconds away by now, and must not come between the readings.
    connection.server.set_read_timeout(Some(patient(GIVE_UP))).unwrap();
    connection.server.read_exact(&mut [0; 4]).unwrap();
    assert_closes(&agent, &[&watch]);
    let by_cause = |cause| retransmits(&agent, &watch, &[("role", "client"), ("port", "8086"), ("cause", cause)]);
    assert_eq!(
        (by_cause("tail_loss_probe"), by_cause("rto")),
        (watch.delta("TCPLossProbes"), watch.delta("TCPTimeouts")),
        "{}",
        agent.scrape().show("retransmit", &[("netns", &watch.inode)])
    );
}

#[test]
fn syn_acks_sent_again_count_at_their_listener() {
    let _lab = Lab::enter(&[Signal::Retransmits, Signal::SynackRetransmits]);
    let pair = Pair::new();
    let (client, server) = (Watch::from_now(&pair.client), Watch::from_now(&pair.server));
    let agent = Agent::start();
    let to = SocketAddr::from((SERVER_V4, PORT));
    let _listener = Listener::open(&pair.server, to, 16);
    let _idle = Listener::open(&pair.server, SocketAddr::from((SERVER_V4, PORT + 1)), 16);
    let firewall = Firewall::install(&pair.client, "input", "tcp flags & (syn | ack) == syn | ack drop");
    let clients = Client::connect_many(&pair.client, to, 3);
    wait_for_retransmits(&server, 6);
    drop(firewall);
    let connected: Vec<_> = clients.into_iter().map(Client::into_stream).collect();
    assert_closes(&agent, &[&client, &server]);
    let scrape = agent.scrape();
    let at_port = |port| scrape.sum("tracer_tcp_synack_retransmits_total", &[("netns", &server.inode), ("port", port)]);
    assert_eq!((at_port("8086"), at_port("8087")), (server.delta("TCPSynRetrans"), 0));
    let role = |role| [("role", role), ("port", "8086"), ("cause", "syn")];
    assert_eq!(retransmits(&agent, &server, &role("server")), server.delta("RetransSegs"));
    assert_eq!(retransmits(&agent, &client, &role("client")), client.delta("RetransSegs"));
    drop(connected);
}

/// With TCP Fast Open the child is made at the SYN, and it is the child that sends.
#[test]
fn fast_open_syn_acks_sent_again_count_at_their_listener() {
    let _lab = Lab::enter(&[Signal::SynackRetransmits]);
    let pair = Pair::new();
    // Client and server, both without cookies, and every listener.
    pair.client.set_tcp("tcp_fastopen", "5");
    pair.server.set_tcp("tcp_fastopen", "1538");
    let server = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let _listener = Listener::open(&pair.server, SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)), 16);
    let firewall = Firewall::install(&pair.client, "input", "tcp flags & (syn | ack) == syn | ack drop");
    let client = Client::fast_open(&pair.client, SocketAddr::from((SERVER_V4, PORT)), b"early");
    wait_for_retransmits(&server, 1);
    drop((client, firewall));
    assert_closes(&agent, &[&server]);
    assert_eq!(server.delta("TCPFastOpenPassive"), 1);
    let at_listener = [("netns", server.inode.as_str()), ("port", "8086"), ("address", "0.0.0.0")];
    // The child may send once more between scrape and counter.
    until("SYN-ACKs of the listener", LIMIT, || {
        let told = agent.scrape().sum("tracer_tcp_synack_retransmits_total", &at_listener);
        equal("SYN-ACKs", &told, &server.delta("TCPSynRetrans"))
    });
}

/// How often a namespace with `tcp_syn_retries=2` sends a SYN again: the kernel gives up when as
/// many are out as retries and linear time-outs together, or when the time of two doublings (7 s)
/// has passed. With the usual four linear time-outs that is 1, 2, 3, 4 and 5 s; before 6.5 it is
/// 1 and 3 s.
fn syn_retries(netns: &Netns) -> u64 {
    netns.set_tcp("tcp_syn_retries", "2");
    if netns.try_set_tcp("tcp_syn_linear_timeouts", "4") { 5 } else { 2 }
}

#[test]
fn blackholed_connect_climbs_the_ladder_of_its_namespace() {
    let _lab = Lab::enter(&[Signal::Retransmits, Signal::Connections]);
    let pair = Pair::new();
    let retries = syn_retries(&pair.client);
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let _firewall = Firewall::install(&pair.server, "input", "tcp flags syn drop");
    let mut client = Client::connect(&pair.client, SocketAddr::from((SERVER_V4, PORT)));
    assert_eq!(client.outcome(GIVE_UP), Err(Errno::TIMEDOUT));
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("TCPSynRetrans"), retries);
    let labels = [("role", "client"), ("port", "8086"), ("cause", "syn")];
    assert_eq!(retransmits(&agent, &watch, &labels), retries);

    let scrape = agent.scrape();
    let of = [("netns", watch.inode.as_str()), ("result", "timed_out")];
    for bucket in scrape.rows("tracer_tcp_connect_syn_retries_bucket", &of) {
        let bound: f64 = bucket.label("le").parse().unwrap();
        assert_eq!(bucket.count(), u64::from(bound >= as_value(retries)), "{bucket:?}");
    }
    let one = |suffix| scrape.one(&format!("tracer_tcp_connect_syn_retries_{suffix}"), &of);
    assert_eq!((one("count"), one("sum")), (Ok(1.0), Ok(as_value(retries))));
}

#[test]
fn syns_that_never_leave_balance_against_retrans_fail() {
    let _lab = Lab::enter(&[Signal::Retransmits]);
    let pair = Pair::new();
    let retries = syn_retries(&pair.client);
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let _firewall = Firewall::install(&pair.client, "output", "tcp flags syn drop");
    let mut client = Client::connect(&pair.client, SocketAddr::from((SERVER_V4, PORT)));
    assert_eq!(client.outcome(GIVE_UP), Err(Errno::TIMEDOUT));
    let counters = ["TCPRetransFail", "RetransSegs", "TCPSynRetrans"];
    assert_eq!(counters.map(|name| watch.delta(name)), [retries; 3]);
    let named = |agent| retransmits(agent, &watch, &[("role", "client"), ("port", "8086"), ("cause", "syn")]);
    if agent.rungs().sees_refused_retransmits() {
        assert_closes(&agent, &[&watch]);
        assert_eq!(named(&agent), retries);
    } else {
        // The tracepoint fires for what was sent alone: these are the namespace's, and nothing tells
        // that they were SYNs.
        Closing::of(&agent, &[&watch]).without("syn_retransmits").check();
        assert_eq!(named(&agent), 0);
        let difference = [("netns", watch.inode.as_str()), ("signal", "syn_retransmits")];
        assert_eq!(agent.scrape().one("tracer_count_difference", &difference), Ok(as_value(retries)));
        note_difference("syn_retransmits", retries.cast_signed());
    }
    let cause = if agent.rungs().sees_refused_retransmits() { "syn" } else { "unknown" };
    let refused = |labels: &[(&str, &str)]| agent.scrape().sum(RETRANSMITS_FAILED, labels);
    let netns = ("netns", watch.inode.as_str());
    assert_eq!((refused(&[netns]), refused(&[netns, ("cause", cause)])), (retries, retries));
}

/// A server without TCP Fast Open acknowledges a SYN and not the data that came with it. The client sends the data again
/// when the answer to its SYN comes, and that is no SYN.
fn data_of_a_syn_is_sent_again(to: SocketAddr) {
    let _lab = Lab::enter(&[Signal::Retransmits]);
    let pair = Pair::new();
    // Data goes with a SYN, with no cookie asked for.
    pair.client.set_tcp("tcp_fastopen", "5");
    pair.server.set_tcp("tcp_fastopen", "0");
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let listener = Listener::open(&pair.server, to, 16);
    let client = Client::fast_open(&pair.client, to, b"early");
    let mut server = listener.accept_stream();
    server.set_read_timeout(Some(patient(LIMIT))).unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    assert_closes(&agent, &[&watch]);
    let sent_again = watch.delta("RetransSegs");
    assert!(sent_again > 0 && watch.delta("TCPSynRetrans") == 0);
    let by_cause = |cause| retransmits(&agent, &watch, &[("role", "client"), ("port", "8086"), ("cause", cause)]);
    // Those that the kernel did not show to the hook, which the closing check has held against its number.
    let unseen = retransmits(&agent, &watch, &[("cause", "unknown")]);
    // A kernel that does not take this for a loss has armed the timer of a loss probe by then, and looks like one.
    let old = if machine().kernel < (5, 15, 0) { by_cause("tail_loss_probe") } else { 0 };
    let told = ["fast", "slow_start", "rto"].map(by_cause).iter().sum::<u64>() + old;
    assert_eq!(told + unseen, sent_again, "{}", agent.scrape().show(RETRANSMITS, &[("netns", &watch.inode)]));
    drop(client);
}

#[test]
fn data_of_a_syn_sent_again_over_ipv4_is_no_syn() {
    data_of_a_syn_is_sent_again(SocketAddr::from((SERVER_V4, PORT)));
}

#[test]
fn data_of_a_syn_sent_again_over_ipv6_is_no_syn() {
    data_of_a_syn_is_sent_again(SocketAddr::from((SERVER_V6, PORT)));
}

/// Data that is lost, and that a rule of the host itself refuses whenever it is sent again. What is sent again once the
/// rule has gone has an owner and a cause as ever.
fn data_that_never_leaves(to: SocketAddr) {
    let _lab = Lab::enter(&[Signal::Retransmits]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let listener = Listener::open(&pair.server, to, 16);
    let mut connection = Connection::open(&pair, &listener, to);
    // A segment that is refused at its first sending counts as no retransmit. So the first copy goes out and is lost at
    // the server.
    let loss = Firewall::install(&pair.server, "input", "meta l4proto tcp drop");
    connection.client.write_all(b"refused").unwrap();
    let firewall = Firewall::install(&pair.client, "output", "meta l4proto tcp drop");
    until("refused segments", LIMIT, || match watch.delta("TCPRetransFail") {
        3.. => Ok(()),
        count => Err(format!("TCPRetransFail {count}")),
    });
    drop((firewall, loss));
    connection.server.set_read_timeout(Some(patient(GIVE_UP))).unwrap();
    connection.server.read_exact(&mut [0; 7]).unwrap();
    assert_closes(&agent, &[&watch]);

    // The closing check has held the number of an unknown cause against the kernel's: refused, or not shown to the hook.
    let unknown = retransmits(&agent, &watch, &[("cause", "unknown")]);
    let told = retransmits(&agent, &watch, &[("role", "client"), ("port", "8086")]);
    assert_eq!(told + unknown, watch.delta("RetransSegs"));
    let failed = agent.scrape().sum(RETRANSMITS_FAILED, &[("netns", &watch.inode)]);
    assert_eq!(failed, watch.delta("TCPRetransFail"));
    let by_cause = ["tail_loss_probe", "rto", "unknown"]
        .map(|cause| agent.scrape().sum(RETRANSMITS_FAILED, &[("netns", &watch.inode), ("cause", cause)]));
    assert_eq!(by_cause.iter().sum::<u64>(), failed);
    assert_eq!(by_cause[2] == 0, agent.rungs().sees_refused_retransmits(), "refused by cause: {by_cause:?}");
    // The one that came through, and where the hook sees them those that were refused.
    let least = if agent.rungs().sees_refused_retransmits() { failed + 1 } else { 1 };
    assert!(told >= least, "{told} told, {unknown} unknown, {failed} refused");
}

#[test]
fn data_that_never_leaves_balances_against_retrans_fail() {
    data_that_never_leaves(SocketAddr::from((SERVER_V4, PORT)));
}

#[test]
fn data_that_never_leaves_over_ipv6_balances_against_retrans_fail() {
    data_that_never_leaves(SocketAddr::from((SERVER_V6, PORT)));
}
