//! Namespaces that come and go while the agent runs. Inode numbers are used again at once, and no
//! count may land in the wrong life, nor with the owner of another.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::process::Command;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::cgroup::Cgroup;
use crate::lab::closing::assert_closes;
use crate::lab::counters::{Counters, Watch};
use crate::lab::equations::DROPS;
use crate::lab::foreign::{ForeignListener, Plan};
use crate::lab::netns::{Netns, Pair};
use crate::lab::rungs::{Drops, Signal};
use crate::lab::scrape::Scrape;
use crate::lab::setting::patient;
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::{equal, until};
use crate::lab::watch::Watching;

const PORT: u16 = 8092;
const SIGNAL: [(&str, &str); 1] = [("signal", "listen_drops")];
const LIMIT: Duration = Duration::from_secs(10);
/// A namespace is taken apart by a kernel worker; its inode number is free after that.
const CLEANUP: Duration = Duration::from_millis(300);

/// Drops some SYNs in the namespace; gives the listener and how many the kernel counted.
fn drop_some(netns: &Netns, clients: usize) -> (Listener, u64) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let listener = Listener::open(netns, address, 1);
    drop(Client::connect_many(netns, address, clients));
    (listener, Counters::read(netns).get("ListenDrops"))
}

fn is_within(what: &str, seen: u64, expected: RangeInclusive<u64>) -> Result<(), String> {
    if expected.contains(&seen) { Ok(()) } else { Err(format!("{what}: {seen}, expected {expected:?}")) }
}

#[test]
fn namespace_made_while_the_agent_runs() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let agent = Agent::start();
    let netns = Netns::single();
    let watch = Watch::from_birth(&netns);
    let (_listener, drops) = drop_some(&netns, 10);
    assert_eq!(drops, 8);
    assert_closes(&agent, &[&watch]);
    agent.scrape().one("tracer_netns_info", &[("netns", &watch.inode), ("name", netns.name())]).unwrap();
}

#[test]
fn quick_succession_with_the_same_inode() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let agent = Agent::with(Duration::from_millis(200), &["--retain", "1s"]);
    let (mut inodes, mut reused, mut read, mut dead) = (BTreeSet::new(), 0, 0, 0);
    for number in 0..8 {
        let netns = Netns::single();
        reused += usize::from(!inodes.insert(netns.inode()));
        let drops = drop_some(&netns, 4 + number).1;
        dead += drops;
        // Some live long enough to be read, others die between two passes.
        if number % 2 == 0 {
            agent.await_two_passes();
            read += drops;
        }
        drop(netns);
        std::thread::sleep(patient(CLEANUP));
    }
    assert!(reused > 0, "no inode was used twice: {inodes:?}");
    assert!(dead > 0);

    // The last one lives; it may carry the number of all those before it.
    let netns = Netns::single();
    let watch = Watch::from_birth(&netns);
    let (_listener, drops) = drop_some(&netns, 12);
    assert_eq!(drops, 10);
    let retired = |scrape: &Scrape| scrape.sum("tracer_retired_total", &SIGNAL);
    let shown = |scrape: &Scrape, inode: &String| scrape.sum(DROPS, &[("netns", inode)]);
    until("the dead to be retired", LIMIT, || {
        let scrape = agent.scrape();
        let rest = inodes.iter().filter(|inode| **inode != watch.inode);
        equal("drops in series of the dead", &rest.map(|inode| shown(&scrape, inode)).sum(), &0)?;
        equal("drops of the living", &shown(&scrape, &watch.inode), &10)?;
        match agent.rungs().drops {
            Drops::Outcomes | Drops::Packets => equal("retired drops", &retired(&scrape), &dead),
            // Nobody counted in those that died unread.
            Drops::Totals => is_within("retired drops", retired(&scrape), read..=dead),
        }
    });
    let scrape = agent.scrape();
    // Some of the dead were read, some only met by hooks; what no reading confirms is said.
    let unverified = scrape.sum("tracer_unverified_total", &SIGNAL);
    assert!(unverified <= dead, "{unverified} of {dead}");
    // Exact in its own rows, whatever was retired under the same number; known with the next pass.
    let signal = [("netns", watch.inode.as_str()), ("signal", "listen_drops")];
    until("the kernel's count", LIMIT, || {
        let scrape = agent.scrape();
        let account =
            ["tracer_kernel_count_total", "tracer_count_difference"].map(|metric| scrape.one(metric, &signal));
        equal("count and difference", &account, &[Ok(10.0), Ok(0.0)])
    });
}

/// A namespace with this inode number: the kernel gives the lowest that is free.
fn reborn(inode: &str) -> Netns {
    until("the inode number to be given again", LIMIT, || {
        let netns = Netns::single();
        equal("inode number", &netns.inode(), &inode.to_owned())?;
        Ok(netns)
    })
}

/// On the packet rung a drop is counted when the next packet for a listener comes to its processor.
fn knock_on_every_processor(netns: &Netns, address: SocketAddr) {
    let allowed = sched_getaffinity(None).unwrap();
    netns.run(|| {
        for processor in (0..CpuSet::MAX_CPU).filter(|&processor| allowed.is_set(processor)) {
            let mut only = CpuSet::new();
            only.set(processor);
            sched_setaffinity(None, &only).unwrap();
            drop(Client::connect_here(address));
        }
    });
}

/// The same process name, address and port in a namespace of the same number, one after the other in two units.
#[test]
fn owners_of_two_lives_with_the_same_inode() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let agent = Agent::with(Duration::from_millis(200), &["--retain", "1s"]);
    if agent.rungs().drops == Drops::Totals || !agent.rungs().tells_lives_apart() {
        // What nobody attributed has no owner that could be taken for another; by inode numbers it would be.
        return;
    }
    let units = ["first", "second"].map(|life| format!("tracer-live-{life}-{}.service", std::process::id()));
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT);
    let live = |netns: &Netns, unit: &str, clients: usize| {
        let cgroup = Cgroup::make(unit);
        let plan = Plan { process: "service", address, backlog: 1, defer_accept_s: 0, cgroup: cgroup.path() };
        let listener = ForeignListener::start(netns, &plan);
        drop(Client::connect_many(netns, SocketAddr::V4(address), clients));
        (cgroup, listener)
    };
    let drops = |scrape: &Scrape, inode: &str, unit: &str| {
        scrape.sum(DROPS, &[("netns", inode), ("unit", unit), ("process", "service")])
    };

    let netns = Netns::single();
    let inode = netns.inode();
    let (cgroup, listener) = live(&netns, &units[0], 10);
    until("the first owner's drops", LIMIT, || equal("drops", &drops(&agent.scrape(), &inode, &units[0]), &8));
    listener.exit();
    drop((cgroup, netns));

    let netns = reborn(&inode);
    let watch = Watch::from_birth(&netns);
    let (_cgroup, listener) = live(&netns, &units[1], 15);
    let elsewhere = Netns::single();
    let quiet = Listener::open(&elsewhere, SocketAddr::V4(address), 16);
    knock_on_every_processor(&elsewhere, quiet.address());
    until("the second owner's drops", LIMIT, || {
        let scrape = agent.scrape();
        equal("of the second", &drops(&scrape, &inode, &units[1]), &13)?;
        // The namespace of the first is closed as soon as another has its number.
        equal("of the first", &drops(&scrape, &inode, &units[0]), &0)?;
        equal("retired", &scrape.sum("tracer_retired_total", &SIGNAL), &8)?;
        equal("of anybody", &scrape.sum(DROPS, &[("netns", &inode)]), &13)
    });
    assert_closes(&agent, &[&watch]);
    listener.exit();
}

/// Another name of a namespace under /run/netns.
struct SecondName(String);

impl SecondName {
    fn of(netns: &Netns, name: String) -> Self {
        let path = format!("/run/netns/{name}");
        fs::write(&path, "").unwrap();
        let first = format!("/run/netns/{}", netns.name());
        let mounted = Command::new("mount").args(["--bind", &first, &path]).status().unwrap();
        assert!(mounted.success(), "{mounted}");
        Self(name)
    }
}

impl Drop for SecondName {
    fn drop(&mut self) {
        let path = format!("/run/netns/{}", self.0);
        // What is left of it the machine's owner would see.
        let _ = Command::new("umount").arg(&path).status();
        let _ = fs::remove_file(&path);
    }
}

/// One that would come before the first name in any list, and one that would come after it.
#[test]
fn a_namespace_of_several_names_is_found_by_each_and_keeps_its_row() {
    let _lab = Lab::enter(&[]);
    let pair = Pair::new();
    let (netns, inode) = (&pair.server, pair.server.inode());
    let agent = Agent::start();
    let named = || {
        let scrape = agent.scrape();
        let of_it = [("netns", inode.as_str())];
        let rows = scrape.rows("tracer_netns_info", &of_it);
        rows.map(|row| row.label("name").to_owned()).collect::<Vec<_>>()
    };
    until("the first name", LIMIT, || equal("names", &named(), &vec![netns.name().to_owned()]));
    let others = ["0before", "zafter"].map(|word| SecondName::of(netns, format!("{word}{}", netns.name())));
    for _ in 0..3 {
        agent.await_two_passes();
        assert_eq!(named(), [netns.name()]);
    }
    for name in [netns.name(), &others[0].0, &others[1].0] {
        let watching = Watching::start(&["--kind", "state", "--netns", name]);
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        drop(Listener::open(netns, address, 1));
        until(&format!("its events by {name}"), LIMIT, || match watching.events().len() {
            0 => Err("no event".to_owned()),
            _ => Ok(()),
        });
        drop(watching.end());
    }
}
