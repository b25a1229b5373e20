//! Makes the numbers add up: for each namespace and signal, what hooks counted is compared with the
//! kernel's counter since the baseline. Pure: readings are passed in.
//!
//! A pass reads the maps, the kernel's counters, and the maps again. Only a kernel figure outside
//! that bracket is a difference. What the kernel saw more of in two passes running is given to an
//! "unknown" row; what it saw less of is never hidden.

use std::collections::{BTreeMap, HashMap};

use tracer_ebpf::counter::ListenerKey;

use super::counters::{Closing, Totals};

/// The kernel's counters of one namespace; `None` where the kernel does not have the counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelFigures([Option<u64>; Closing::COUNT]);

impl KernelFigures {
    /// Zero everywhere: the baseline of a namespace that was made after the agent started.
    pub const ZERO: Self = Self([Some(0); Closing::COUNT]);

    /// Sets a counter.
    #[must_use]
    pub fn with(mut self, signal: Closing, value: Option<u64>) -> Self {
        self.0[signal as usize] = value;
        self
    }

    /// A counter.
    #[must_use]
    pub fn get(&self, signal: Closing) -> Option<u64> {
        self.0[signal as usize]
    }
}

/// Finds a baseline from readings that bracket the kernel's counters after the hooks were attached:
/// where no hook counted meanwhile, the kernel's figure less the hooks' is what neither will see
/// again. For a signal that never stood still the hooks' later count is taken off, at the reading
/// during which it moved least: what is unsure shows as unknown, and never as counted too much.
#[derive(Clone, Debug, Default)]
pub struct BaselineFinder {
    baseline: KernelFigures,
    /// How far the hooks' count moved during the reading that the baseline is from.
    moved: Totals,
}

impl BaselineFinder {
    /// Takes one bracketed reading.
    pub fn observe(&mut self, before: &Totals, kernel: &KernelFigures, after: &Totals) {
        for signal in Closing::ALL {
            let Some(figure) = kernel.get(signal) else { continue };
            let moved = after.get(signal).saturating_sub(before.get(signal));
            if self.baseline.get(signal).is_none() || moved < self.moved.get(signal) {
                self.baseline = self.baseline.with(signal, Some(figure.saturating_sub(after.get(signal))));
                self.moved.set(signal, moved);
            }
        }
    }

    /// Whether a further reading could not improve it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.moved == Totals::default()
    }

    /// The baseline.
    #[must_use]
    pub fn baseline(&self) -> KernelFigures {
        self.baseline
    }
}

/// Readings of one namespace in one pass.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// What hooks had counted before the kernel's counters were read.
    pub before: Totals,
    /// The kernel's counters.
    pub kernel: KernelFigures,
    /// What hooks had counted after that.
    pub after: Totals,
    /// Candidates for TIME_WAIT overflows by cgroup, before.
    pub candidates_before: Vec<(u64, u64)>,
    /// Candidates after.
    pub candidates_after: Vec<(u64, u64)>,
    /// Signals that the hooks in force cannot tell apart at all, so that a comparison says nothing.
    pub untold: Vec<Closing>,
    /// The one listener whose socket discarded packets since the last pass, if it was one alone and
    /// no hook counts drops.
    pub sole_suspect: Option<ListenerKey>,
}

/// The books of one namespace.
#[derive(Clone, Debug, Default)]
pub struct Books {
    baseline: KernelFigures,
    /// What the kernel counted in earlier namespaces of the same identity, whose rows go on.
    earlier: Totals,
    /// The kernel's counters since the baseline, at the last reading.
    kernel: KernelFigures,
    /// Rows that were removed while the namespace lived.
    retired: Totals,
    /// What no hook attributed and stood in two passes.
    unknown: Totals,
    /// The part of `unknown` listen drops that evidence gives to a listener.
    suspected: BTreeMap<ListenerKey, u64>,
    /// What the kernel had more of in the last pass, and who was suspected then.
    excess: Totals,
    suspect: Option<ListenerKey>,
    difference: [Option<i64>; Closing::COUNT],
    time_wait: Confirmed,
}

/// TIME_WAIT overflows given to workloads on the lowest rung with hooks.
#[derive(Clone, Debug, Default)]
struct Confirmed {
    /// Confirmed overflows by cgroup.
    overflows: BTreeMap<u64, u64>,
    /// Candidates already judged, by cgroup.
    judged: HashMap<u64, u64>,
    /// Cgroups in the order in which their first candidate was seen.
    order: Vec<u64>,
}

impl Confirmed {
    fn total(&self) -> u64 {
        self.overflows.values().sum()
    }

    /// Gives `n` overflows to candidates, oldest workload first.
    fn confirm(&mut self, mut n: u64, candidates: &[(u64, u64)]) {
        for &(cgroup, _) in candidates {
            if !self.order.contains(&cgroup) {
                self.order.push(cgroup);
            }
        }
        for cgroup in &self.order {
            let seen = candidates.iter().find(|(id, _)| id == cgroup).map_or(0, |(_, n)| *n);
            let judged = self.judged.entry(*cgroup).or_default();
            let confirmed = seen.saturating_sub(*judged).min(n);
            if confirmed > 0 {
                *judged += confirmed;
                *self.overflows.entry(*cgroup).or_default() += confirmed;
                n -= confirmed;
            }
        }
    }

    /// The kernel counts before the candidate is seen: what was there before its counter was read
    /// and is not confirmed now never will be.
    fn reject(&mut self, candidates_before: &[(u64, u64)]) {
        for &(cgroup, seen) in candidates_before {
            let judged = self.judged.entry(cgroup).or_default();
            *judged = (*judged).max(seen);
        }
    }
}

impl Books {
    /// Opens the books at a baseline.
    #[must_use]
    pub fn open(baseline: KernelFigures) -> Self {
        Self { baseline, ..Self::default() }
    }

    /// Candidates for TIME_WAIT overflows that were seen before the baseline count nothing.
    pub fn reject_candidates(&mut self, seen: &[(u64, u64)]) {
        self.time_wait.reject(seen);
    }

    /// Whether the kernel's counters are below their last reading: then the namespace is another one
    /// under the same identity.
    #[must_use]
    pub fn went_backwards(&self, now: &KernelFigures) -> bool {
        Closing::ALL.iter().any(|&signal| {
            let then = self.kernel.get(signal).zip(self.baseline.get(signal));
            let then = then.map(|(since, base)| since + base - self.earlier.get(signal));
            matches!((then, now.get(signal)), (Some(then), Some(now)) if now < then)
        })
    }

    /// Another namespace has the same identity, and the hooks count for it in the same rows: its
    /// counters began at zero, and go on top of what the last one's came to.
    pub fn begin_again(&mut self) {
        for signal in Closing::ALL {
            self.earlier.set(signal, self.kernel.get(signal).unwrap_or(0));
        }
        self.baseline = KernelFigures::ZERO;
    }

    /// Enters one pass's readings.
    pub fn enter(&mut self, seen: &Observation) {
        for signal in Closing::ALL {
            let since = match (seen.kernel.get(signal), self.baseline.get(signal)) {
                (Some(now), Some(then)) => Some(self.earlier.get(signal) + now.saturating_sub(then)),
                _ => None,
            };
            self.kernel = self.kernel.with(signal, since);
        }
        self.confirm_time_wait(seen);
        for signal in Closing::ALL {
            self.compare(signal, seen);
        }
        self.suspect = seen.sole_suspect;
    }

    fn confirm_time_wait(&mut self, seen: &Observation) {
        let signal = Closing::TimeWaitOverflows;
        let Some(kernel) = self.kernel.get(signal) else { return };
        let explained =
            seen.after.get(signal) + self.retired.get(signal) + self.unknown.get(signal) + self.time_wait.total();
        self.time_wait.confirm(kernel.saturating_sub(explained), &seen.candidates_after);
        self.time_wait.reject(&seen.candidates_before);
    }

    fn compare(&mut self, signal: Closing, seen: &Observation) {
        let index = signal as usize;
        let told = self.kernel.get(signal).filter(|_| !seen.untold.contains(&signal));
        let Some(kernel) = told else {
            self.difference[index] = None;
            return;
        };
        let books = self.outside_maps(signal);
        let low = seen.before.get(signal) + books;
        let high = seen.after.get(signal) + books;
        let excess = kernel.saturating_sub(high);
        let stood = if signal.has_unknown_row() { excess.min(self.excess.get(signal)) } else { 0 };
        if stood > 0 {
            self.unknown.add(signal, stood);
            if let (Closing::ListenDrops, Some(listener)) = (signal, self.suspect) {
                *self.suspected.entry(listener).or_default() += stood;
            }
        }
        let left = excess - stood;
        self.excess.set(signal, left);
        self.difference[index] = Some(if left > 0 { signed(left) } else { -signed(low.saturating_sub(kernel)) });
    }

    /// What counts for a signal besides the rows in the maps.
    #[must_use]
    pub fn outside_maps(&self, signal: Closing) -> u64 {
        let confirmed = if signal == Closing::TimeWaitOverflows { self.time_wait.total() } else { 0 };
        self.retired.get(signal) + self.unknown.get(signal) + confirmed
    }

    /// Takes over a row that is removed from the maps while the namespace lives.
    pub fn retire(&mut self, row: &Totals) {
        self.retired.add_all(row);
    }

    /// Takes over drops that evidence gave to a listener that is gone, or gives them to the heir of its
    /// labels; returns how many it took over.
    pub fn retire_suspect(&mut self, gone: &ListenerKey, heir: Option<ListenerKey>) -> u64 {
        let drops = self.suspected.remove(gone).unwrap_or(0);
        if let (Some(heir), 1..) = (heir, drops) {
            *self.suspected.entry(heir).or_default() += drops;
            return 0;
        }
        self.unknown.set(Closing::ListenDrops, self.unknown.get(Closing::ListenDrops) - drops);
        self.retired.add(Closing::ListenDrops, drops);
        drops
    }

    /// Takes over what was confirmed for a workload that is gone; returns how much.
    pub fn retire_cgroup(&mut self, cgroup: u64) -> u64 {
        let confirmed = self.time_wait.overflows.remove(&cgroup).unwrap_or(0);
        self.time_wait.judged.remove(&cgroup);
        self.time_wait.order.retain(|id| *id != cgroup);
        self.retired.add(Closing::TimeWaitOverflows, confirmed);
        confirmed
    }

    /// Another workload takes over what was confirmed for one that is gone.
    pub fn bequeath_cgroup(&mut self, cgroup: u64, heir: u64) {
        let retired = self.retired.get(Closing::TimeWaitOverflows);
        let confirmed = self.retire_cgroup(cgroup);
        self.retired.set(Closing::TimeWaitOverflows, retired);
        if confirmed > 0 {
            *self.time_wait.overflows.entry(heir).or_default() += confirmed;
        }
    }

    /// The kernel's counter since the baseline, at the last reading.
    #[must_use]
    pub fn kernel(&self, signal: Closing) -> Option<u64> {
        self.kernel.get(signal)
    }

    /// What no hook attributed, beyond what evidence gives to a listener.
    #[must_use]
    pub fn unknown(&self, signal: Closing) -> u64 {
        let suspected: u64 = if signal == Closing::ListenDrops { self.suspected.values().sum() } else { 0 };
        self.unknown.get(signal) - suspected
    }

    /// Drops that evidence gives to a listener.
    pub fn suspected(&self) -> impl Iterator<Item = (&ListenerKey, u64)> {
        self.suspected.iter().map(|(key, n)| (key, *n))
    }

    /// TIME_WAIT overflows confirmed by cgroup.
    pub fn time_wait_confirmed(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.time_wait.overflows.iter().map(|(cgroup, n)| (*cgroup, *n))
    }

    /// Kernel's figure outside the bracket at the last pass: positive = the kernel saw more. `None`
    /// where there is nothing to compare.
    #[must_use]
    pub fn difference(&self, signal: Closing) -> Option<i64> {
        self.difference[signal as usize]
    }

    /// Closes the books of a dead namespace, given the last sums over its rows, and those with what
    /// waits to be judged. What the kernel had more of at the last reading no hook will explain any
    /// more, and no further pass will find standing: it goes where the `unknown` row goes.
    #[must_use]
    pub fn close(&self, rows: &Totals, at_most: &Totals) -> Closed {
        let mut closed = Closed::default();
        for signal in Closing::ALL {
            let (books, kernel) = (self.outside_maps(signal), self.kernel.get(signal).unwrap_or(0));
            let counted = rows.get(signal) + books;
            closed.exported.add(signal, counted - self.retired.get(signal));
            closed.unverified.add(signal, counted.saturating_sub(kernel));
            if signal.has_unknown_row() {
                closed.exported.add(signal, kernel.saturating_sub(at_most.get(signal) + books));
            }
        }
        closed
    }
}

/// What is left of a dead namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Value of its series, which are removed with it.
    pub exported: Totals,
    /// The part of everything ever exported for it that no reading of the kernel's counters confirms.
    pub unverified: Totals,
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            (books.kernel(SIGNAL), books.difference(SIGNAL)),
            (Some(7), Some(0)),
            "5 of the last one, 2 of this"
        );
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
}
