//! Owners by cgroup: a systemd unit's listener, a container's, and a service that restarts in a new
//! cgroup of the same name. The cgroups are directories that the test makes in the v2 hierarchy.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::cgroup::{Cgroup, Unit};
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::drops::{ACCEPT_QUEUE_FULL_SYN, assert_drops, drops_are};
use crate::lab::equations::{DROPS, RESETS};
use crate::lab::foreign::{ForeignListener, Plan};
use crate::lab::netns::Netns;
use crate::lab::rungs::{Drops, Signal};
use crate::lab::setting::patient;
use crate::lab::sockets::Client;
use crate::lab::wait::{equal, until};

const PORT: u16 = 8110;
const LIMIT: Duration = Duration::from_secs(10);
const PASS_INTERVAL: Duration = Duration::from_millis(200);
const RETAIN: Duration = Duration::from_millis(1500);

fn address() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT)
}

/// A listener in the cgroup with a queue of 3.
fn listen(netns: &Netns, cgroup: &Cgroup) -> ForeignListener {
    let plan = Plan { process: "service", address: address(), backlog: 2, defer_accept_s: 0, cgroup: cgroup.path() };
    ForeignListener::start(netns, &plan)
}

/// The same with ten clients: seven drops.
fn seven_drops(netns: &Netns, cgroup: &Cgroup) -> ForeignListener {
    let listener = listen(netns, cgroup);
    drop(Client::connect_many(netns, SocketAddr::V4(address()), 10));
    listener
}

/// Whether the rows of the owner's listener have so many drops, in all of its lives.
fn owns(agent: &Agent, netns: &Netns, owner: (&str, &str), count: u64) -> Result<(), String> {
    let labels = [("netns", &*netns.inode()), ("process", "service"), owner];
    drops_are(agent, &labels, &[(ACCEPT_QUEUE_FULL_SYN, count)])
}

/// Names of cgroups, and the label that a socket of each has to carry.
fn unit_and_container() -> [(String, (&'static str, String)); 2] {
    let id = format!("{:064x}", std::process::id());
    let unit = format!("tracer-live-{}.service", std::process::id());
    [(unit.clone(), ("unit", unit)), (format!("docker-{id}.scope"), ("container", id[..12].to_owned()))]
}

#[test]
fn listener_of_a_unit_and_of_a_container() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    for (name, (label, value)) in &unit_and_container() {
        let label = (*label, value.as_str());
        let netns = Netns::single();
        let watch = Watch::from_now(&netns);
        let cgroup = Cgroup::make(name);
        let agent = Agent::with(PASS_INTERVAL, &[]);
        let listener = seven_drops(&netns, &cgroup);
        until("the owner's drops", LIMIT, || owns(&agent, &netns, label, 7));
        assert_closes(&agent, &[&watch]);
        assert_eq!(watch.delta("ListenDrops"), 7);
        listener.exit();
    }
}

/// No hook saw `listen()`: the agent comes last, and finds a listener with connections in its queue.
#[test]
fn listener_older_than_the_agent() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    for (name, (label, value)) in &unit_and_container() {
        let netns = Netns::single();
        let cgroup = Cgroup::make(name);
        let listener = listen(&netns, &cgroup);
        let queued = Client::connect_many(&netns, SocketAddr::V4(address()), 3);
        let watch = Watch::from_now(&netns);
        let agent = Agent::with(PASS_INTERVAL, &[]);
        let process = if agent.rungs().tells_holders() { "service" } else { "" };
        let owner = [("netns", watch.inode.as_str()), (*label, value.as_str()), ("process", process)];
        let scrape = agent.scrape();
        assert_eq!(scrape.one("tracer_tcp_accept_queue_length", &owner), Ok(3.0));
        assert_eq!(scrape.one("tracer_tcp_accept_queue_limit", &owner), Ok(2.0));
        drop(Client::connect_many(&netns, SocketAddr::V4(address()), 7));
        assert_closes(&agent, &[&watch]);
        assert_eq!(watch.delta("ListenDrops"), 7);
        assert_drops(&agent, &owner, &[(ACCEPT_QUEUE_FULL_SYN, 7)]);
        drop(queued);
        listener.exit();
    }
}

/// Connections that nobody accepted are reset when their listener goes: each by a socket of its own,
/// which has the listener's cgroup.
#[test]
fn resets_of_a_unit() {
    let _lab = Lab::enter(&[Signal::Resets]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let name = format!("tracer-live-{}.service", std::process::id());
    let cgroup = Cgroup::make(&name);
    let agent = Agent::start();
    seven_drops(&netns, &cgroup).exit();
    let labels = [("netns", watch.inode.as_str()), ("unit", name.as_str()), ("direction", "sent")];
    until("the unit's resets", LIMIT, || equal("sent", &agent.scrape().sum(RESETS, &labels), &3));
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("OutRsts"), 3);
}

#[test]
fn series_of_a_service_that_restarts_never_fall() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    // The next start must come within that, or nobody inherits.
    let retain = patient(RETAIN);
    let agent = Agent::with(PASS_INTERVAL, &["--retain", &format!("{}ms", retain.as_millis())]);
    let name = format!("tracer-live-{}.service", std::process::id());
    let unit = ("unit", name.as_str());
    for start in 1..=3 {
        // systemd removes the cgroup with the last process and makes it anew: another id, same name.
        let cgroup = Cgroup::make(&name);
        let listener = seven_drops(&netns, &cgroup);
        until("this start's drops", LIMIT, || owns(&agent, &netns, unit, start * 7));
        // Long enough for the rows of the last start to be removed, and for a fall to show.
        let deadline = Instant::now() + retain * 3 / 2;
        while Instant::now() < deadline {
            agent.await_pass();
            owns(&agent, &netns, unit, start * 7).unwrap_or_else(|error| panic!("the series changed: {error}"));
        }
        listener.exit();
    }
    assert_eq!(watch.delta("ListenDrops"), 21);
    // Nobody is left to inherit. What only the namespace is known to have dropped stays there.
    until("the last value to be retired", LIMIT, || {
        owns(&agent, &netns, unit, 0)?;
        let scrape = agent.scrape();
        let unknown = scrape.sum(DROPS, &[("netns", &watch.inode), ("reason", "unknown")]);
        let unowned = if agent.rungs().drops == Drops::Totals { unknown } else { 0 };
        equal("retired", &(scrape.sum("tracer_retired_total", &[("signal", "listen_drops")]) + unowned), &21)
    });
    assert_closes(&agent, &[&watch]);
}

/// Jobs that are gone before anybody can look for their names: their counts show at once, for the namespace, and outlive
/// their rows there.
#[test]
fn workloads_that_live_for_a_moment_count_at_once_and_for_good() {
    const JOBS: u64 = 60;
    const FAILURES: &str = "tracer_tcp_connect_failures_total";
    let _lab = Lab::enter(&[Signal::Connections]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let retain = patient(RETAIN);
    let agent = Agent::with(PASS_INTERVAL, &["--retain", &format!("{}ms", retain.as_millis())]);
    agent.await_two_passes();
    let workloads = || agent.scrape().one("tracer_map_entries", &[("map", "workloads")]).unwrap();
    let workloads_before = workloads();
    for job in 1..=JOBS {
        let unit = Unit::enter(&format!("job-{job}"));
        assert_eq!(Client::connect(&netns, SocketAddr::V4(address())).outcome(LIMIT), Err(Errno::CONNREFUSED));
        drop(unit);
        // Each scrape has all: no count waits for a name.
        let scrape = agent.scrape();
        let failures = scrape.sum(FAILURES, &[("netns", &watch.inode)]);
        assert_eq!(failures, job, "{}", scrape.show(FAILURES, &[("netns", &watch.inode)]));
    }
    assert!(workloads() >= workloads_before + 1.0);
    // Hardly any was there while a walk looked at cgroups; one that was has a series of its own, which ends with it.
    let nameless = || agent.scrape().sum(FAILURES, &[("netns", &watch.inode), ("unit", "")]);
    let for_good = nameless();
    assert!(for_good > JOBS / 2, "{for_good} failures without a unit");
    until("the rows of those that are gone to leave", 2 * retain + LIMIT, || {
        equal("failures", &nameless(), &for_good)?;
        let left = workloads() - workloads_before;
        if left < 10.0 { Ok(()) } else { Err(format!("{left} workloads more than before")) }
    });
    assert_closes(&agent, &[&watch]);
}
