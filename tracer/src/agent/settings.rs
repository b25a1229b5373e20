//! When a namespace's settings are read, and how old what is known of them is. No I/O: readings and times
//! are passed in.
//!
//! There are some fifty settings, and hundreds of namespaces: read in every pass they would be most of its
//! cost, and they change with a deployment, not with the load. So a namespace's are read when it is first
//! seen, and again once they are [`ROUND_PASSES`] intervals old; and a pass has a slice of processor time for them, so
//! that a thousand namespaces that come at once are read over some passes, the oldest reading first.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    pipeline::sysctls::Settings,
    view::{Namespace, Pass},
};

/// Intervals after which all settings are read again: a minute at the default of five seconds.
pub const ROUND_PASSES: u32 = 12;
/// What the first pass may spend on settings: it belongs to the start.
const FIRST_SLICE: Duration = Duration::from_millis(500);
/// What any pass may: some ten namespaces.
const SLICE_MIN: Duration = Duration::from_millis(2);
/// The part of the passes' share of a core that settings may take.
const PART: f64 = 0.25;
/// Passes over which the usual cost is smoothed.
const SMOOTHED_OVER: u32 = 8;

/// The settings of one namespace.
#[derive(Clone, Debug)]
pub struct SettingsReading {
    /// What they said.
    pub settings: Arc<Settings>,
    /// When they were read.
    pub read: Instant,
    /// How long that took.
    pub took: Duration,
    /// How much of the thread's CPU time it took.
    pub cpu: Duration,
}

/// What a pass may spend on settings, and does.
#[derive(Debug, Default)]
pub struct Slice {
    /// `None` where none are to be read.
    budget: Option<Duration>,
    is_first: bool,
    spent: Duration,
    read: u32,
    /// Of one namespace, at the last pass that read any.
    each: Duration,
    /// Of a pass, smoothed.
    usual: Duration,
}

impl Slice {
    /// A pass begins that has `interval` until the next, `share` of a core for all that passes do, and may be the first.
    pub fn begin(&mut self, interval: Duration, share: f64, is_first: bool) {
        let slice = if is_first { FIRST_SLICE } else { interval.mul_f64(share * PART).max(SLICE_MIN) };
        (self.budget, self.is_first) = (Some(slice), is_first);
        (self.spent, self.read) = (Duration::ZERO, 0);
    }

    /// Whether the settings of one more namespace may be read: of one in any case.
    #[must_use]
    pub fn has_time(&self) -> bool {
        self.budget.is_some_and(|budget| self.read == 0 || self.spent < budget)
    }

    /// How many namespaces may be read again, from what one cost the last time.
    #[must_use]
    pub fn affords(&self) -> usize {
        let budget = self.budget.unwrap_or_default();
        match budget.as_nanos().checked_div(self.each.as_nanos()) {
            Some(count) => usize::try_from(count).unwrap_or(usize::MAX).max(1),
            None => usize::MAX,
        }
    }

    /// Takes what one reading cost.
    pub fn add(&mut self, reading: &SettingsReading) {
        self.spent += reading.cpu;
        self.read += 1;
    }

    /// What a pass takes in the long run, of which this one has taken `cpu` by now: how many settings it happened to read
    /// is of no account.
    #[must_use]
    pub fn usual_cost(&self, cpu: Duration) -> Duration {
        cpu.saturating_sub(self.spent) + self.smoothed()
    }

    /// The pass has ended.
    pub fn end(&mut self) {
        if self.read > 0 {
            self.each = self.spent / self.read;
        }
        self.usual = self.smoothed();
    }

    /// The first pass reads at once what others read in turns.
    fn smoothed(&self) -> Duration {
        if self.is_first { self.usual } else { (self.usual * (SMOOTHED_OVER - 1) + self.spent) / SMOOTHED_OVER }
    }
}

/// The namespaces whose settings are as new as they need be, of `known` ones by id. At most `again` are read again,
/// those with the oldest reading.
#[must_use]
pub fn fresh(known: impl Iterator<Item = (u64, Instant)>, again: usize, age: Duration, now: Instant) -> HashSet<u64> {
    let mut known: Vec<(Instant, u64)> = known.map(|(id, read)| (read, id)).collect();
    known.sort_unstable();
    let is_old = |read: Instant| now.saturating_duration_since(read) >= age;
    let due = known.iter().take(again).take_while(|(read, _)| is_old(*read)).count();
    known.into_iter().skip(due).map(|(_, id)| id).collect()
}

/// The last reading of every living namespace as one pass: it took what they took together, and it is as old
/// as the oldest. `None` before the first one.
#[must_use]
pub fn round(namespaces: &[Namespace], interval: Duration) -> Option<Pass> {
    let readings = || namespaces.iter().filter(|namespace| namespace.alive).filter_map(|one| one.settings.as_ref());
    let ended = readings().map(|reading| reading.read).min()?;
    let duration = readings().map(|reading| reading.took).sum();
    Some(Pass { name: "settings", duration, ended, interval })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pipeline::{
            kernel_counters::{Segments, Sockstat, Sysctls},
            reconcile::Books,
        },
        view::Namespace,
    };

    fn namespace(alive: bool, settings: Option<SettingsReading>) -> Namespace {
        Namespace {
            id: 1,
            inum: 1,
            label: String::new(),
            name: String::new(),
            is_host: false,
            lowest_pid: None,
            alive,
            is_stale: false,
            books: Books::default(),
            counters: Arc::default(),
            segments: Segments::default(),
            sockstat: Sockstat::default(),
            sysctls: Sysctls::default(),
            settings,
            life: 0,
            owner: Arc::default(),
        }
    }

    fn reading(read: Instant, cpu: Duration) -> SettingsReading {
        SettingsReading { settings: Arc::default(), read, took: cpu, cpu }
    }

    #[test]
    fn the_oldest_are_read_again_as_many_as_there_is_time_for() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let known = || (0..10).map(|id: u32| (u64::from(id), start + id * second));
        let now = start + 65 * second;
        let due = |again| {
            let fresh = fresh(known(), again, 60 * second, now);
            (0..10).filter(|id| !fresh.contains(id)).collect::<Vec<u64>>()
        };
        assert_eq!(due(usize::MAX), [0, 1, 2, 3, 4, 5], "those of a minute and more");
        assert_eq!(due(2), [0, 1]);
    }

    #[test]
    fn a_pass_reads_one_namespace_in_any_case_and_then_as_long_as_its_slice_lasts() {
        let ms = Duration::from_millis;
        let mut slice = Slice::default();
        assert!(!slice.has_time(), "no pass has begun");
        slice.begin(Duration::from_secs(5), 0.01, false);
        let mut read = 0;
        while slice.has_time() {
            slice.add(&reading(Instant::now(), ms(5)));
            read += 1;
        }
        assert_eq!(read, 3, "of 12.5 ms");
        slice.end();
        slice.begin(Duration::from_secs(5), 0.01, false);
        assert_eq!(slice.affords(), 2);
        slice.add(&reading(Instant::now(), ms(900)));
        assert!(!slice.has_time());
    }

    /// A pass that happens to read many settings does not put off the next.
    #[test]
    fn the_cost_of_settings_is_spread_over_passes_and_the_first_ones_is_none() {
        let ms = Duration::from_millis;
        let mut slice = Slice::default();
        slice.begin(Duration::from_secs(5), 0.01, true);
        slice.add(&reading(Instant::now(), ms(400)));
        assert_eq!(slice.usual_cost(ms(500)), ms(100));
        slice.end();
        slice.begin(Duration::from_secs(5), 0.01, false);
        slice.add(&reading(Instant::now(), ms(80)));
        assert_eq!(slice.usual_cost(ms(180)), ms(110));
    }

    #[test]
    fn a_round_is_as_old_as_its_oldest_reading() {
        let start = Instant::now();
        let reading = |age| reading(start + Duration::from_secs(age), Duration::from_millis(2));
        let second = Duration::from_secs(1);
        assert!(round(&[namespace(true, None)], second).is_none());
        let all = [
            namespace(true, Some(reading(9))),
            namespace(true, Some(reading(5))),
            namespace(true, None),
            namespace(false, Some(reading(1))),
        ];
        let pass = round(&all, second).unwrap();
        assert_eq!((pass.ended, pass.duration), (start + 5 * second, Duration::from_millis(4)));
        assert_eq!(pass.interval, second);
    }
}
