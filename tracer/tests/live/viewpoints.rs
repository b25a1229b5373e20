//! Agents in namespaces of their own in which numbers of processes, or the clock, are others than the kernel's.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::foreign::{ForeignListener, Plan};
use crate::lab::netns::Netns;
use crate::lab::rungs::{Drops, Signal};
use crate::lab::setting::agent_command;
use crate::lab::sockets::Client;
use crate::lab::wait::{equal, until};
use crate::lab::watch::Watching;

const PORT: u16 = 8127;
const LIMIT: Duration = Duration::from_secs(15);
const PASS_INTERVAL: Duration = Duration::from_millis(200);
const OPEN_FILES: &str = "tracer_tcp_listener_open_files";
const OBSTACLES: &str = "tracer_pass_obstacles";

fn address() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT)
}

fn listen(netns: &Netns) -> ForeignListener {
    let plan = Plan { process: "service", address: address(), backlog: 2, defer_accept_s: 0, cgroup: "" };
    ForeignListener::start(netns, &plan)
}

/// The agent's command in namespaces of its own, which end with it.
fn unshared(flags: &[&str]) -> Command {
    let agent = agent_command();
    let mut command = Command::new("unshare");
    command.args(["--fork", "--kill-child"]).args(flags).arg(agent.get_program()).args(agent.get_args());
    command
}

fn served(flags: &[&str]) -> Agent {
    let mut agent = Agent::spawn(unshared(flags), Stdio::piped(), PASS_INTERVAL, &[]);
    agent.read_log();
    agent.await_start();
    agent
}

/// A number that a program tells is another process there, or none.
#[test]
fn numbers_of_another_pid_namespace_lead_to_no_process() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let listener = listen(&netns);
    let watch = Watch::from_now(&netns);
    let agent = served(&["--pid", "--mount-proc"]);
    drop(Client::connect_many(&netns, SocketAddr::V4(address()), 10));
    assert_closes(&agent, &[&watch]);
    let scrape = agent.scrape();
    assert_eq!(scrape.rows(OPEN_FILES, &[]).count(), 0, "{}", scrape.show(OPEN_FILES, &[]));
    assert_eq!(scrape.one(OBSTACLES, &[("reason", "process_numbers")]), Ok(1.0));
    agent.await_log("hostPID: true");
    // Beside it, an agent that sees the process.
    let beside = Agent::with(PASS_INTERVAL, &[]);
    assert_eq!(beside.scrape().one(OBSTACLES, &[("reason", "process_numbers")]), Ok(0.0));
    if beside.rungs().tells_holders() {
        let own = [("netns", watch.inode.as_str()), ("process", "service")];
        until("open files", LIMIT, || beside.scrape().one(OPEN_FILES, &own).map(drop));
    }
    listener.exit();
}

/// The second that the clock shows, as events show it.
fn now() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A hundred days ahead.
const AHEAD: [&str; 5] = ["--time", "--monotonic", "8640000", "--boottime", "8640000"];

#[test]
fn peaks_and_events_have_the_kernels_time() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let listener = listen(&netns);
    let watch = Watch::from_now(&netns);
    let agent = served(&AHEAD);
    let events = Watching::start_by(&unshared(&AHEAD), &["--netns", &watch.inode, "--duration", "4s"]);
    let first = now();
    drop(Client::connect_many(&netns, SocketAddr::V4(address()), 10));
    assert_closes(&agent, &[&watch]);
    if !matches!(agent.rungs().drops, Drops::Totals) {
        let own = [("netns", watch.inode.as_str())];
        until("the peak", LIMIT, || equal("peak", &agent.scrape().one("tracer_tcp_accept_queue_peak", &own), &Ok(3.0)));
    }
    agent.await_log("time namespace");
    assert_eq!(agent.scrape().one(OBSTACLES, &[("reason", "clock")]), Ok(0.0));
    let seen = events.await_end().events;
    assert!(!seen.is_empty());
    let last = now() + "Z";
    for event in seen {
        // Such times are in the order of their letters.
        let time = event["time"].as_str().unwrap();
        assert!((first.as_str()..=last.as_str()).contains(&time), "{first} {event} {last}");
    }
    listener.exit();
}
