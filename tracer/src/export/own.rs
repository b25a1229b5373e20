//! What the agent measures of itself with the client library: how long scrapes take. Everything
//! else is read at the scrape; only this is observed as it happens.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::{Histogram, HistogramOpts, core::Metric};

use super::{
    collector::number,
    http::Refused,
    metrics::{METRICS, MetricId},
    rows::Rows,
};
use crate::events::watchers::Watchers;

/// From an idle node to one with the default 10 000 listeners on a slow core; seconds.
const SCRAPE_BUCKETS: [f64; 9] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0];

/// Each line about clients is said once in this time.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// The agent's own instruments.
#[derive(Debug)]
pub struct Own {
    scrape: Histogram,
    refused: [AtomicU64; Refused::ALL.len()],
    said: [Mutex<Option<Instant>>; 2],
    /// Who watches events.
    pub watchers: Arc<Watchers>,
}

/// Lines of the log about clients.
#[derive(Clone, Copy)]
enum Line {
    /// They crowd the server.
    Crowd,
    /// A scrape failed.
    Failed,
}

impl Own {
    /// With nothing observed.
    pub fn new() -> Result<Self, prometheus::Error> {
        let metric = &METRICS[MetricId::ScrapeDuration as usize];
        let options = HistogramOpts::new(metric.name, metric.help).buckets(SCRAPE_BUCKETS.to_vec());
        Ok(Self {
            scrape: Histogram::with_opts(options)?,
            refused: Default::default(),
            said: Default::default(),
            watchers: Arc::default(),
        })
    }

    /// Counts what clients were refused.
    pub fn refused(&self, what: Refused, n: usize) {
        if n == 0 {
            return;
        }
        self.refused[what as usize].fetch_add(n as u64, Ordering::Relaxed);
        // A source that fails says so itself.
        if what != Refused::Failed && self.is_to_be_said(Line::Crowd) {
            let reason = Refused::NAMES[what as usize];
            tracing::warn!(reason, "clients crowd the HTTP server; see tracer_http_refused_total and who connects");
        }
    }

    /// A scrape that failed as a whole.
    pub fn failed(&self, cause: &str) {
        if self.is_to_be_said(Line::Failed) {
            tracing::error!(cause, "a scrape was refused");
        }
    }

    fn is_to_be_said(&self, line: Line) -> bool {
        let mut said = self.said[line as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = said.is_none_or(|said| said.elapsed() >= SAID_EVERY);
        if is_due {
            *said = Some(Instant::now());
        }
        is_due
    }

    /// Takes the time that one scrape took, encoding included.
    pub fn observe_scrape(&self, duration: Duration) {
        self.scrape.observe(duration.as_secs_f64());
    }

    /// Adds the instruments' rows: all scrapes before this one.
    pub fn add(&self, rows: &mut Rows<'_>) {
        let metric = self.scrape.metric();
        let histogram = metric.get_histogram();
        let buckets: Vec<(f64, u64)> =
            histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect();
        let (sum, count) = (histogram.get_sample_sum(), histogram.get_sample_count());
        rows.add_histogram(MetricId::ScrapeDuration, &[], &buckets, sum, count);
        for (reason, n) in Refused::NAMES.iter().zip(&self.refused) {
            rows.add(MetricId::HttpRefused, &[reason], number(n.load(Ordering::Relaxed)));
        }
        rows.add(MetricId::EventWatchers, &[], number(self.watchers.len() as u64));
        rows.add(MetricId::EventsUnwatched, &[], number(self.watchers.lost()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{encode::encode, rows::Suppressed};

    #[test]
    fn refusals_count_by_reason_from_zero_on() {
        let own = Own::new().unwrap();
        own.refused(Refused::Unread, 3);
        own.refused(Refused::Busy, 0);
        let suppressed = Suppressed::default();
        let mut rows = Rows::new(10, &suppressed);
        own.add(&mut rows);
        let text = String::from_utf8(encode(&rows).to_vec()).unwrap();
        for line in ["{reason=\"unread\"} 3", "{reason=\"busy\"} 0", "{reason=\"idle\"} 0", "{reason=\"failed\"} 0"] {
            assert!(text.contains(&format!("tracer_http_refused_total{line}\n")), "{line} in {text}");
        }
    }

    #[test]
    fn a_crowd_does_not_hide_the_cause_of_a_failure() {
        let own = Own::new().unwrap();
        let said = [Line::Crowd, Line::Crowd, Line::Failed, Line::Failed].map(|line| own.is_to_be_said(line));
        assert_eq!(said, [true, false, true, false]);
    }

    #[test]
    fn scrapes_come_out_as_a_histogram() {
        let own = Own::new().unwrap();
        own.observe_scrape(Duration::from_millis(3));
        own.observe_scrape(Duration::from_secs(2));
        let suppressed = Suppressed::default();
        let mut rows = Rows::new(10, &suppressed);
        own.add(&mut rows);
        let text = String::from_utf8(encode(&rows).to_vec()).unwrap();
        for line in [
            "tracer_scrape_duration_seconds_bucket{le=\"0.002\"} 0",
            "tracer_scrape_duration_seconds_bucket{le=\"0.005\"} 1",
            "tracer_scrape_duration_seconds_bucket{le=\"+Inf\"} 2",
            "tracer_scrape_duration_seconds_count 2",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
