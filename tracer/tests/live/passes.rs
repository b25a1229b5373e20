//! Passes that meet what they cannot do: namespaces that hang or refuse to be entered, rows that cannot be removed, very
//! many namespaces. What can still be read is, nothing is lost, and everything says so.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::equations::DROPS;
use crate::lab::gate::Gate;
use crate::lab::locked::lock_a_socket;
use crate::lab::machine::machine;
use crate::lab::netns::Netns;
use crate::lab::rungs::Signal;
use crate::lab::scrape::Scrape;
use crate::lab::setting::patient;
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::{equal, until};

const PORT: u16 = 8094;
const OTHER_PORT: u16 = 8093;
const PASS_INTERVAL: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(10);
/// Four visits are left behind after five seconds each.
const HANG_LIMIT: Duration = Duration::from_secs(40);
/// Within which a page is answered whatever the passes are at.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

fn behind(gate: &Gate, flags: &[&str]) -> Agent {
    let mut agent = Agent::spawn(gate.agent(), Stdio::piped(), PASS_INTERVAL, flags);
    agent.read_log();
    agent
}

fn obstacles(scrape: &Scrape, reason: &str) -> Result<f64, String> {
    scrape.one("tracer_pass_obstacles", &[("reason", reason)])
}

fn met(agent: &Agent, reason: &str) -> Result<(), String> {
    let scrape = agent.scrape();
    if obstacles(&scrape, reason)? > 0.0 { Ok(()) } else { Err(scrape.show("tracer_pass_obstacles", &[])) }
}

fn over(agent: &Agent, reason: &str) -> Result<(), String> {
    equal("obstacles", &obstacles(&agent.scrape(), reason), &Ok(0.0))
}

/// How often the log has a word, once it has it.
fn said(agent: &Agent, word: &str) -> usize {
    agent.await_log(word);
    agent.log().matches(word).count()
}

#[test]
fn namespaces_that_cannot_be_entered_are_said_everywhere() {
    let _lab = Lab::enter(&[]);
    let gate = Gate::on_setns();
    let mut agent = behind(&gate, &[]);
    agent.await_start();
    gate.refuse(libc::EPERM);
    until("a refusal", LIMIT, || met(&agent, "refused"));
    let (code, text) = agent.get("/readyz").unwrap();
    assert!(code == 503 && text.contains("cannot be entered") && text.contains("CAP_SYS_ADMIN"), "{code} {text}");
    assert_eq!(agent.get("/healthz").unwrap().0, 200, "passes go on");
    let status = agent.status();
    let found = status["obstacles"].as_array().unwrap().iter().find(|obstacle| obstacle["reason"] == "refused");
    let cause = found.unwrap_or_else(|| panic!("{:#}", status["obstacles"]))["cause"].as_str().unwrap();
    assert!(cause.contains("EPERM"), "{cause}");
    agent.await_two_passes();
    assert_eq!(said(&agent, "network namespaces cannot be entered ("), 1, "{}", agent.log());

    gate.pass();
    until("the end of it", LIMIT, || over(&agent, "refused"));
    until("/readyz", LIMIT, || equal("code", &agent.get("/readyz").unwrap().0, &200));
    assert_eq!(said(&agent, "over: network namespaces cannot be entered"), 1, "{}", agent.log());
}

#[test]
fn doctor_tries_to_enter_namespaces() {
    let _lab = Lab::enter(&[]);
    let gate = Gate::on_setns();
    let doctor = || {
        let output = gate.agent().arg("doctor").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let found = doctor();
    assert!(found.contains("\nvisits               best "), "{found}");
    gate.refuse(libc::EPERM);
    let found = doctor();
    assert!(found.contains("\nvisits               degraded  0 network namespaces entered and read\n"), "{found}");
    assert!(found.contains("EPERM") && found.contains("CAP_SYS_ADMIN"), "{found}");
    assert!(!found.contains("verdict: best"), "{found}");
}

#[test]
fn visits_that_hang_are_left_behind() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let gate = Gate::on_setns();
    let mut agent = behind(&gate, &[]);
    agent.await_start();
    gate.hold();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        let asked = Instant::now();
        agent.scrape();
        assert!(asked.elapsed() < ANSWER_LIMIT, "a scrape took {:?}", asked.elapsed());
    }
    until("visits to be left behind", HANG_LIMIT, || met(&agent, "hung"));
    let age = |scrape: &Scrape| scrape.one("tracer_pass_age_seconds", &[("pass", "namespaces")]);
    until("passes that go on", HANG_LIMIT, || match age(&agent.scrape())? {
        age if age < 2.0 => Ok(()),
        age => Err(format!("the last one ended {age} s ago")),
    });
    assert_eq!(agent.get("/readyz").unwrap().0, 503);
    assert_eq!(said(&agent, "entering or reading hangs ("), 1, "{}", agent.log());
    let threads = std::fs::read_dir(format!("/proc/{}/task", agent.pid().as_raw_nonzero())).unwrap().count();
    assert!(threads < 20, "{threads} threads");

    // Counts go on meanwhile, and close afterwards.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let listener = Listener::open(&netns, address, 2);
    drop(Client::connect_many(&netns, address, 12));
    gate.pass();
    until("the end of it", LIMIT, || over(&agent, "hung"));
    let inode = netns.inode();
    until("the kernel's count", LIMIT, || {
        let scrape = agent.scrape();
        let of = |metric| scrape.one(metric, &[("netns", inode.as_str()), ("signal", "listen_drops")]);
        let account = [of("tracer_kernel_count_total"), of("tracer_count_difference")];
        equal("count and difference", &account, &[Ok(9.0), Ok(0.0)])
    });
    drop(listener);
}

/// Whoever holds a socket locked holds up whatever walks over sockets, and nothing else.
#[test]
fn a_socket_that_is_held_locked_keeps_no_counters_from_being_read() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::EphemeralPorts]);
    let netns = Netns::single();
    // So few that the namespace's ports are counted.
    netns.set_tcp("ip_local_port_range", "40000 40023");
    let agent = Agent::start();
    // Dropped before the agent, since no process ends while a thread of it waits for that lock.
    let locked = lock_a_socket(&netns, OTHER_PORT);
    let hung = || {
        let scrape = agent.scrape();
        let all = ["walk_hung", "hung"].map(|reason| obstacles(&scrape, reason).unwrap_or_default());
        if all.iter().sum::<f64>() > 0.0 { Ok(()) } else { Err(scrape.show("tracer_pass_obstacles", &[])) }
    };
    // Before Linux 5.15 no walk takes a socket's lock.
    let hangs = machine().kernel >= (5, 15, 0);
    if hangs {
        until("a walk to be left behind", HANG_LIMIT, hung);
    }

    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let listener = Listener::open(&netns, address, 2);
    drop(Client::connect_many(&netns, address, 12));
    let inode = netns.inode();
    until("the kernel's count", LIMIT, || {
        let scrape = agent.scrape();
        let of = |metric| scrape.one(metric, &[("netns", inode.as_str()), ("signal", "listen_drops")]);
        let account = [of("tracer_kernel_count_total"), of("tracer_count_difference")];
        equal("count and difference", &account, &[Ok(9.0), Ok(0.0)])
    });
    assert_eq!(agent.get("/readyz").unwrap().0, 200);
    let scrape = agent.scrape();
    assert_eq!(
        (obstacles(&scrape, "walk_hung"), obstacles(&scrape, "hung")),
        (Ok(f64::from(u8::from(hangs))), Ok(0.0))
    );
    assert_eq!(
        said(&agent, "walks over the sockets of network namespaces hang"),
        usize::from(hangs),
        "{}",
        agent.log()
    );

    drop(locked);
    until("the end of it", LIMIT, || over(&agent, "walk_hung"));
    until("the namespace's ports", HANG_LIMIT, || {
        agent.scrape().one("tracer_tcp_ephemeral_ports_used", &[("netns", &inode)]).map(|_| ())
    });
    drop(listener);
}

/// Visits that are slow and do not hang: ten namespaces, four seconds each.
#[test]
fn a_first_pass_of_over_half_a_minute_is_waited_for() {
    let _lab = Lab::enter(&[]);
    let _namespaces: Vec<_> = (0..9).map(|_| Netns::single()).collect();
    let gate = Gate::on_setns();
    gate.delay(2);
    let mut agent = behind(&gate, &[]);
    let begun = Instant::now();
    agent.await_address(Duration::from_secs(280));
    assert!(begun.elapsed() > Duration::from_mins(1), "too quick to tell: {:?}", begun.elapsed());
    agent.await_log("the first pass over namespaces and listeners goes on");
    gate.pass();
}

/// The rows of a namespace are removed one after the other. Should the kernel refuse one of them, those that have gone
/// before count as retired, and no scrape misses them.
#[test]
fn rows_that_cannot_be_removed_are_neither_lost_nor_counted_twice() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let gate = Gate::on_removal_of_namespaces();
    gate.refuse(libc::EBUSY);
    let mut agent = behind(&gate, &["--retain", "3s"]);
    agent.await_start();
    let netns = Netns::single();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let listener = Listener::open(&netns, address, 2);
    drop(Client::connect_many(&netns, address, 12));
    let inode = netns.inode();
    let shown = |scrape: &Scrape| scrape.sum(DROPS, &[("netns", &inode)]);
    let retired = |scrape: &Scrape| scrape.sum("tracer_retired_total", &[("signal", "listen_drops")]);
    until("the drops", LIMIT, || equal("drops", &shown(&agent.scrape()), &9));
    agent.await_two_passes();
    drop(listener);
    drop(netns);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        let scrape = agent.scrape();
        assert_eq!(shown(&scrape) + retired(&scrape), 9, "{}", agent.log());
    }
    agent.await_log("removing the rows of what is gone");
    gate.pass();
    until("the end", LIMIT, || {
        let scrape = agent.scrape();
        equal("drops shown and retired", &(shown(&scrape), retired(&scrape)), &(0, 9))
    });
}

/// A thousand namespaces with nothing in them.
struct Thousand;

impl Thousand {
    const COUNT: usize = 1000;

    fn make() -> Self {
        Self::batch("add");
        Self
    }

    fn batch(verb: &str) {
        let mut ip = Command::new("ip").args(["-force", "-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut lines = ip.stdin.take().unwrap();
        for number in 0..Self::COUNT {
            writeln!(lines, "netns {verb} live{}t{number}", std::process::id()).unwrap();
        }
        drop(lines);
        ip.wait().unwrap();
    }
}

impl Drop for Thousand {
    fn drop(&mut self) {
        Self::batch("del");
    }
}

/// At the defaults: passes every five seconds, one percent of a core.
#[test]
fn among_a_thousand_namespaces_a_new_one_is_read_within_half_a_minute() {
    const LONGEST: f64 = 30.0;
    let _lab = Lab::enter(&[]);
    let _thousand = Thousand::make();
    let agent = Agent::with(Duration::from_secs(5), &["--pass-cpu-percent", "1"]);
    let mut worst = (0.0_f64, 0.0_f64);
    for _ in 0..3 {
        let netns = Netns::single();
        let made = Instant::now();
        let inode = netns.inode();
        until("the new namespace", Duration::from_secs(45), || {
            let scrape = agent.scrape();
            let interval = scrape.one("tracer_pass_interval_seconds", &[("pass", "namespaces")])?;
            assert!(interval <= LONGEST, "{interval}");
            worst.0 = worst.0.max(interval);
            scrape.one("tracer_netns_info", &[("netns", &inode)]).map(|_| ())
        });
        worst.1 = worst.1.max(made.elapsed().as_secs_f64());
    }
    let scrape = agent.scrape();
    println!("longest interval {:.1} s, a new namespace after {:.1} s at most", worst.0, worst.1);
    println!("{}{}", scrape.show("tracer_pass_", &[]), scrape.show("process_", &[]));
    let limit = scrape.one("tracer_pass_cpu_limit_ratio", &[]);
    assert_eq!((limit, scrape.one("tracer_pass_interval_configured_seconds", &[])), (Ok(0.01), Ok(5.0)));
    // Settings are read in slices, and by now all were.
    let round = scrape.one("tracer_pass_interval_seconds", &[("pass", "settings")]).unwrap();
    assert!(
        scrape.one("tracer_pass_age_seconds", &[("pass", "settings")]).unwrap()
            <= round + patient(Duration::from_secs(30)).as_secs_f64()
    );
}

/// What a namespace counted before the agent is none of its counts, though it could not be entered at the start.
#[test]
fn a_namespace_that_hangs_at_the_start_counts_from_its_first_reading() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let listener = Listener::open(&netns, address, 2);
    drop(Client::connect_many(&netns, address, 12));
    let gate = Gate::on_setns();
    gate.hold();
    let mut agent = behind(&gate, &[]);
    agent.await_address(HANG_LIMIT);
    gate.pass();
    until("the end of it", LIMIT, || over(&agent, "hung"));
    agent.await_two_passes();
    let inode = netns.inode();
    let scrape = agent.scrape();
    let of = |metric| scrape.one(metric, &[("netns", inode.as_str()), ("signal", "listen_drops")]);
    let account = [of("tracer_kernel_count_total"), of("tracer_count_difference")];
    assert_eq!(account, [Ok(0.0), Ok(0.0)], "nine before the agent");
    drop(listener);
}
