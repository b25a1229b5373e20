//! When a namespace's settings are read, and how old what is known of them is. No I/O: readings and times
//! are passed in.
//!
//! There are some fifty settings, and hundreds of namespaces: read in every pass they would be most of its
//! cost, and they change with a deployment, not with the load. So a namespace's are read when it is first
//! seen, and then once in [`ROUND_PASSES`] passes, each namespace in its own turn.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    pipeline::sysctls::Settings,
    view::{Namespace, Pass},
};

/// Passes after which all settings have been read again: a minute at the default of five seconds.
pub const ROUND_PASSES: u32 = 12;

/// The settings of one namespace.
#[derive(Clone, Debug)]
pub struct SettingsReading {
    /// What they said.
    pub settings: Arc<Settings>,
    /// When they were read.
    pub read: Instant,
    /// How long that took.
    pub took: Duration,
}

/// Whether it is the turn of the namespace `id` in this pass.
#[must_use]
pub fn is_turn_of(id: u64, pass: u64) -> bool {
    id % u64::from(ROUND_PASSES) == pass % u64::from(ROUND_PASSES)
}

/// The last reading of every living namespace as one pass: it took what they took together, and it is as old
/// as the oldest. `None` before the first one.
#[must_use]
pub fn round(namespaces: &[Namespace], interval: Duration) -> Option<Pass> {
    let readings = || namespaces.iter().filter(|namespace| namespace.alive).filter_map(|one| one.settings.as_ref());
    let ended = readings().map(|reading| reading.read).min()?;
    let duration = readings().map(|reading| reading.took).sum();
    Some(Pass { name: "settings", duration, ended, interval: interval * ROUND_PASSES })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pipeline::{
            kernel_counters::{KernelCounters, Segments, Sockstat, Sysctls},
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
            books: Books::default(),
            counters: KernelCounters::default(),
            segments: Segments::default(),
            sockstat: Sockstat::default(),
            sysctls: Sysctls::default(),
            settings,
            life: 0,
            owner: Arc::default(),
        }
    }

    #[test]
    fn each_namespace_has_one_turn_in_a_round() {
        for id in [0, 1, 5, 12, 4_026_531_840, u64::MAX] {
            for first in [0, 7] {
                let round = first..first + u64::from(ROUND_PASSES);
                assert_eq!(round.filter(|pass| is_turn_of(id, *pass)).count(), 1, "{id}");
            }
        }
    }

    #[test]
    fn a_round_is_as_old_as_its_oldest_reading() {
        let start = Instant::now();
        let reading = |age| SettingsReading {
            settings: Arc::default(),
            read: start + Duration::from_secs(age),
            took: Duration::from_millis(2),
        };
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
        assert_eq!(pass.interval, 12 * second);
    }
}
