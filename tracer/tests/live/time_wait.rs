//! `TIME_WAIT` bucket overflows: room for 4, 50 closes, so 46 sockets that the kernel refused to
//! keep, charged to the workload whose side closed first. It has a name, so that what a hook has counted is told from
//! what is only the namespace's difference.

use std::net::{Ipv4Addr, SocketAddr};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::cgroup::Unit;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::equations::{TIME_WAIT_OVERFLOWS, as_value};
use crate::lab::load::{FirstClose, open_and_close};
use crate::lab::netns::{Netns, Pair, SERVER_V4, SERVER_V6};
use crate::lab::rungs::Signal;
use crate::lab::sockets::Listener;
use crate::lab::unknown::assert_time_wait_overflows_are_owned;

const PORT: u16 = 8085;
const CLOSES: usize = 50;
const OVERFLOWS: u64 = 46;

/// What the unit's rows say.
fn overflows(unit: &Unit, agent: &Agent, watch: &Watch<'_>) -> u64 {
    agent.scrape().sum(TIME_WAIT_OVERFLOWS, &[("netns", &watch.inode), ("unit", &unit.name)])
}

fn limit_buckets(netns: &Netns) {
    netns.set_tcp("tcp_max_tw_buckets", "4");
}

#[test]
fn over_loopback() {
    let _lab = Lab::enter(&[Signal::TimeWaitOverflows]);
    let netns = Netns::single();
    limit_buckets(&netns);
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let unit = Unit::enter("closer");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let listener = Listener::open(&netns, address, 5);
    open_and_close(&netns, &listener, address, CLOSES, FirstClose::Client);
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("TCPTimeWaitOverflow"), OVERFLOWS);
    assert_time_wait_overflows_are_owned(&agent, overflows(&unit, &agent, &watch), OVERFLOWS);
    let scrape = agent.scrape();
    let of = |metric| scrape.one(metric, &[("netns", &watch.inode)]);
    assert_eq!(of("tracer_tcp_time_wait_sockets"), Ok(as_value(4)));
    assert_eq!(of("tracer_tcp_time_wait_limit"), Ok(as_value(4)));
}

/// The side that closes first overflows; the other one, with the same limit, does not.
fn one_side_overflows(address: SocketAddr, first: FirstClose) {
    let _lab = Lab::enter(&[Signal::TimeWaitOverflows]);
    let pair = Pair::new();
    limit_buckets(&pair.client);
    limit_buckets(&pair.server);
    let (client, server) = (Watch::from_now(&pair.client), Watch::from_now(&pair.server));
    let agent = Agent::start();
    let unit = Unit::enter("closer");
    let listener = Listener::open(&pair.server, address, 5);
    open_and_close(&pair.client, &listener, address, CLOSES, first);
    assert_closes(&agent, &[&client, &server]);
    let (victim, other) = if first == FirstClose::Client { (&client, &server) } else { (&server, &client) };
    assert_eq!(victim.delta("TCPTimeWaitOverflow"), OVERFLOWS);
    assert_time_wait_overflows_are_owned(&agent, overflows(&unit, &agent, victim), OVERFLOWS);
    assert_eq!((other.delta("TCPTimeWaitOverflow"), overflows(&unit, &agent, other)), (0, 0));
}

#[test]
fn namespace_with_clients_only() {
    one_side_overflows(SocketAddr::from((SERVER_V4, PORT)), FirstClose::Client);
}

#[test]
fn namespace_of_the_server() {
    one_side_overflows(SocketAddr::from((SERVER_V4, PORT)), FirstClose::Server);
}

#[test]
fn clients_over_ipv6() {
    one_side_overflows(SocketAddr::from((SERVER_V6, PORT)), FirstClose::Client);
}
