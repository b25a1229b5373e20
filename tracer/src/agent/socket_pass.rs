//! When open sockets are counted, and what the last walk found.
//!
//! Listeners are listed in every pass. Counting is more work in the same walk, so it has an interval of
//! its own: it may take half of what passes may take of a core, and does not put listeners off.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    errand::thread_cpu_time,
    kernel::{
        hooks::Report,
        maps::{Fill, Maps},
        walk::Walks,
    },
    pipeline::sockets::{self, Sockets},
    view::Pass,
};

/// What a pass's walks took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walked {
    /// On the clock.
    wall: Duration,
    /// Of this thread's CPU time.
    cpu: Duration,
}

impl Walked {
    /// Runs a walk on the calling thread.
    pub fn of<T>(walk: impl FnOnce() -> T) -> (T, Self) {
        let (started, cpu) = (Instant::now(), thread_cpu_time());
        let result = walk();
        (result, Self { wall: started.elapsed(), cpu: thread_cpu_time().saturating_sub(cpu) })
    }
}

/// The socket pass between two walks.
#[derive(Debug, Default)]
pub struct SocketPass {
    generation: u32,
    /// When the last one began; `None` before the first.
    begun: Option<Instant>,
    /// Walks of the pass under way.
    walked: Walked,
    /// CPU time of the last walks that listed listeners alone.
    listing: Duration,
    /// What counting took beyond that, the last time.
    counting: Duration,
    /// Whether the pass under way counts.
    counts: bool,
    /// Whether it does so in each namespace.
    counts_by_netns: bool,
    /// Time between two walks that count.
    interval: Duration,
    /// Share of a core that passes take with these intervals.
    pub taken: f64,
    /// What the last one found.
    pub found: Option<Arc<Sockets>>,
    /// How full the maps were.
    pub fills: Vec<Fill>,
    ended: Option<(Duration, Instant)>,
}

impl SocketPass {
    /// Chooses the walks of a pass that begins now, and starts a generation if one of them counts. None does in each
    /// namespace while an older one hangs: let go, that would count on in this generation.
    pub fn plan(&mut self, report: &Report, maps: &Maps, walks_hang: bool, now: Instant) -> io::Result<Walks> {
        let is_due = self.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= self.interval);
        let may_count = !walks_hang || !Walks::plan(report, true).counts_by_netns();
        let walks = Walks::plan(report, is_due && may_count);
        self.walked = Walked::default();
        self.counts = walks.counts_sockets;
        self.counts_by_netns = walks.counts_by_netns();
        if self.counts {
            // Zero is what no walk has counted.
            self.generation = self.generation.wrapping_add(1).max(1);
            self.begun = Some(now);
            maps.socket_maps()?.begin(self.generation)?;
        }
        Ok(walks)
    }

    /// Takes the time of a walk of this pass.
    pub fn add(&mut self, walked: Walked) {
        self.walked.wall += walked.wall;
        self.walked.cpu += walked.cpu;
    }

    /// Takes what the walks of this pass counted, unless one of them hangs.
    pub fn finish(&mut self, maps: &Maps, walks_hang: bool) -> io::Result<()> {
        if walks_hang && self.counts_by_netns {
            return Ok(());
        }
        if !self.counts {
            self.listing = self.walked.cpu;
            return Ok(());
        }
        self.counting = self.walked.cpu.saturating_sub(self.listing);
        let counts = maps.socket_maps()?.read()?;
        self.found = Some(Arc::new(sockets::of_walk(&counts.walk, &counts.rows)));
        self.fills = counts.fills;
        self.ended = Some((self.walked.wall, Instant::now()));
        Ok(())
    }

    /// The time between two passes, given the CPU time of this one, so that all keep to `share` of a core, as far as that
    /// is no longer than `longest`.
    pub fn stretch(&mut self, interval: Duration, longest: Duration, cpu: Duration, share: f64) -> Duration {
        let others = if self.counts { cpu.saturating_sub(self.counting) } else { cpu };
        let (passes, sockets) = intervals([interval, longest], others, self.counting, share);
        self.interval = sockets;
        self.taken = others.div_duration_f64(passes) + self.counting.div_duration_f64(sockets);
        passes
    }

    /// How the last walk that counted went.
    #[must_use]
    pub fn pass(&self) -> Option<Pass> {
        let (duration, ended) = self.ended?;
        Some(Pass { name: "sockets", duration, ended, interval: self.interval })
    }
}

/// Time between two passes and between two that count sockets. `others` is the CPU time of a pass
/// without counting, `counting` what that adds. Counting takes half of the share at most, and
/// the rest is left to passes.
fn intervals(
    [interval, longest]: [Duration; 2],
    others: Duration,
    counting: Duration,
    share: f64,
) -> (Duration, Duration) {
    let sockets = interval.max(counting.div_f64(share / 2.0));
    let of_counting = if sockets.is_zero() { 0.0 } else { counting.div_duration_f64(sockets) };
    let passes = interval.max(others.div_f64(share - of_counting)).min(longest);
    (passes, sockets.max(passes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_passes_keep_to_their_share_and_listeners_stay_fresh() {
        let milliseconds = Duration::from_millis;
        for (others, counting, percent, passes, sockets) in [
            // (of a pass every 5 s)
            (10, 2, 1, 5_000, 5_000),
            (10, 25, 1, 5_000, 5_000),
            // Counting is put off, listing is not.
            (10, 60, 1, 5_000, 12_000),
            (10, 60, 50, 5_000, 5_000),
            // Both are too much: half each.
            (50, 60, 1, 10_000, 12_000),
            (100, 0, 1, 10_000, 10_000),
        ] {
            let share = f64::from(percent) / 100.0;
            let (found_passes, found_sockets) =
                intervals([5_000, 30_000].map(milliseconds), milliseconds(others), milliseconds(counting), share);
            // Shares of a core are fractions.
            let found = [found_passes, found_sockets].map(|interval| (interval + Duration::from_micros(1)).as_millis());
            assert_eq!(found, [passes, sockets], "{others} {counting} {percent}");
            let share = milliseconds(others).div_duration_f64(found_passes)
                + milliseconds(counting).div_duration_f64(found_sockets);
            assert!(share <= f64::from(percent) / 100.0 + 1e-9, "{share}");
        }
    }

    /// A new namespace is read within the longest interval, whatever passes cost.
    #[test]
    fn no_interval_is_longer_than_the_longest() {
        let ms = Duration::from_millis;
        let (passes, sockets) = intervals([ms(5_000), ms(30_000)], ms(2_000), ms(0), 0.01);
        assert_eq!((passes, sockets), (ms(30_000), ms(30_000)));
        let mut pass = SocketPass::default();
        pass.stretch(ms(5_000), ms(30_000), ms(600), 0.01);
        assert!((pass.taken - 0.02).abs() < 1e-9, "twice what it may: {}", pass.taken);
    }
}
