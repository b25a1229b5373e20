//! Open sockets by owner and state, and the age of the oldest CLOSE_WAIT: compared with
//! `/proc/net/tcp` and `tcp6` of the namespace, and with the test's own clock.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::cgroup::Cgroup;
use crate::lab::descriptors::have_descriptors;
use crate::lab::firewall::Firewall;
use crate::lab::holders::{Holders, Plan};
use crate::lab::load::{Connection, FirstClose, open_and_close};
use crate::lab::machine::machine;
use crate::lab::netns::{Netns, Pair, SERVER_V4, SERVER_V6};
use crate::lab::rungs::Signal;
use crate::lab::scrape::Scrape;
use crate::lab::sockets::{Client, Listener, held_by_state};
use crate::lab::wait::{equal, until};

const SOCKETS: &str = "tracer_tcp_sockets";
const OLDEST: &str = "tracer_tcp_close_wait_oldest_seconds";
const PORT: u16 = 8130;
const LIMIT: Duration = Duration::from_secs(10);
const PASS_INTERVAL: Duration = Duration::from_millis(200);
/// What the age may lag behind the test's clock beyond the pass's own age.
const LAG: Duration = Duration::from_secs(1);

/// Above what the tests here hold at once.
const DESCRIPTORS: u64 = 4_096;

const STATES: [(u8, &str); 9] = [
    (1, "ESTABLISHED"),
    (2, "SYN_SENT"),
    (3, "SYN_RECV"),
    (4, "FIN_WAIT1"),
    (5, "FIN_WAIT2"),
    (8, "CLOSE_WAIT"),
    (9, "LAST_ACK"),
    (10, "LISTEN"),
    (11, "CLOSING"),
];

/// Sockets of the namespace by state, as the last pass counted them.
fn counted(scrape: &Scrape, netns: &Netns) -> BTreeMap<u8, u64> {
    let inode = netns.inode();
    let of = |name| scrape.sum(SOCKETS, &[("netns", &inode), ("state", name)]);
    STATES.iter().map(|&(state, name)| (state, of(name))).filter(|(_, count)| *count > 0).collect()
}

fn in_state(scrape: &Scrape, netns: &Netns, state: &str) -> u64 {
    scrape.sum(SOCKETS, &[("netns", &netns.inode()), ("state", state)])
}

/// Waits until the namespace's sockets are these, by state.
#[track_caller]
fn await_states(agent: &Agent, netns: &Netns, expected: &[(&str, u64)]) {
    until("sockets by state", LIMIT, || {
        let scrape = agent.scrape();
        let found: Vec<_> = expected.iter().map(|&(state, _)| (state, in_state(&scrape, netns, state))).collect();
        equal(&scrape.show(SOCKETS, &[("netns", &netns.inode())]), &found.as_slice(), &expected)
    });
}

/// Holds the figures against `/proc` in several passes: a wrong one must not be right at times.
#[track_caller]
fn assert_equals_proc(agent: &Agent, netns: &Netns) {
    until("sockets as /proc lists them", LIMIT, || {
        equal("sockets by state", &counted(&agent.scrape(), netns), &held_by_state(netns))
    });
    for _ in 0..5 {
        agent.await_pass();
        assert_eq!(counted(&agent.scrape(), netns), held_by_state(netns));
    }
    assert_eq!(agent.scrape().one("tracer_sockets_uncounted", &[]), Ok(0.0));
}

/// The age of the namespace's oldest CLOSE_WAIT, brought forward from the pass to the scrape.
fn oldest(scrape: &Scrape, netns: &Netns) -> Result<Duration, String> {
    let pass = scrape.one("tracer_pass_age_seconds", &[("pass", "sockets")])?;
    let age = scrape.one(OLDEST, &[("netns", &netns.inode())])?;
    // The pass began that much before it ended.
    let duration = scrape.one("tracer_pass_duration_seconds", &[("pass", "sockets")])?;
    if age > 0.0 { Ok(Duration::from_secs_f64(age + pass + duration)) } else { Err("no age".to_owned()) }
}

/// The age must equal the time since `since`, as far as a second.
#[track_caller]
fn assert_age(agent: &Agent, netns: &Netns, since: Instant) {
    let before = since.elapsed();
    let age = oldest(&agent.scrape(), netns).unwrap();
    let after = since.elapsed();
    // (The walk may have come to the sockets after the pass began.)
    assert!(age + LAG >= before && age <= after + PASS_INTERVAL, "{age:?}, expected {before:?} to {after:?}");
}

/// Whether the pass walks over open files, else over each namespace's sockets.
fn walks_files(agent: &Agent) -> bool {
    agent.rungs().ladders[&Signal::SocketPass].in_force.starts_with("task_file")
}

/// A connection whose client has said that it is done, and whose server has read so.
fn leak(pair: &Pair, listener: &Listener, to: SocketAddr) -> Connection {
    let mut connection = Connection::open(pair, listener, to);
    connection.client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.server.read(&mut [0; 1]).unwrap(), 0, "end of stream expected");
    connection
}

/// Lets an ACK come to the server's socket, which stays in CLOSE_WAIT.
fn answer(connection: &mut Connection) {
    connection.server.write_all(b"x").unwrap();
    connection.client.read_exact(&mut [0; 1]).unwrap();
}

#[test]
fn close_wait_leak_with_peers_in_fin_wait2() {
    const LEAKED: usize = 20;
    let _lab = Lab::enter(&[Signal::SocketPass]);
    let pair = Pair::new();
    let agent = Agent::start();
    let to = SocketAddr::from((SERVER_V4, PORT));
    let listener = Listener::open(&pair.server, to, 64);
    let since = Instant::now();
    let mut leaked: Vec<_> = (0..LEAKED).map(|_| leak(&pair, &listener, to)).collect();
    let count = LEAKED as u64;
    await_states(&agent, &pair.server, &[("CLOSE_WAIT", count), ("ESTABLISHED", 0), ("LISTEN", 1)]);
    await_states(&agent, &pair.client, &[("FIN_WAIT2", count), ("CLOSE_WAIT", 0), ("ESTABLISHED", 0)]);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(700));
        agent.await_pass();
        assert_age(&agent, &pair.server, since);
    }
    // What follows the FIN does not make them younger, since walks have seen them.
    leaked.iter_mut().for_each(answer);
    agent.await_two_passes();
    assert_age(&agent, &pair.server, since);
    // The oldest leaves; the next in age came in the same second.
    drop(leaked.remove(0));
    await_states(&agent, &pair.server, &[("CLOSE_WAIT", count - 1)]);
    drop(leaked);
    await_states(&agent, &pair.server, &[("CLOSE_WAIT", 0), ("ESTABLISHED", 0), ("LISTEN", 1)]);
    // The listener's owner still has a row, and nothing leaks.
    assert_eq!(agent.scrape().one(OLDEST, &[("netns", &pair.server.inode())]), Ok(0.0));
    assert_eq!(counted(&agent.scrape(), &pair.client), BTreeMap::new());
}

#[test]
fn close_wait_from_before_the_agent() {
    let _lab = Lab::enter(&[Signal::SocketPass]);
    let (silent, answering) = (Pair::new(), Pair::new());
    let to = SocketAddr::from((SERVER_V4, PORT + 1));
    let listeners = [&silent, &answering].map(|pair| Listener::open(&pair.server, to, 8));
    let since = Instant::now();
    let first = leak(&silent, &listeners[0], to);
    let mut second = leak(&answering, &listeners[1], to);
    std::thread::sleep(Duration::from_millis(2_500));
    let last_ack = Instant::now();
    answer(&mut second);
    std::thread::sleep(Duration::from_millis(1_500));
    let agent = Agent::start();
    until("an age", LIMIT, || oldest(&agent.scrape(), &answering.server));
    // Nothing came after the FIN, so the bound is the age itself.
    assert_age(&agent, &silent.server, since);
    // All that can be told is that it was there when the last ACK came.
    assert_age(&agent, &answering.server, last_ack);
    drop((first, second));
}

#[test]
fn counts_by_state_equal_proc() {
    let _lab = Lab::enter(&[Signal::SocketPass]);
    let pair = Pair::new();
    let agent = Agent::start();
    let (v4, v6) = (SocketAddr::from((SERVER_V4, PORT + 2)), SocketAddr::from((SERVER_V6, PORT + 3)));
    let listeners = [Listener::open(&pair.server, v4, 64), Listener::open(&pair.server, v6, 64)];
    let held: Vec<_> = (0..3)
        .flat_map(|_| listeners.iter().zip([v4, v6]))
        .map(|(listener, to)| Connection::open(&pair, listener, to))
        .collect();
    let leaked = leak(&pair, &listeners[1], v6);
    open_and_close(&pair.client, &listeners[0], v4, 4, FirstClose::Client);
    // A connection that its peer reset: still held, and in no table of the kernel.
    let connection = Connection::open(&pair, &listeners[0], v4);
    let reset = Client::connect(&pair.client, v4);
    let reset_server = listeners[0].accept_stream();
    reset.reset();
    // These wait for accept(): held at one end only.
    let waiting: Vec<TcpStream> =
        Client::connect_many(&pair.client, v4, 5).into_iter().map(Client::into_stream).collect();
    let firewall = Firewall::install(&pair.server, "input", "meta l4proto tcp drop");
    let sending = Client::connect_many(&pair.client, v4, 2);
    connection.client.shutdown(Shutdown::Write).unwrap();
    assert_equals_proc(&agent, &pair.client);
    assert_equals_proc(&agent, &pair.server);
    let scrape = agent.scrape();
    let client = counted(&scrape, &pair.client);
    assert_eq!(client, BTreeMap::from([(1, 6 + 5), (2, 2), (4, 1), (5, 1)]), "the experiment is another");
    assert_eq!(in_state(&scrape, &pair.server, "CLOSE"), u64::from(walks_files(&agent)));
    drop((held, leaked, connection, reset_server, waiting, sending, firewall));
}

#[test]
fn sockets_of_forked_holders_count_once() {
    let _lab = Lab::enter(&[Signal::SocketPass]);
    let netns = Netns::single();
    let agent = Agent::start();
    let plain = Plan { cgroup: "", port: PORT + 4, connections: 50, shut: false, forks: 3, shares_table: false };
    let held = [
        Holders::start(&netns, &plain),
        Holders::start(&netns, &Plan { port: PORT + 5, forks: 0, shares_table: true, ..plain }),
    ];
    await_states(&agent, &netns, &[("ESTABLISHED", 2 * 2 * 50), ("LISTEN", 2)]);
    assert_equals_proc(&agent, &netns);
    let shared = agent.scrape().one("tracer_map_entries", &[("map", "shared_sockets")]).unwrap();
    assert!(!walks_files(&agent) || shared >= 202.0, "{shared} sockets with several holders");
    drop(held);
    await_states(&agent, &netns, &[("ESTABLISHED", 0), ("LISTEN", 0)]);
}

#[test]
fn other_files_change_nothing() {
    let _lab = Lab::enter(&[Signal::SocketPass]);
    have_descriptors(DESCRIPTORS);
    let netns = Netns::single();
    let agent = Agent::start();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT + 6));
    let listener = Listener::open(&netns, to, 8);
    let client = Client::connect(&netns, to).into_stream();
    let files: Vec<File> = (0..2_000).map(|_| File::open("/dev/null").unwrap()).collect();
    let server = listener.accept_stream();
    await_states(&agent, &netns, &[("ESTABLISHED", 2), ("LISTEN", 1)]);
    assert_equals_proc(&agent, &netns);
    drop((client, server, files));
}

#[test]
fn closed_connections_leave_no_count() {
    const CONNECTIONS: usize = 500;
    let _lab = Lab::enter(&[Signal::SocketPass]);
    have_descriptors(DESCRIPTORS);
    let pair = Pair::new();
    let agent = Agent::start();
    let to = SocketAddr::from((SERVER_V4, PORT + 7));
    let listener = Listener::open(&pair.server, to, 1_024);
    for _ in 0..2 {
        let clients = Client::connect_many(&pair.client, to, CONNECTIONS);
        let servers: Vec<_> = clients.iter().map(|_| listener.accept_stream()).collect();
        let count = CONNECTIONS as u64;
        await_states(&agent, &pair.client, &[("ESTABLISHED", count)]);
        await_states(&agent, &pair.server, &[("ESTABLISHED", count), ("LISTEN", 1)]);
        clients.into_iter().for_each(Client::reset);
        drop(servers);
        until("the last socket's rows", LIMIT, || {
            equal("rows", &agent.scrape().rows(SOCKETS, &[("netns", &pair.client.inode())]).count(), &0)
        });
        await_states(&agent, &pair.server, &[("ESTABLISHED", 0), ("LISTEN", 1), ("CLOSE", 0)]);
    }
}

/// More records than the iterator's buffer holds: the kernel shows the socket that did not fit again.
#[test]
fn many_listeners_count_once() {
    const LISTENERS: usize = 500;
    let _lab = Lab::enter(&[Signal::SocketPass, Signal::ListenerPass]);
    have_descriptors(DESCRIPTORS);
    let netns = Netns::single();
    let any = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let listeners: Vec<_> = (0..LISTENERS).map(|_| Listener::open(&netns, any, 1)).collect();
    let agent = Agent::start();
    await_states(&agent, &netns, &[("LISTEN", LISTENERS as u64)]);
    assert_equals_proc(&agent, &netns);
    let rows = agent.scrape().sum("tracer_tcp_listener_sockets", &[("netns", &netns.inode())]);
    assert_eq!(rows, LISTENERS as u64);
    drop(listeners);
}

#[test]
fn a_leak_has_the_owner_of_its_cgroup() {
    let _lab = Lab::enter(&[Signal::SocketPass]);
    let netns = Netns::single();
    let name = format!("tracer-live-{}.service", std::process::id());
    let cgroup = Cgroup::make(&name);
    let agent = Agent::start();
    let plan =
        Plan { cgroup: cgroup.path(), port: PORT + 8, connections: 7, shut: true, forks: 1, shares_table: false };
    let leaking = Holders::start(&netns, &plan);
    await_states(&agent, &netns, &[("CLOSE_WAIT", 7), ("FIN_WAIT2", 7), ("LISTEN", 1)]);
    // Where sockets do not show their cgroup, only a walk that meets their holders tells owners apart.
    if walks_files(&agent) || machine().kernel >= (5, 15, 0) {
        until("the unit's name", LIMIT, || {
            let scrape = agent.scrape();
            let unit = [("netns", &*netns.inode()), ("unit", &*name)];
            equal(&scrape.show("tracer_tcp_", &unit[..1]), &scrape.sum(SOCKETS, &unit), &15)?;
            oldest(&scrape, &netns).map(drop)
        });
    }
    drop(leaking);
    await_states(&agent, &netns, &[("CLOSE_WAIT", 0), ("LISTEN", 0)]);
}

#[test]
fn owners_without_room_count_as_other() {
    let _lab = Lab::enter(&[Signal::SocketPass]);
    let pair = Pair::new();
    let agent = Agent::with(PASS_INTERVAL, &["--max-workloads", "1"]);
    let to = SocketAddr::from((SERVER_V4, PORT + 9));
    let listener = Listener::open(&pair.server, to, 8);
    let leaked = leak(&pair, &listener, to);
    let held: Vec<_> = (0..4).map(|_| Connection::open(&pair, &listener, to)).collect();
    assert_equals_proc(&agent, &pair.client);
    assert_equals_proc(&agent, &pair.server);
    let scrape = agent.scrape();
    let other = |netns: &Netns| scrape.sum(SOCKETS, &[("netns", &netns.inode()), ("unit", "_other")]);
    // Each namespace has sockets of its own, and there is room for one owner's.
    let (client, server) = (other(&pair.client), other(&pair.server));
    assert!(client.max(server) >= 5, "{}", scrape.show(SOCKETS, &[]));
    assert_eq!(scrape.one("tracer_map_capacity", &[("map", "sockets")]), Ok(1.0));
    drop((leaked, held));
}
