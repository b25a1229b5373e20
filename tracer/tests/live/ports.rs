//! Ephemeral ports by destination: a range that one destination uses up, and its cure; whose sockets
//! count and whose do not. The truth is `/proc/net/tcp` and `/proc/net/tcp6` of the namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::descriptors::have_descriptors;
use crate::lab::equations::as_value;
use crate::lab::load::{FirstClose, open_and_close};
use crate::lab::netns::{CLIENT_V4, CLIENT_V6, Netns, Pair, SERVER_V4, SERVER_V6};
use crate::lab::rungs::Signal;
use crate::lab::script::Script;
use crate::lab::sockets::{Client, ESTABLISHED, Listener, TIME_WAIT, clients_in_state, servers_in_state};
use crate::lab::wait::{equal, until};

const PORT: u16 = 8095;
const OTHER_PORT: u16 = 8096;
/// The documents' machine had 28 232 ports; a hundred are used up faster.
const RANGE: &str = "40000 40099";
const PORTS: usize = 100;
const USED: &str = "tracer_tcp_ephemeral_ports_used";
const AVAILABLE: &str = "tracer_tcp_ephemeral_ports_available";
const BIND_FAILURES: &str = "tracer_tcp_bind_failures_total";
const FAILURES: &str = "tracer_tcp_connect_failures_total";
const LIMIT: Duration = Duration::from_secs(10);
/// Walks keep to half of the passes' share of a core.
const WALK_LIMIT: Duration = Duration::from_secs(30);
/// How old a TIME_WAIT socket must be before its port is given again, by a clock of whole seconds.
const REUSE_AGE: Duration = Duration::from_millis(2100);

/// The namespace's row; `None` if it has none.
fn used(agent: &Agent, watch: &Watch<'_>) -> Option<f64> {
    let scrape = agent.scrape();
    let labels = [("netns", watch.inode.as_str())];
    let mut rows = scrape.rows(USED, &labels);
    let row = rows.next().map(|row| row.value);
    assert!(rows.next().is_none(), "one row a namespace");
    row
}

#[track_caller]
fn await_used(agent: &Agent, watch: &Watch<'_>, expected: Option<usize>) {
    let expected = expected.map(|used| as_value(used.try_into().unwrap()));
    until("ephemeral ports used", WALK_LIMIT, || equal("used", &used(agent, watch), &expected));
}

/// The namespace's ports in `/status`; an error before the first walk.
fn ports(agent: &Agent, watch: &Watch<'_>) -> Result<Value, String> {
    let status = agent.status();
    let found = status["ports"].as_array().unwrap().iter().find(|ports| ports["netns"] == watch.inode.as_str());
    found.cloned().ok_or_else(|| format!("no ports of {} in {:#}", watch.inode, status["ports"]))
}

fn destination(source: IpAddr, to: SocketAddr, used: usize, time_wait: usize) -> Value {
    json!({ "source": source, "destination": to, "used": used, "time_wait": time_wait })
}

#[track_caller]
fn await_destinations(agent: &Agent, watch: &Watch<'_>, expected: &[Value]) {
    until("the destinations", WALK_LIMIT, || {
        equal("destinations", &ports(agent, watch)?["destinations"], &Value::from(expected.to_vec()))
    });
}

fn connect(pair: &Pair, listener: &Listener, to: SocketAddr, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let connection = |_| (Client::connect(&pair.client, to).into_stream(), listener.accept_stream());
    (0..count).map(connection).collect()
}

fn connect_in_vain(pair: &Pair, to: SocketAddr) {
    assert_eq!(Client::connect(&pair.client, to).outcome(LIMIT), Err(Errno::ADDRNOTAVAIL));
}

/// Documents 001, 003 and 004: the active closer's TIME_WAIT sockets use up the range towards one
/// destination; tcp_tw_reuse gives ports again once they are a second old, beyond loopback only if it
/// is 1.
#[test]
fn one_destination_uses_up_the_range_until_time_wait_is_reused() {
    let _lab = Lab::enter(&[Signal::EphemeralPorts, Signal::Connections]);
    let pair = Pair::new();
    pair.client.set_tcp("ip_local_port_range", RANGE);
    pair.client.set_tcp("tcp_tw_reuse", "2");
    let (client, server) = (Watch::from_now(&pair.client), Watch::from_now(&pair.server));
    let agent = Agent::start();
    let (to, other) = (SocketAddr::from((SERVER_V4, PORT)), SocketAddr::from((SERVER_V4, OTHER_PORT)));
    let listener = Listener::open(&pair.server, to, 128);
    let other_listener = Listener::open(&pair.server, other, 128);

    open_and_close(&pair.client, &listener, to, PORTS, FirstClose::Client);
    sleep(REUSE_AGE);
    for _ in 0..3 {
        connect_in_vain(&pair, to);
    }
    assert_eq!(clients_in_state(&pair.client, PORT, TIME_WAIT), PORTS);
    await_used(&agent, &client, Some(PORTS));
    assert_eq!(agent.scrape().one(AVAILABLE, &[("netns", &client.inode)]), Ok(as_value(100)));
    await_destinations(&agent, &client, &[destination(CLIENT_V4, to, PORTS, PORTS)]);
    let no_port = || agent.scrape().sum(FAILURES, &[("netns", &client.inode), ("error", "no_port")]);
    assert_eq!(no_port(), 3);

    let elsewhere = connect(&pair, &other_listener, other, 5);
    let expected = [destination(CLIENT_V4, to, PORTS, PORTS), destination(CLIENT_V4, other, 5, 0)];
    await_destinations(&agent, &client, &expected);

    pair.client.set_tcp("tcp_tw_reuse", "1");
    let cured = connect(&pair, &listener, to, 20);
    assert_eq!(clients_in_state(&pair.client, PORT, ESTABLISHED), 20);
    assert_eq!(clients_in_state(&pair.client, PORT, TIME_WAIT), PORTS - 20);
    let expected = [destination(CLIENT_V4, to, PORTS, PORTS - 20), destination(CLIENT_V4, other, 5, 0)];
    await_destinations(&agent, &client, &expected);
    assert_eq!(used(&agent, &client), Some(as_value(100)));
    assert_eq!(no_port(), 3, "cured");
    assert_eq!(used(&agent, &server), None, "27 sockets are far from a range of thousands");
    assert_closes(&agent, &[&client, &server]);
    drop((elsewhere, cured));
}

/// IPv6 has destinations of its own; IPv4 through an IPv6 socket has those of IPv4.
#[test]
fn both_families_are_told_apart_and_mapped_addresses_are_not() {
    let _lab = Lab::enter(&[Signal::EphemeralPorts]);
    let pair = Pair::new();
    pair.client.set_tcp("ip_local_port_range", RANGE);
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    assert_eq!(used(&agent, &watch), None);
    let (v4, v6) = (SocketAddr::from((SERVER_V4, PORT)), SocketAddr::from((SERVER_V6, PORT)));
    let IpAddr::V4(address) = SERVER_V4 else { unreachable!() };
    let mapped = SocketAddr::from((address.to_ipv6_mapped(), PORT));
    // It takes IPv4 as well.
    let listener = Listener::open(&pair.server, SocketAddr::from(([0_u16; 8], PORT)), 128);
    let held =
        [connect(&pair, &listener, v4, 8), connect(&pair, &listener, mapped, 9), connect(&pair, &listener, v6, 30)];
    open_and_close(&pair.client, &listener, v6, 4, FirstClose::Client);
    open_and_close(&pair.client, &listener, mapped, 3, FirstClose::Client);
    let expected = [destination(CLIENT_V6, v6, 34, 4), destination(CLIENT_V4, v4, 20, 3)];
    await_destinations(&agent, &watch, &expected);
    assert_eq!(used(&agent, &watch), Some(as_value(34)));
    assert_eq!(clients_in_state(&pair.client, PORT, ESTABLISHED), 47);
    assert_eq!(clients_in_state(&pair.client, PORT, TIME_WAIT), 7);

    // Far from the range again: the row goes, it does not fall to zero.
    for (client, _server) in held.into_iter().flatten() {
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    }
    await_used(&agent, &watch, None);
    assert_eq!(clients_in_state(&pair.client, PORT, TIME_WAIT), 7, "a few are left");
    assert_closes(&agent, &[&watch]);
}

/// Sockets that are bound to an address and any port (port 0) before they connect: the kernel gives such a port to
/// nobody else, whatever the destination, until TIME_WAIT is over as well.
fn bind_takes_ports_from_all_destinations(address: IpAddr) {
    const DESTINATIONS: u16 = 10;
    let _lab = Lab::enter(&[Signal::EphemeralPorts, Signal::BindFailures, Signal::Connections]);
    let netns = Netns::single();
    netns.set_tcp("ip_local_port_range", RANGE);
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let anywhere = SocketAddr::new(address, 0);
    let mut held = Vec::new();
    let mut listeners = Vec::new();
    for number in 0..DESTINATIONS {
        let to = SocketAddr::new(address, PORT + number);
        let listener = Listener::open(&netns, to, 128);
        for _ in 0..PORTS / usize::from(DESTINATIONS) {
            let client = Client::connect_bound(&netns, anywhere, to).unwrap().into_stream();
            held.push((client, listener.accept_stream()));
        }
        listeners.push(listener);
    }
    let to = SocketAddr::new(address, PORT);
    for _ in 0..3 {
        assert_eq!(Client::connect_bound(&netns, anywhere, to).err(), Some(Errno::ADDRINUSE));
    }
    assert_eq!(Client::connect(&netns, to).outcome(LIMIT), Err(Errno::ADDRNOTAVAIL));
    await_used(&agent, &watch, Some(PORTS));
    let found = ports(&agent, &watch).unwrap();
    assert_eq!(found["bound"], PORTS, "{found:#}");
    let by_destination: Vec<_> = found["destinations"].as_array().unwrap().iter().map(|to| &to["used"]).collect();
    assert_eq!(by_destination, [10; DESTINATIONS as usize]);
    for (client, server) in held {
        drop(client);
        drop(server);
    }
    let all_closed = || equal("in TIME_WAIT", &servers_in_range(&netns, TIME_WAIT), &PORTS);
    until("all closed", LIMIT, all_closed);
    await_destinations_in_time_wait(&agent, &watch, DESTINATIONS.into());
    await_used(&agent, &watch, Some(PORTS));
    assert_eq!(Client::connect_bound(&netns, anywhere, to).err(), Some(Errno::ADDRINUSE));

    assert_closes(&agent, &[&watch]);
    let failed = agent.scrape().sum(BIND_FAILURES, &[("netns", &watch.inode)]);
    assert_eq!(failed, if agent.rungs().sees_binds_in_vain() { 4 } else { 0 });
    assert_eq!(agent.scrape().sum(FAILURES, &[("netns", &watch.inode), ("error", "no_port")]), 1);
}

/// Sockets whose local port lies in the range.
fn servers_in_range(netns: &Netns, state: u8) -> usize {
    netns.ephemeral_ports().map(|port| servers_in_state(netns, port, state)).sum()
}

fn await_destinations_in_time_wait(agent: &Agent, watch: &Watch<'_>, count: usize) {
    until("destinations in TIME_WAIT", WALK_LIMIT, || {
        let found = ports(agent, watch)?;
        let of_ten = found["destinations"].as_array().unwrap().iter().filter(|to| to["time_wait"] == 10).count();
        equal("destinations", &of_ten, &count)
    });
}

#[test]
fn bind_takes_ports_from_all_destinations_over_ipv4() {
    bind_takes_ports_from_all_destinations(Ipv4Addr::LOCALHOST.into());
}

#[test]
fn bind_takes_ports_from_all_destinations_over_ipv6() {
    bind_takes_ports_from_all_destinations(Ipv6Addr::LOCALHOST.into());
}

/// Twenty connections to each port of 127.0.0.1, from an address that is bound without a port.
const WITHOUT_PORT: &str = r#"
use constant IP_BIND_ADDRESS_NO_PORT => 24;
my $localhost = inet_aton("127.0.0.1"); my @held;
for my $port (@ARGV) { for (1 .. 20) {
    socket(my $client, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
    setsockopt($client, 0, IP_BIND_ADDRESS_NO_PORT, 1) or die "setsockopt: $!";
    bind($client, sockaddr_in(0, $localhost)) or die "bind: $!";
    connect($client, sockaddr_in($port, $localhost)) or die "connect: $!";
    push @held, $client;
} }
print "ready\n"; <STDIN>;
"#;

/// connect() chooses the port then, and gives it to other destinations too.
#[test]
fn an_address_that_is_bound_without_a_port_takes_none_from_other_destinations() {
    let _lab = Lab::enter(&[Signal::EphemeralPorts]);
    let netns = Netns::single();
    netns.set_tcp("ip_local_port_range", RANGE);
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let [to, other] = [PORT, OTHER_PORT].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let _listeners = [to, other].map(|to| Listener::open(&netns, to, 128));
    let _clients = Script::start(&netns, WITHOUT_PORT, &[&PORT.to_string(), &OTHER_PORT.to_string()]);
    await_used(&agent, &watch, Some(20));
    let found = ports(&agent, &watch).unwrap();
    assert_eq!((&found["bound"], found["destinations"].as_array().map(Vec::len)), (&0.into(), Some(2)), "{found:#}");
    assert_closes(&agent, &[&watch]);
}

/// Only a call that asks for any port can say that there is none: one that asks for a port in use says nothing of the range.
#[test]
fn a_port_that_is_asked_for_and_taken_is_no_lack_of_ports() {
    let _lab = Lab::enter(&[Signal::BindFailures]);
    let netns = Netns::single();
    netns.set_tcp("ip_local_port_range", "40000 40001");
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let _listener = Listener::open(&netns, to, 16);
    assert_eq!(Client::connect_bound(&netns, to, to).err(), Some(Errno::ADDRINUSE));
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let _clients = [(); 2].map(|()| Client::connect_bound(&netns, anywhere, to).unwrap());
    // listen() asks for any port where bind() did not.
    assert_eq!(Client::connect_bound(&netns, anywhere, to).err(), Some(Errno::ADDRINUSE));
    assert_eq!(Listener::try_unbound(&netns, 16).err(), Some(Errno::ADDRINUSE));
    assert_closes(&agent, &[&watch]);
    let failed = agent.scrape().sum(BIND_FAILURES, &[("netns", &watch.inode)]);
    assert_eq!(failed, if agent.rungs().sees_binds_in_vain() { 2 } else { 0 });
}

/// A server whose ports lie in the range, as node ports and passive FTP do: its sockets use no ephemeral port but
/// those that it listens on, in no state, with a queue or without. Ports that are set aside are nobody's loss.
#[test]
fn sockets_of_listeners_do_not_count() {
    let _lab = Lab::enter(&[Signal::EphemeralPorts]);
    let pair = Pair::new();
    pair.server.set_tcp("ip_local_port_range", RANGE);
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let mut held = Vec::new();
    let mut listeners = Vec::new();
    // With a backlog of 0 a child looks like a client but for its port.
    for (port, backlog) in [(40_050, 128), (40_051, 0)] {
        let to = SocketAddr::from((SERVER_V4, port));
        let listener = Listener::open(&pair.server, to, backlog);
        held.extend(connect(&pair, &listener, to, 10));
        open_and_close(&pair.client, &listener, to, 10, FirstClose::Server);
        assert_eq!(servers_in_state(&pair.server, port, ESTABLISHED), 10);
        // The last one may have a moment to go.
        let in_time_wait = || equal("in TIME_WAIT", &servers_in_state(&pair.server, port, TIME_WAIT), &10);
        until("all closed", LIMIT, in_time_wait);
        listeners.push(listener);
    }
    await_used(&agent, &watch, Some(2));
    await_destinations(&agent, &watch, &[]);
    pair.server.set_tcp("ip_local_reserved_ports", "40050-40051");
    await_used(&agent, &watch, Some(0));

    // One that connects, on the same machine.
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let _listener = Listener::open(&pair.server, to, 16);
    let client = Client::connect(&pair.server, to).into_stream();
    await_used(&agent, &watch, Some(1));
    await_destinations(&agent, &watch, &[destination(to.ip(), to, 1, 0)]);
    agent.assert_sound();
    drop((client, held));
}

/// A port that a client has bound itself counts for the destination that it went to, and one outside of
/// the range does not count.
#[test]
fn bound_ports_count_inside_the_range_only() {
    let _lab = Lab::enter(&[Signal::EphemeralPorts]);
    let pair = Pair::new();
    pair.client.set_tcp("ip_local_port_range", RANGE);
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let to = SocketAddr::from((SERVER_V4, PORT));
    let _listener = Listener::open(&pair.server, to, 128);
    let clients = Client::connect_from(&pair.client, 40_090..=40_119, to);
    await_used(&agent, &watch, Some(10));
    assert_eq!(clients_in_state(&pair.client, PORT, ESTABLISHED), 30);
    let passes = agent.scrape();
    let of = |metric| passes.one(metric, &[("pass", "ports")]);
    assert!(of("tracer_pass_duration_seconds").is_ok_and(|seconds| seconds > 0.0));
    assert!(of("tracer_pass_interval_seconds").is_ok_and(|seconds| seconds >= agent.pass_interval.as_secs_f64()));
    assert_eq!(passes.one("tracer_map_entries", &[("map", "destinations")]), Ok(as_value(1)));
    drop(clients);
}

/// Clients over loopback that hold their ports, to the addresses of these numbers. Their servers have closed: one
/// descriptor each. TIME_WAIT would end after a minute, which a slow machine needs to make them all.
fn hold_ports(netns: &Netns, listener: &Listener, addresses: impl Iterator<Item = u32> + Send) -> Vec<TcpStream> {
    netns.run(|| {
        let hold = |number| {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + number);
            let client = Client::connect_here(SocketAddr::from((address, PORT))).into_stream();
            drop(listener.accept_stream());
            client
        };
        addresses.map(hold).collect()
    })
}

/// The map holds 16 384 destinations. What found no room is counted, and the row is there if and only
/// if none of that can be the busiest.
#[test]
fn more_destinations_than_room() {
    const ROOM: u32 = 16_384;
    const BEYOND: u32 = 600;
    const BUSIEST: u32 = 300;
    let _lab = Lab::enter(&[Signal::EphemeralPorts]);
    let all = ROOM + BEYOND;
    have_descriptors(u64::from(all + BUSIEST) + 1024);
    let netns = Netns::single();
    netns.set_tcp("tcp_max_tw_buckets", "100000");
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let listener = Listener::open(&netns, SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)), 16);
    let one_each = hold_ports(&netns, &listener, 1..=all);
    let incomplete = |sockets: u32| equal("refused", &ports(&agent, &watch)?["incomplete"]["sockets"], &json!(sockets));
    until("a walk without room for all", WALK_LIMIT, || incomplete(BEYOND));
    // One socket each: of 600 in 4096 slots two share one, and then one destination may have both.
    assert_eq!(used(&agent, &watch), None);
    assert_eq!(agent.scrape().one("tracer_map_entries", &[("map", "destinations")]), Ok(as_value(ROOM.into())));

    let busiest = hold_ports(&netns, &listener, std::iter::repeat_n(1, BUSIEST as usize - 1));
    await_used(&agent, &watch, Some(BUSIEST as usize));
    until("the same destinations without room", WALK_LIMIT, || incomplete(BEYOND));
    assert_closes(&agent, &[&watch]);
    drop((one_each, busiest));
}
