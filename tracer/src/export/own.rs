//! What the agent measures of itself with the client library: how long scrapes take. Everything
//! else is read at the scrape; only this is observed as it happens.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, core::Metric};

use super::{
    metrics::{METRICS, MetricId},
    rows::Rows,
};

/// From an idle node to one with the default 10 000 listeners on a slow core; seconds.
const SCRAPE_BUCKETS: [f64; 9] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0];

/// The agent's own instruments.
#[derive(Debug)]
pub struct Own {
    scrape: Histogram,
}

impl Own {
    /// With nothing observed.
    pub fn new() -> Result<Self, prometheus::Error> {
        let metric = &METRICS[MetricId::ScrapeDuration as usize];
        let options = HistogramOpts::new(metric.name, metric.help).buckets(SCRAPE_BUCKETS.to_vec());
        Ok(Self { scrape: Histogram::with_opts(options)? })
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{encode::encode, rows::Suppressed};

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
