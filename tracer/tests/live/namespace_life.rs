//! Namespaces that come and go while the agent runs. Inode numbers are used again at once, and no
//! count may land in the wrong life.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::{Counters, Watch};
use crate::lab::equations::DROPS;
use crate::lab::machine::machine;
use crate::lab::netns::Netns;
use crate::lab::rungs::{Drops, Signal};
use crate::lab::scrape::Scrape;
use crate::lab::setting::patient;
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::{equal, until};

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
    if machine().kernel < (5, 12, 0) {
        // Namespaces with one inode number are one, whose rows go on: no count is lost.
        inodes.insert(watch.inode.clone());
        until("all drops to be shown", LIMIT, || {
            let scrape = agent.scrape();
            let all = retired(&scrape) + inodes.iter().map(|inode| shown(&scrape, inode)).sum::<u64>();
            match agent.rungs().drops {
                Drops::Outcomes | Drops::Packets => equal("drops, retired or not", &all, &(dead + 10)),
                // Nobody counted in those that died unread.
                Drops::Totals => is_within("drops, retired or not", all, 10..=dead + 10),
            }
        });
        return;
    }
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
