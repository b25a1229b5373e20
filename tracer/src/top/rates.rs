//! Rates: what counters grew by between two readings of one agent.
//!
//! Two kinds of counters need two kinds of windows. What hooks count is read at each scrape, so two readings that
//! follow each other give a rate. What `/proc` counts (segments sent and received) is read by the agent in
//! passes: between two readings it often stands still, so its window lies between two passes, and so does that of
//! whatever is divided by it. An agent that was started again, and a counter that went down, begin anew.

use std::sync::Arc;

use super::{
    reading::Reading,
    rows::{Tally, part},
};

/// Two starts less apart than this are one: the kernel tells the time of the boot in hundredths.
const SAME_START_SECONDS: f64 = 1.0;
/// Two passes less apart than this are one: a scrape takes its time, and so the age of a pass is unsure.
const SAME_PASS_SECONDS: f64 = 0.5;

/// What earlier readings leave for the next.
#[derive(Debug, Default)]
pub struct History {
    /// The reading before.
    last: Option<Arc<Reading>>,
    /// The first reading of the last pass.
    pass: Option<Arc<Reading>>,
}

impl History {
    /// Adds rates to a reading, and remembers it.
    pub fn add(&mut self, mut reading: Reading) -> Arc<Reading> {
        if self.last.as_ref().is_some_and(|last| !same_agent(last, &reading)) {
            *self = Self::default();
        }
        if let Some(last) = &self.last {
            live_rates(&mut reading, last);
        }
        let begins_pass = self.pass.as_ref().is_none_or(|pass| seconds_between_passes(pass, &reading).is_some());
        match (&self.pass, &self.last) {
            (Some(pass), _) if begins_pass => pass_rates(&mut reading, pass),
            (_, Some(last)) => keep_pass_rates(&mut reading, last),
            _ => {}
        }
        let reading = Arc::new(reading);
        if begins_pass {
            self.pass = Some(Arc::clone(&reading));
        }
        self.last = Some(Arc::clone(&reading));
        reading
    }
}

fn same_agent(before: &Reading, now: &Reading) -> bool {
    match (before.node.started, now.node.started) {
        (Some(before), Some(now)) => (before - now).abs() < SAME_START_SECONDS,
        (before, now) => before.is_none() && now.is_none(),
    }
}

/// The time between the passes that two readings saw, unless it was the same one. Where ages of passes are absent every
/// reading counts as one.
fn seconds_between_passes(before: &Reading, now: &Reading) -> Option<f64> {
    let at = |reading: &Reading| reading.pass_at().unwrap_or(reading.at.as_secs_f64());
    Some(at(now) - at(before)).filter(|seconds| *seconds >= SAME_PASS_SECONDS)
}

fn seconds_between(before: &Reading, now: &Reading) -> f64 {
    now.at.saturating_sub(before.at).as_secs_f64()
}

fn live_rates(now: &mut Reading, before: &Reading) {
    let seconds = seconds_between(before, now);
    let since = |tally: &mut Tally, before: Option<Tally>| tally.since(before.unwrap_or_default(), seconds);
    now.listeners.beside(&before.listeners, |row, before| {
        since(&mut row.drops, before.map(|row| row.drops));
        since(&mut row.accepted, before.map(|row| row.accepted));
    });
    now.workloads.beside(&before.workloads, |row, before| {
        since(&mut row.retransmits, before.map(|row| row.retransmits));
        since(&mut row.connect_failures, before.map(|row| row.connect_failures));
        since(&mut row.timeouts, before.map(|row| row.timeouts));
        since(&mut row.overflows, before.map(|row| row.overflows));
    });
    now.namespaces.beside(&before.namespaces, |row, before| {
        since(&mut row.overflows, before.map(|row| row.overflows));
        since(&mut row.retransmits, before.map(|row| row.retransmits));
        since(&mut row.drops, before.map(|row| row.drops));
    });
    let (node, before) = (&mut now.node, &before.node);
    since(&mut node.drops, Some(before.drops));
    since(&mut node.accepted, Some(before.accepted));
    since(&mut node.retransmits, Some(before.retransmits));
    since(&mut node.overflows, Some(before.overflows));
}

/// Rates from the reading that saw the pass before. Retransmits are counted at the scrape and segments in the
/// pass, so their windows lie up to one interval apart; what is divided are the rates.
fn pass_rates(now: &mut Reading, before: &Reading) {
    let Some(pass_seconds) = seconds_between_passes(before, now) else { return };
    let seconds = seconds_between(before, now);
    let rate = |now: Tally, before: Option<Tally>| {
        let mut tally = now;
        tally.since(before.unwrap_or_default(), seconds);
        tally.rate
    };
    now.namespaces.beside(&before.namespaces, |row, before| {
        row.sent.since(before.map(|row| row.sent).unwrap_or_default(), pass_seconds);
        row.received.since(before.map(|row| row.received).unwrap_or_default(), pass_seconds);
        let again = rate(row.retransmits, before.map(|row| row.retransmits));
        row.all_sent = all_sent(row.sent.rate, row.retransmits, again);
        row.share = part(again, row.all_sent);
    });
    let namespaces = &now.namespaces;
    now.workloads.beside(&before.workloads, |row, before| {
        row.netns_sent = namespaces.get(&row.owner.netns).and_then(|row| row.all_sent);
        row.share = part(rate(row.retransmits, before.map(|row| row.retransmits)), row.netns_sent);
    });
}

/// What a namespace sent a second, retransmits among them: the kernel leaves those out of the segments sent, and a
/// share of those alone would have no end. Where nobody counts retransmits there is nothing to add; where there are
/// some and nobody knows how fast they grew, the sum is not known.
fn all_sent(sent: Option<f64>, retransmits: Tally, again: Option<f64>) -> Option<f64> {
    let again = if retransmits.total.is_some() { again } else { Some(0.0) };
    sent.zip(again).map(|(sent, again)| sent + again)
}

/// No new pass: what the last two gave still stands.
fn keep_pass_rates(now: &mut Reading, before: &Reading) {
    now.namespaces.beside(&before.namespaces, |row, before| {
        row.sent.rate = before.and_then(|row| row.sent.rate);
        row.received.rate = before.and_then(|row| row.received.rate);
        row.all_sent = before.and_then(|row| row.all_sent);
        row.share = before.and_then(|row| row.share);
    });
    now.workloads.beside(&before.workloads, |row, before| {
        row.netns_sent = before.and_then(|row| row.netns_sent);
        row.share = before.and_then(|row| row.share);
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A reading at `at` seconds of a pass that ended at `pass`.
    fn reading(start: u32, at: u32, pass: u32, drops: u32, retransmits: u32, sent: u32) -> Reading {
        let text = format!(
            "tracer_build_info{{version=\"1\"}} 1\nprocess_start_time_seconds {start}\n\
             tracer_pass_age_seconds{{pass=\"namespaces\"}} {}\n\
             tracer_tcp_listen_drops_total{{netns=\"1\",port=\"80\",reason=\"other\"}} {drops}\n\
             tracer_tcp_retransmitted_segments_total{{netns=\"1\",unit=\"a\",cause=\"rto\"}} {retransmits}\n\
             tracer_tcp_retransmitted_segments_total{{netns=\"1\",unit=\"b\",cause=\"rto\"}} 0\n\
             tracer_tcp_segments_sent_total{{netns=\"1\"}} {sent}\n",
            at - pass
        );
        Reading::parse(&text, Duration::from_secs(at.into())).unwrap()
    }

    fn seen(reading: &Reading) -> (Option<f64>, Option<f64>, Option<f64>) {
        let workload = &reading.workloads.all()[0];
        (reading.listeners.all()[0].drops.rate, workload.share, workload.netns_sent)
    }

    #[test]
    fn the_first_reading_has_no_rates() {
        let first = History::default().add(reading(7, 10, 9, 5, 1, 100));
        assert_eq!(seen(&first), (None, None, None));
        assert_eq!((first.node.drops.total, first.node.drops.rate), (Some(5.0), None));
    }

    #[test]
    fn hooks_count_from_reading_to_reading_and_proc_from_pass_to_pass() {
        let mut history = History::default();
        history.add(reading(7, 10, 9, 5, 10, 100));
        // No pass since: nothing is known of segments, and it is not zero.
        assert_eq!(seen(&history.add(reading(7, 12, 9, 9, 12, 100))), (Some(2.0), None, None));
        // Four seconds after the reading of the pass before, five after that pass.
        let with_pass = history.add(reading(7, 14, 14, 9, 18, 1100));
        // Two a second again and 200 new ones.
        let share = Some(2.0 / 202.0);
        assert_eq!(seen(&with_pass), (Some(0.0), share, Some(202.0)));
        let namespace = with_pass.namespaces.get("1").unwrap();
        assert_eq!((namespace.share, namespace.sent.rate), (share, Some(200.0)));
        assert_eq!(with_pass.workloads.all()[1].share, Some(0.0));
        // Again none: the last window stands, and the hooks' rate goes on.
        assert_eq!(seen(&history.add(reading(7, 16, 14, 11, 20, 1100))), (Some(1.0), share, Some(202.0)));
    }

    #[test]
    fn an_agent_that_was_started_again_begins_anew() {
        let mut history = History::default();
        history.add(reading(7, 10, 10, 5, 1, 100));
        assert_eq!(seen(&history.add(reading(90, 12, 12, 500, 100, 200))), (None, None, None));
        assert_eq!(seen(&history.add(reading(90, 14, 14, 502, 100, 300))), (Some(1.0), Some(0.0), Some(50.0)));
    }

    #[test]
    fn a_counter_that_went_down_begins_anew() {
        let mut history = History::default();
        history.add(reading(7, 10, 10, 5, 1, 100));
        assert_eq!(seen(&history.add(reading(7, 12, 12, 1, 1, 50))), (None, None, None));
    }

    #[test]
    fn nothing_sent_makes_no_share() {
        let mut history = History::default();
        history.add(reading(7, 10, 10, 0, 2, 100));
        assert_eq!(seen(&history.add(reading(7, 12, 12, 0, 2, 100))), (Some(0.0), None, Some(0.0)));
    }

    #[test]
    fn a_share_ends_at_one() {
        let mut history = History::default();
        history.add(reading(7, 10, 10, 0, 0, 100));
        // Three again for each new one.
        assert_eq!(seen(&history.add(reading(7, 12, 12, 0, 300, 200))), (Some(0.0), Some(0.75), Some(200.0)));
        // Nothing new at all.
        assert_eq!(seen(&history.add(reading(7, 14, 14, 0, 302, 200))), (Some(0.0), Some(1.0), Some(1.0)));
    }

    #[test]
    fn a_share_of_what_cannot_be_summed_is_not_known() {
        let sent = Some(50.0);
        let again = |total| Tally { total, rate: None };
        assert_eq!(all_sent(sent, again(None), None), sent);
        assert_eq!(all_sent(sent, again(Some(7.0)), None), None);
        assert_eq!(all_sent(None, again(Some(7.0)), Some(1.0)), None);
    }
}
