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
mod tests;
