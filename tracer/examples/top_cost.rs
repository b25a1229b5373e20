//! What a refresh of `tracer top` costs with ten thousand listeners: reading the text, rates, and the page that
//! is seen, in time of the processor. `cargo run --release --example top_cost`; add
//! `--target x86_64-unknown-linux-musl` for the figures of the shipped binary.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tracer::export::encode::encode;
use tracer::export::metrics::{METRICS, MetricId, Values};
use tracer::export::rows::{ROWS_MAX, Rows, Suppressed};
use tracer::top::rates::History;
use tracer::top::reading::Reading;
use tracer::top::screen::Screen;

const LISTENERS: u32 = 10_000;
const ROUNDS: u32 = 11;
const PAGE: (usize, usize) = (40, 120);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let suppressed = Suppressed::default();
    let mut rows = Rows::new(ROWS_MAX, &suppressed);
    add_listeners(&mut rows);
    let bytes = encode(&rows);
    let text = std::str::from_utf8(&bytes)?;
    let (mut history, screen) = (History::default(), Screen::default());
    let (mut reading, mut rates, mut pages) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let start = spent();
        let read = Reading::parse(text, Duration::from_secs(2) * round)?;
        reading.push(spent().saturating_sub(start));
        let start = spent();
        let shown = history.add(read);
        rates.push(spent().saturating_sub(start));
        let start = spent();
        let page = screen.page(&shown, PAGE.0, Some(PAGE.1));
        pages.push(spent().saturating_sub(start));
        assert_eq!(page.matching, LISTENERS as usize);
    }
    let [reading, rates, pages] = [reading, rates, pages].map(median);
    println!(
        "{LISTENERS} listeners, {} bytes, medians of {ROUNDS}: reading {reading:.1?}, rates {rates:.1?}, page {pages:.1?}",
        text.len()
    );
    Ok(())
}

/// Every metric that a listener has.
fn add_listeners(rows: &mut Rows<'_>) {
    let per_listener = || METRICS.iter().filter(|metric| metric.group.iter().any(|label| label.name == "address"));
    let Values::OneOf(reasons) = MetricId::TcpListenDrops.metric().own[0].values else {
        return;
    };
    for number in 0..LISTENERS {
        let (port, unit) = ((1024 + number).to_string(), format!("service-{}.service", number % 97));
        let labels = ["host", "", "", "", &unit, "nginx", "127.0.0.1", &port];
        for metric in per_listener() {
            if metric.own.is_empty() {
                rows.add(metric.id, &labels, number.into());
            }
            for reason in metric.own.iter().flat_map(|_| reasons) {
                rows.add(metric.id, &[labels.as_slice(), &[reason]].concat(), number.into());
            }
        }
    }
    rows.add(MetricId::BuildInfo, &["0.1.0", "abc"], 1.0);
}

/// What this thread has had of the processor.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
