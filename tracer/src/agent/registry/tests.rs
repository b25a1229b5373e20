//! Lives of namespaces: born before and after the agent, unseen, dead, and reborn under one inode.

use tracer_ebpf::counter::{Counter, CounterKey, ListenerStats};

use super::*;
use crate::kernel::netns::{NetnsRef, Unread};

const HOST: u32 = 1;
const RETAIN: Duration = Duration::from_secs(10);

fn discovery(inums: &[u32]) -> Discovery {
    let namespaces = inums
        .iter()
        .map(|&inum| (inum, NetnsRef { inum, paths: vec![], names: Vec::new(), lowest_pid: None }))
        .collect();
    Discovery { host: HOST, namespaces, denied: 0, beyond_limit: 0, unread: Vec::new() }
}

fn reading(id: u64, inum: u32, listen_drops: u64) -> Reading {
    let counters = KernelCounters { listen_drops: Some(listen_drops), ..KernelCounters::default() };
    let counters = Arc::new(counters);
    Reading { id, inum, counters, sockstat: Sockstat::default(), sysctls: Sysctls::default(), settings: None }
}

/// A reading of the maps with one listener in namespace `id`.
fn counts(id: u64, drops: u64) -> Counts {
    let key = ListenerKey { netns: id, cgroup: 1, address: [0; 4], port: 80, zero: [0; 3] };
    let stats = ListenerStats { drops: [drops, 0, 0, 0, 0], ..ListenerStats::default() };
    Counts { listeners: vec![(key, stats)], ..Counts::default() }
}

fn pass(registry: &mut Registry, inums: &[u32], readings: &[Reading], counts: &Counts, now: Instant) {
    registry.enter(&discovery(inums), readings, counts, counts, &Evidence::default(), now);
}

fn namespace(registry: &Registry, inums: &[u32], id: u64) -> Namespace {
    registry.view(&discovery(inums)).into_iter().find(|namespace| namespace.id == id).unwrap()
}

#[test]
fn what_was_counted_before_the_agent_is_no_difference() {
    let mut registry = Registry::default();
    let before = Counts::default();
    assert!(registry.observe_baselines(&[reading(7, 70, 1000)], &before, &before));
    registry.open_books();
    pass(&mut registry, &[70], &[reading(7, 70, 1005)], &counts(7, 5), Instant::now());
    let seen = namespace(&registry, &[70], 7);
    assert_eq!(seen.books.kernel(Closing::ListenDrops), Some(5));
    assert_eq!(seen.books.difference(Closing::ListenDrops), Some(0));
    assert!(seen.alive);
}

#[test]
fn a_namespace_made_later_counts_from_zero() {
    let mut registry = Registry::default();
    pass(&mut registry, &[70], &[reading(7, 70, 3)], &counts(7, 3), Instant::now());
    assert_eq!(namespace(&registry, &[70], 7).books.kernel(Closing::ListenDrops), Some(3));
}

#[test]
fn one_that_could_not_be_entered_at_the_start_counts_from_its_first_reading() {
    let mut registry = Registry::default();
    registry.open_books();
    registry.note_older([70].into_iter());
    pass(&mut registry, &[70], &[], &counts(7, 0), Instant::now());
    pass(&mut registry, &[70], &[reading(7, 70, 1000)], &counts(7, 2), Instant::now());
    pass(&mut registry, &[70], &[reading(7, 70, 1003)], &counts(7, 5), Instant::now());
    let books = namespace(&registry, &[70], 7).books;
    assert_eq!((books.difference(Closing::ListenDrops), books.unknown(Closing::ListenDrops)), (Some(0), 0));
    assert_eq!(books.kernel(Closing::ListenDrops), Some(5));
}

#[test]
fn one_whose_directory_is_not_read_is_not_dead() {
    let mut registry = Registry::default();
    let now = Instant::now();
    pass(&mut registry, &[70], &[reading(7, 70, 3)], &counts(7, 3), now);
    let unread = Unread { path: "/run/netns".into(), kind: std::io::ErrorKind::TimedOut, cause: String::new() };
    registry.entries.get_mut(&7).unwrap().name = "blue".to_owned();
    let hung = Discovery { unread: vec![unread], ..discovery(&[]) };
    registry.enter(&hung, &[], &counts(7, 3), &counts(7, 3), &Evidence::default(), now);
    assert!(registry.close_dead(&counts(7, 3), Duration::ZERO, now, |_| true).is_empty());
    assert!(namespace(&registry, &[70], 7).is_stale);
    // No file has kept it: its last process is gone.
    registry.entries.get_mut(&7).unwrap().name = String::new();
    registry.enter(&hung, &[], &counts(7, 3), &counts(7, 3), &Evidence::default(), now);
    assert_eq!(registry.close_dead(&counts(7, 3), Duration::ZERO, now, |_| true).len(), 1);
}

#[test]
fn one_whose_rows_stay_stays_open() {
    let mut registry = Registry::default();
    let now = Instant::now();
    pass(&mut registry, &[70], &[reading(7, 70, 3)], &counts(7, 3), now);
    pass(&mut registry, &[], &[], &counts(7, 3), now);
    assert!(registry.close_dead(&counts(7, 3), Duration::ZERO, now, |_| false).is_empty());
    let closed = registry.close_dead(&counts(7, 3), Duration::ZERO, now, |_| true);
    assert_eq!(closed.len(), 1);
}

#[test]
fn the_dead_close_once_they_are_quiet() {
    let mut registry = Registry::default();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    pass(&mut registry, &[70], &[reading(7, 70, 3)], &counts(7, 3), at(0));
    pass(&mut registry, &[], &[], &counts(7, 4), at(5));
    assert!(!namespace(&registry, &[], 7).alive);
    assert!(registry.close_dead(&counts(7, 4), RETAIN, at(14), |_| true).is_empty(), "not yet");
    pass(&mut registry, &[], &[], &counts(7, 5), at(14));
    assert!(registry.close_dead(&counts(7, 5), RETAIN, at(15), |_| true).is_empty(), "it still counted");
    pass(&mut registry, &[], &[], &counts(7, 5), at(25));
    let closed = registry.close_dead(&counts(7, 5), RETAIN, at(25), |_| true);
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].1.exported.get(Closing::ListenDrops), 5);
    assert_eq!(closed[0].1.unverified.get(Closing::ListenDrops), 2, "the last reading said 3");
    assert!(registry.view(&discovery(&[])).is_empty());
}

#[test]
fn one_that_cannot_be_entered_for_once_stays_alive() {
    let mut registry = Registry::default();
    pass(&mut registry, &[70], &[reading(7, 70, 3)], &counts(7, 3), Instant::now());
    pass(&mut registry, &[70], &[], &counts(7, 3), Instant::now());
    assert!(namespace(&registry, &[70], 7).alive);
}

#[test]
fn a_reused_inode_closes_the_old_namespace_at_once() {
    let mut registry = Registry::default();
    let now = Instant::now();
    pass(&mut registry, &[70], &[reading(7, 70, 3)], &counts(7, 3), now);
    pass(&mut registry, &[70], &[reading(8, 70, 0)], &counts(7, 3), now);
    assert_eq!(namespace(&registry, &[70], 8).books.kernel(Closing::ListenDrops), Some(0));
    let closed = registry.close_dead(&counts(7, 3), RETAIN, now, |_| true);
    assert_eq!(closed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), vec![7]);
    assert_eq!(closed[0].1.unverified.get(Closing::ListenDrops), 0, "all of it had been read");
}

#[test]
fn what_is_pending_at_the_end_is_not_retired_twice() {
    let mut registry = Registry::default();
    let now = Instant::now();
    let mut with_pending = counts(7, 3);
    with_pending.pending.push(tracer_ebpf::counter::PendingHandshake {
        listener: with_pending.listeners[0].0,
        since_ns: 1,
        remote: [0; 4],
        local: [0; 4],
        queue_length: 6,
        queue_limit: 5,
        syn_queue_length: 0,
        netns_inum: 70,
        remote_port: 1,
        reason: 0,
        family: 2,
        answer_ack: 0,
    });
    pass(&mut registry, &[70], &[reading(7, 70, 4)], &with_pending, now);
    pass(&mut registry, &[], &[], &with_pending, now);
    assert!(
        registry.close_dead(&with_pending, Duration::ZERO, now, |_| true).is_empty(),
        "it waits for the kernel side"
    );
    pass(&mut registry, &[70], &[reading(8, 70, 0)], &with_pending, now);
    let closed = registry.close_dead(&with_pending, RETAIN, now, |_| true);
    assert_eq!(closed[0].1.exported.get(Closing::ListenDrops), 3, "the fourth closes with its own row");
}

#[test]
fn what_only_hooks_have_met_is_unverified() {
    let mut registry = Registry::default();
    let now = Instant::now();
    pass(&mut registry, &[], &[], &counts(9, 6), now);
    let closed = registry.close_dead(&counts(9, 6), Duration::ZERO, now, |_| true);
    assert_eq!(closed[0].1.unverified.get(Closing::ListenDrops), 6);
}

#[test]
fn counters_that_went_backwards_are_another_namespace_in_the_same_rows() {
    let mut registry = Registry::default();
    let now = Instant::now();
    pass(&mut registry, &[70], &[reading(70, 70, 9)], &counts(70, 9), now);
    pass(&mut registry, &[70], &[reading(70, 70, 2)], &counts(70, 9 + 2), now);
    let seen = namespace(&registry, &[70], 70);
    assert_eq!(seen.books.kernel(Closing::ListenDrops), Some(9 + 2));
    assert_eq!(seen.books.difference(Closing::ListenDrops), Some(0));
}

#[test]
fn one_that_hooks_met_before_a_pass_found_it_counts_from_zero() {
    let mut registry = Registry::default();
    pass(&mut registry, &[], &[], &counts(7, 3), Instant::now());
    pass(&mut registry, &[70], &[reading(7, 70, 5)], &counts(7, 5), Instant::now());
    let seen = namespace(&registry, &[70], 7);
    assert_eq!(seen.books.kernel(Closing::ListenDrops), Some(5));
    assert_eq!(seen.books.difference(Closing::ListenDrops), Some(0));
}

#[test]
fn one_that_could_not_be_entered_for_long_counts_from_then_on() {
    let mut registry = Registry::default();
    pass(&mut registry, &[], &[], &counts(7, 3), Instant::now());
    pass(&mut registry, &[], &[], &counts(7, 4), Instant::now());
    pass(&mut registry, &[70], &[reading(7, 70, 1000)], &counts(7, 4), Instant::now());
    pass(&mut registry, &[70], &[reading(7, 70, 1002)], &counts(7, 6), Instant::now());
    let books = namespace(&registry, &[70], 7).books;
    assert_eq!((books.difference(Closing::ListenDrops), books.unknown(Closing::ListenDrops)), (Some(0), 0));
}

#[test]
fn one_with_a_listener_is_not_dead_though_nothing_leads_to_it() {
    let mut registry = Registry::default();
    let now = Instant::now();
    let records = [tracer_ebpf::counter::ListenerSocket {
        key: counts(9, 0).listeners[0].0,
        sock: 1,
        inode: 1,
        holder_cgroup: 1,
        holder_tgid: 1,
        netns_inum: 90,
        accept_queue_length: 0,
        accept_queue_limit: 5,
        syn_queue_length: 0,
        sk_drops: 0,
        holder_comm: [0; 16],
    }];
    pass(&mut registry, &[], &[], &counts(9, 6), now);
    registry.note_listeners(&crate::pipeline::snapshot::join(&records));
    assert!(registry.close_dead(&counts(9, 6), Duration::ZERO, now, |_| true).is_empty());
    pass(&mut registry, &[], &[], &counts(9, 6), now);
    assert_eq!(registry.close_dead(&counts(9, 6), Duration::ZERO, now, |_| true).len(), 1, "its listener is gone");
}

#[test]
fn the_host_is_called_host_and_others_by_inode() {
    let mut registry = Registry::default();
    let readings = [reading(5, HOST, 0), reading(7, 70, 0)];
    pass(&mut registry, &[HOST, 70], &readings, &Counts::default(), Instant::now());
    assert_eq!(namespace(&registry, &[HOST, 70], 5).label, "host");
    assert_eq!(namespace(&registry, &[HOST, 70], 7).label, "70");
}

#[test]
fn confirmed_overflows_of_a_dead_workload_are_retired_and_still_close() {
    let candidates = |n| {
        let counter = Counter::TimeWaitCandidate as u8;
        let key = CounterKey { netns: 7, cgroup: 50, port: 0, role: 0, counter, a: 0, b: 0, zero: 0 };
        Counts { counters: vec![(key, n)], ..Counts::default() }
    };
    let overflows = |n| {
        let counters = KernelCounters { time_wait_overflow: Some(n), ..KernelCounters::default() };
        Reading { counters: Arc::new(counters), ..reading(7, 70, 0) }
    };
    let mut registry = Registry::default();
    let now = Instant::now();
    pass(&mut registry, &[70], &[overflows(4)], &candidates(5), now);
    assert_eq!(registry.retire_cgroup(7, 50), 4);
    pass(&mut registry, &[70], &[overflows(4)], &Counts::default(), now);
    let seen = namespace(&registry, &[70], 7);
    assert_eq!(seen.books.difference(Closing::TimeWaitOverflows), Some(0));
    assert_eq!(seen.books.time_wait_confirmed().count(), 0);
}

#[test]
fn the_dead_do_not_take_the_name_and_process_of_who_has_their_number() {
    let mut registry = Registry::default();
    let now = Instant::now();
    pass(&mut registry, &[70], &[reading(7, 70, 3)], &counts(7, 3), now);
    let mut found = discovery(&[70]);
    let netns = found.namespaces.get_mut(&70).unwrap();
    (netns.names, netns.lowest_pid) = (vec!["blue".into()], Some(5));
    let counts = counts(7, 3);
    registry.enter(&found, &[reading(8, 70, 0)], &counts, &counts, &Evidence::default(), now);
    let seen = |id| {
        let namespace = registry.view(&found).into_iter().find(|namespace| namespace.id == id).unwrap();
        (namespace.name, namespace.lowest_pid)
    };
    assert_eq!(seen(7), (String::new(), None));
    assert_eq!(seen(8), ("blue".into(), Some(5)));
}

/// The info row is a series: another name beside the first must not begin another.
#[test]
fn a_namespace_keeps_its_name_while_it_has_it() {
    let mut registry = Registry::default();
    let mut name = |names: &[&str]| {
        let mut found = discovery(&[70]);
        found.namespaces.get_mut(&70).unwrap().names = names.iter().map(|name| (*name).to_owned()).collect();
        let none = Counts::default();
        registry.enter(&found, &[reading(7, 70, 0)], &none, &none, &Evidence::default(), Instant::now());
        registry.view(&found).remove(0).name
    };
    let seen = [&[][..], &["green"], &["blue", "green"], &["blue"], &[]].map(&mut name);
    assert_eq!(seen, ["", "green", "green", "blue", ""]);
}

#[test]
fn without_cookies_counters_that_fall_begin_a_new_life() {
    let mut registry = Registry::default();
    for (drops, life) in [(3, 0), (4, 0), (1, 1), (2, 1)] {
        pass(&mut registry, &[70], &[reading(70, 70, drops)], &counts(70, drops), Instant::now());
        assert_eq!(namespace(&registry, &[70], 70).life, life, "at {drops}");
    }
}

/// A reading of a namespace that has sent and received so many segments.
fn traffic(id: u64, sent: u64, received: u64) -> Reading {
    let counters = KernelCounters { out_segs: Some(sent), in_segs: Some(received), ..*reading(id, 70, 0).counters };
    Reading { counters: Arc::new(counters), ..reading(id, 70, 0) }
}

fn segments(registry: &Registry, id: u64) -> (Option<u64>, Option<u64>) {
    let segments = namespace(registry, &[70], id).segments;
    (segments.sent.counted(), segments.received.counted())
}

/// Retransmits are a share of them, so both must have begun together.
#[test]
fn segments_count_from_the_same_baseline_as_retransmits() {
    let (none, now) = (Counts::default(), Instant::now());
    let mut registry = Registry::default();
    for sent in [1_000_000, 1_000_020] {
        registry.observe_baselines(&[traffic(7, sent, 2_000_000)], &none, &none);
    }
    registry.open_books();
    pass(&mut registry, &[70], &[traffic(7, 1_000_100, 2_000_050)], &none, now);
    assert_eq!(segments(&registry, 7), (Some(100), Some(50)), "older than the agent, by its first reading");

    let mut registry = Registry::default();
    pass(&mut registry, &[70], &[traffic(8, 30, 40)], &none, now);
    pass(&mut registry, &[70], &[traffic(8, 31, 44)], &none, now);
    assert_eq!(segments(&registry, 8), (Some(31), Some(44)), "made after the agent started");

    // Hooks met it, and for two passes nothing led to it.
    let mut registry = Registry::default();
    for _ in 0..3 {
        pass(&mut registry, &[], &[], &counts(9, 1), now);
    }
    pass(&mut registry, &[70], &[traffic(9, 5_000, 6_000)], &counts(9, 1), now);
    assert_eq!(segments(&registry, 9), (Some(0), Some(0)), "it may be as old as the node");
}
