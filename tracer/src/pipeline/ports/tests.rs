//! Whose turn it is, what it costs, and what a walk that had no room for all may say.

use super::*;

const RANGE: (u16, u16) = (40_000, 40_099);
const SECOND: Duration = Duration::from_secs(1);
const CPU: Duration = Duration::from_millis(10);

fn candidate(id: u64, sockets: u64) -> Candidate {
    Candidate { id, inum: 7, sockets, range: RANGE }
}

fn key(last: u8, port: u16) -> DestinationKey {
    let words = |last| [0, 0, u32::from_ne_bytes([0, 0, 255, 255]), u32::from_ne_bytes([10, 0, 0, last])];
    DestinationKey { source: words(1), destination: words(last), port, zero: 0 }
}

fn found(read: Instant, busiest: u32, refused_most: u32) -> PortUse {
    let mut list = Busiest::default();
    list.add(&key(2, 80), DestinationUse { used: busiest, time_wait: 0, bound: 0 });
    PortUse::new(read, RANGE, list, 0, [refused_most; 2])
}

/// Walks what is next, which takes no time but processor time.
fn walk(ports: &mut Ports, candidates: &[Candidate], now: Instant) -> Option<u64> {
    let next = ports.next(candidates, now)?;
    let walk = Walk { duration: CPU, cpu: CPU, ended: now };
    ports.note(next.id, Some(found(now, 1, 0)), walk, 1.0);
    Some(next.id)
}

#[test]
fn a_namespace_is_near_from_an_eighth_of_its_range() {
    let near = [(12, false), (13, true), (100_000, true), (0, false)];
    for (sockets, is_near) in near {
        assert_eq!(candidate(1, sockets).is_near(), is_near, "{sockets} of 100");
    }
    let empty = Candidate { range: (9, 8), ..candidate(1, 1) };
    assert_eq!((empty.ports(), empty.is_near()), (0, true));
    assert_eq!(ports((0, u16::MAX)), 65_536);
}

#[test]
fn the_unread_come_first_and_then_who_waits_and_is_full() {
    let mut ports = Ports::default();
    let start = Instant::now();
    let all = [candidate(1, 20), candidate(2, 90), candidate(3, 5)];
    let turns: Vec<_> = (0..12).map(|second| walk(&mut ports, &all, start + second * SECOND)).collect();
    assert_eq!(turns[..2], [Some(2), Some(1)], "the fuller one first");
    assert!(!turns.contains(&Some(3)), "it is not near");
    let of = |id| turns.iter().filter(|turn| **turn == Some(id)).count();
    assert!(of(2) > of(1) && of(1) >= 2, "{turns:?}");
}

#[test]
fn a_walk_is_rested_off() {
    let mut ports = Ports::default();
    let start = Instant::now();
    let all = [candidate(1, 90)];
    // 10 ms of a core at 1 %.
    assert_eq!(walk(&mut ports, &all, start), Some(1));
    assert_eq!(walk(&mut ports, &all, start + Duration::from_millis(999)), None);
    assert_eq!(walk(&mut ports, &all, start + SECOND), Some(1));
}

#[test]
fn a_walk_that_failed_is_rested_off_too_and_shows_nothing() {
    let mut ports = Ports::default();
    let start = Instant::now();
    let all = [candidate(1, 90), candidate(2, 90)];
    let next = ports.next(&all, start).unwrap();
    ports.note(next.id, None, Walk { duration: CPU, cpu: CPU, ended: start }, 1.0);
    assert!(ports.found().is_empty() && ports.pass(SECOND).is_none());
    assert_eq!(ports.next(&all, start), None);
    assert_eq!(ports.next(&all, start + SECOND).map(|next| next.id), Some(2), "the other one's turn");
}

#[test]
fn what_is_not_near_any_more_goes() {
    let mut ports = Ports::default();
    let start = Instant::now();
    walk(&mut ports, &[candidate(1, 90)], start);
    assert!(ports.are_wanted() && ports.found().contains_key(&1));
    assert_eq!(ports.next(&[candidate(1, 9)], start), None);
    assert!(!ports.are_wanted() && ports.found().is_empty() && ports.pass(SECOND).is_none());
}

#[test]
fn the_pass_is_as_old_as_its_oldest_result() {
    let mut ports = Ports::default();
    let start = Instant::now();
    let all = [candidate(1, 90), candidate(2, 80)];
    walk(&mut ports, &all, start);
    walk(&mut ports, &all, start + SECOND);
    let pass = ports.pass(5 * SECOND).unwrap();
    assert_eq!(pass, WalkPass { duration: CPU, ended: start, interval: 10 * SECOND });
}

#[test]
fn the_busiest_are_kept_in_order() {
    let mut busiest = Busiest::default();
    for used in [3_u16, 50, 7, 1, 9, 2, 8, 60, 4, 6, 5, 10, 11] {
        busiest.add(&key(2, used), DestinationUse { used: used.into(), time_wait: 1, bound: 0 });
    }
    let kept: Vec<u32> = busiest.destinations.iter().map(|destination| destination.used).collect();
    assert_eq!(kept, [60, 50, 11, 10, 9, 8, 7, 6, 5, 4]);
    let first = busiest.destinations[0];
    assert_eq!((first.source.to_string(), first.destination.to_string()), ("10.0.0.1".into(), "10.0.0.2:60".into()));
}

#[test]
fn the_largest_is_told_only_if_none_without_room_can_be_larger() {
    let now = Instant::now();
    assert_eq!(found(now, 40, 0).largest(), Some(40));
    assert_eq!(found(now, 40, 40).largest(), Some(40));
    assert_eq!(found(now, 40, 41).largest(), None);
    let nothing = PortUse::new(now, RANGE, Busiest::default(), 0, [0, 0]);
    assert_eq!((nothing.largest(), nothing.ports()), (Some(0), 100));
}

#[test]
fn ports_that_bind_took_count_for_every_destination() {
    let mut busiest = Busiest::default();
    // Ten of its ports are among those that are bound, and the other destination has fewer sockets and more to itself.
    busiest.add(&key(2, 80), DestinationUse { used: 12, time_wait: 0, bound: 10 });
    busiest.add(&key(3, 80), DestinationUse { used: 5, time_wait: 0, bound: 0 });
    let found = PortUse::new(Instant::now(), RANGE, busiest, 30, [0, 0]);
    assert_eq!((found.destinations[0].used, found.largest()), (12, Some(35)));
    let nobody_connects = PortUse::new(Instant::now(), RANGE, Busiest::default(), 30, [0, 0]);
    assert_eq!(nobody_connects.largest(), Some(30));
}

#[test]
fn bound_ports_that_are_set_aside_do_not_count() {
    let mut bitmap = [0; 1024];
    for port in [0_u16, 63, 64, 40_050, 65_535] {
        bitmap[usize::from(port >> 6)] |= 1_u64 << (port & 63);
    }
    for (reserved, expected) in [(&[][..], 5), (&[(64, 64), (40_000, 40_049)], 4), (&[(0, 65_535)], 0)] {
        assert_eq!(bound_ports(&bitmap, reserved), expected, "{reserved:?}");
    }
}
