//! Reconciling, from observations to books.

use super::*;

const SIGNAL: Closing = Closing::ListenDrops;

fn totals(n: u64) -> Totals {
    let mut totals = Totals::default();
    totals.add(SIGNAL, n);
    totals
}

fn pass(before: u64, kernel: u64, after: u64) -> Observation {
    Observation {
        before: totals(before),
        kernel: KernelFigures::ZERO.with(SIGNAL, Some(kernel)),
        after: totals(after),
        ..Observation::default()
    }
}

fn listener(port: u16) -> ListenerKey {
    ListenerKey { netns: 1, cgroup: 1, address: [0; 4], port, zero: [0; 3] }
}

#[test]
fn a_figure_inside_the_bracket_is_no_difference() {
    let mut books = Books::open(KernelFigures::ZERO);
    for kernel in [10, 11, 12] {
        books.enter(&pass(10, kernel, 12));
        assert_eq!(books.difference(SIGNAL), Some(0), "{kernel}");
        assert_eq!(books.unknown(SIGNAL), 0);
    }
}

#[test]
fn an_excess_goes_to_unknown_once_it_stood_in_two_passes() {
    let mut books = Books::open(KernelFigures::ZERO);
    books.enter(&pass(5, 9, 6));
    assert_eq!((books.difference(SIGNAL), books.unknown(SIGNAL)), (Some(3), 0));
    books.enter(&pass(6, 12, 7));
    assert_eq!((books.difference(SIGNAL), books.unknown(SIGNAL)), (Some(2), 3), "2 more are new");
    books.enter(&pass(9, 12, 9));
    assert_eq!((books.difference(SIGNAL), books.unknown(SIGNAL)), (Some(0), 3), "the hooks caught up");
}

#[test]
fn what_hooks_count_too_much_is_never_hidden() {
    let mut books = Books::open(KernelFigures::ZERO);
    for _ in 0..3 {
        books.enter(&pass(12, 10, 13));
        assert_eq!((books.difference(SIGNAL), books.unknown(SIGNAL)), (Some(-2), 0));
    }
}

#[test]
fn the_baseline_is_taken_off() {
    let mut books = Books::open(KernelFigures::ZERO.with(SIGNAL, Some(100)));
    books.enter(&pass(7, 107, 7));
    assert_eq!(books.kernel(SIGNAL), Some(7));
    assert_eq!(books.difference(SIGNAL), Some(0));
}

#[test]
fn a_counter_that_the_kernel_lacks_is_not_compared() {
    let mut books = Books::open(KernelFigures::default());
    books.enter(&pass(7, 107, 7));
    assert_eq!(books.kernel(SIGNAL), None);
    assert_eq!(books.difference(SIGNAL), None);
}

#[test]
fn signals_without_a_row_keep_their_difference() {
    let mut books = Books::open(KernelFigures::ZERO);
    let signal = Closing::ListenOverflows;
    let seen = Observation { kernel: KernelFigures::ZERO.with(signal, Some(4)), ..Observation::default() };
    for _ in 0..3 {
        books.enter(&seen);
        assert_eq!(books.difference(signal), Some(4));
    }
}

#[test]
fn what_the_hooks_cannot_tell_is_not_compared() {
    let mut books = Books::open(KernelFigures::ZERO);
    books.enter(&Observation { untold: vec![SIGNAL], ..pass(0, 9, 0) });
    assert_eq!((books.kernel(SIGNAL), books.difference(SIGNAL)), (Some(9), None));
}

#[test]
fn a_retired_row_still_counts() {
    let mut books = Books::open(KernelFigures::ZERO);
    books.enter(&pass(7, 7, 7));
    books.retire(&totals(5));
    books.enter(&pass(2, 7, 2));
    assert_eq!(books.difference(SIGNAL), Some(0));
}

#[test]
fn a_dead_namespace_closes_at_its_last_reading() {
    let mut books = Books::open(KernelFigures::ZERO);
    books.enter(&pass(7, 7, 7));
    books.retire(&totals(3));
    let closed = books.close(&totals(9), &totals(9));
    assert_eq!(closed.exported.get(SIGNAL), 9, "the 3 were exported as retired before");
    assert_eq!(closed.unverified.get(SIGNAL), 5, "12 counted, 7 read");
    assert_eq!(Books::default().close(&totals(4), &totals(4)).unverified.get(SIGNAL), 4, "never read");
}

#[test]
fn what_the_kernel_alone_counted_is_not_lost_with_its_namespace() {
    let mut books = Books::open(KernelFigures::ZERO);
    books.enter(&pass(2, 9, 2));
    let closed = books.close(&totals(3), &totals(4));
    assert_eq!(closed.exported.get(SIGNAL), 3 + 5, "one more waits to be judged, and counts by itself");
    assert_eq!(closed.unverified.get(SIGNAL), 0);
}

#[test]
fn drops_without_hooks_go_to_the_only_suspect() {
    let mut books = Books::open(KernelFigures::ZERO);
    let with_suspect = |kernel, port| Observation { sole_suspect: Some(listener(port)), ..pass(0, kernel, 0) };
    books.enter(&with_suspect(4, 80));
    books.enter(&with_suspect(4, 443));
    assert_eq!(books.suspected().collect::<Vec<_>>(), vec![(&listener(80), 4)], "suspected when it arose");
    assert_eq!(books.unknown(SIGNAL), 0);
    books.enter(&pass(0, 9, 0));
    books.enter(&pass(0, 9, 0));
    assert_eq!(books.unknown(SIGNAL), 5, "nobody was suspected alone");
    assert_eq!(books.retire_suspect(&listener(80), Some(listener(81))), 0);
    assert_eq!(books.suspected().collect::<Vec<_>>(), vec![(&listener(81), 4)]);
    assert_eq!(books.retire_suspect(&listener(81), None), 4);
    assert_eq!((books.suspected().count(), books.unknown(SIGNAL)), (0, 5));
    books.enter(&pass(0, 9, 0));
    assert_eq!(books.difference(SIGNAL), Some(0), "what was retired still counts");
}

fn time_wait(before: &[(u64, u64)], kernel: u64, after: &[(u64, u64)]) -> Observation {
    Observation {
        kernel: KernelFigures::ZERO.with(Closing::TimeWaitOverflows, Some(kernel)),
        candidates_before: before.to_vec(),
        candidates_after: after.to_vec(),
        ..Observation::default()
    }
}

#[test]
fn a_baseline_is_what_neither_side_will_count_again() {
    let mut finder = BaselineFinder::default();
    let kernel = |n| KernelFigures::ZERO.with(SIGNAL, Some(n));
    finder.observe(&totals(0), &kernel(100), &totals(4));
    finder.observe(&totals(4), &kernel(105), &totals(5));
    assert!(!finder.is_settled(), "hooks counted meanwhile");
    assert_eq!(finder.baseline().get(SIGNAL), Some(100), "the steadier reading, and all that hooks counted");
    finder.observe(&totals(5), &kernel(106), &totals(6));
    assert_eq!(finder.baseline().get(SIGNAL), Some(100), "no steadier");
    finder.observe(&totals(7), &kernel(106), &totals(7));
    assert!(finder.is_settled());
    assert_eq!(finder.baseline().get(SIGNAL), Some(99));
    finder.observe(&totals(8), &kernel(110), &totals(8));
    assert_eq!(finder.baseline().get(SIGNAL), Some(99), "the first that stood still");
}

#[test]
fn a_reused_identity_is_noticed() {
    let mut books = Books::open(KernelFigures::ZERO.with(SIGNAL, Some(10)));
    books.enter(&pass(5, 15, 5));
    assert!(!books.went_backwards(&KernelFigures::ZERO.with(SIGNAL, Some(15))));
    assert!(books.went_backwards(&KernelFigures::ZERO.with(SIGNAL, Some(14))));
    books.begin_again();
    books.enter(&pass(7, 2, 7));
    assert_eq!((books.kernel(SIGNAL), books.difference(SIGNAL)), (Some(7), Some(0)), "5 of the last one, 2 of this");
    assert!(!books.went_backwards(&KernelFigures::ZERO.with(SIGNAL, Some(2))));
    assert!(books.went_backwards(&KernelFigures::ZERO.with(SIGNAL, Some(1))));
}

#[test]
fn candidates_are_confirmed_up_to_the_kernels_number() {
    let mut books = Books::open(KernelFigures::ZERO);
    books.enter(&time_wait(&[(1, 10)], 9, &[(1, 10)]));
    assert_eq!(books.time_wait_confirmed().collect::<Vec<_>>(), vec![(1, 9)]);
    assert_eq!(books.difference(Closing::TimeWaitOverflows), Some(0));
    books.enter(&time_wait(&[(1, 12)], 11, &[(1, 12)]));
    assert_eq!(books.time_wait_confirmed().collect::<Vec<_>>(), vec![(1, 11)], "the tenth stays rejected");
}

#[test]
fn a_candidate_that_comes_while_the_counter_is_read_waits_for_the_next_pass() {
    let mut books = Books::open(KernelFigures::ZERO);
    books.enter(&time_wait(&[(1, 1)], 1, &[(1, 2)]));
    books.enter(&time_wait(&[(1, 2)], 2, &[(1, 2)]));
    assert_eq!(books.time_wait_confirmed().collect::<Vec<_>>(), vec![(1, 2)]);
}

#[test]
fn overflows_without_candidates_are_unknown() {
    let mut books = Books::open(KernelFigures::ZERO);
    books.enter(&time_wait(&[], 3, &[]));
    books.enter(&time_wait(&[], 3, &[]));
    assert_eq!(books.unknown(Closing::TimeWaitOverflows), 3);
}

#[test]
fn older_workloads_are_confirmed_first() {
    let mut books = Books::open(KernelFigures::ZERO);
    books.enter(&time_wait(&[], 0, &[(5, 1)]));
    books.enter(&time_wait(&[(5, 3), (4, 3)], 4, &[(5, 3), (4, 3)]));
    assert_eq!(books.time_wait_confirmed().collect::<Vec<_>>(), vec![(4, 1), (5, 3)]);
}
