//! What a scrape of a thousand listeners costs the exporter: adding the rows and rendering them,
//! without the maps they come from. `cargo run --release --example scrape_cost`; add
//! `--target x86_64-unknown-linux-musl` for the figures of the shipped binary.

use std::time::{Duration, Instant};

use tracer::export::encode::encode;
use tracer::export::metrics::{METRICS, MetricId, Values};
use tracer::export::rows::{ROWS_MAX, Rows, Suppressed};

const LISTENERS: u32 = 1000;
const ROUNDS: usize = 51;

fn main() {
    let suppressed = Suppressed::default();
    let (mut adding, mut rendering, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut rows = Rows::new(ROWS_MAX, &suppressed);
        add_listeners(&mut rows);
        rows.add_suppressed();
        adding.push(start.elapsed());
        let start = Instant::now();
        bytes = encode(&rows).len();
        rendering.push(start.elapsed());
    }
    let (adding, rendering) = (median(adding), median(rendering));
    println!(
        "{LISTENERS} listeners, {bytes} bytes, medians of {ROUNDS}: adding {adding:.2?}, rendering {rendering:.2?}"
    );
}

/// Every metric that a listener has, in an order as arbitrary as a hash map's.
fn add_listeners(rows: &mut Rows<'_>) {
    let per_listener = || METRICS.iter().filter(|metric| metric.group.iter().any(|label| label.name == "address"));
    let Values::OneOf(reasons) = MetricId::TcpListenDrops.metric().own[0].values else {
        return;
    };
    for index in 0..LISTENERS {
        // 619 is coprime to 1000: every listener comes once, far from its neighbours.
        let number = index * 619 % LISTENERS;
        let (port, unit) = ((1024 + number).to_string(), format!("service-{}.service", number % 97));
        let labels = ["host", "", "", "", &unit, "nginx", "::ffff:127.0.0.1", &port];
        for metric in per_listener() {
            if metric.own.is_empty() {
                rows.add(metric.id, &labels, number.into());
            }
            for reason in metric.own.iter().flat_map(|_| reasons) {
                rows.add(metric.id, &[labels.as_slice(), &[reason]].concat(), number.into());
            }
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
