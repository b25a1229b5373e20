//! The exposition as Prometheus' own tools judge it. Belongs here: what only a foreign parser can
//! say. The encoder's own promises are tested beside it.

use std::io::Write;
use std::process::{Command, Stdio};

use tracer::export::encode::encode;
use tracer::export::metrics::{Kind, METRICS, Values};
use tracer::export::rows::{ROWS_MAX, Rows, Suppressed};
use tracer::export::value::label;

/// What any user may name a process, and more than the kernel would let them.
const NASTY: &[u8] = b"we\"ird\\\nna\xffme\r\x07{}=,\0\0";

/// Adds a row to every metric: one for each value of its last closed label, else one. Text labels
/// hold what an attacker would put there.
fn add_every_metric(rows: &mut Rows<'_>) {
    let nasty = label(NASTY);
    for metric in METRICS {
        let choices: Vec<_> = metric
            .labels()
            .map(|label| match label.values {
                Values::OneOf(values) => values.to_vec(),
                Values::Text(_) => vec![nasty.as_str()],
            })
            .collect();
        let rows_wanted = choices.iter().map(Vec::len).max().unwrap_or(1);
        for row in 0..rows_wanted {
            let labels: Vec<_> = choices.iter().map(|values| values[row % values.len()]).collect();
            match metric.kind {
                Kind::Histogram => rows.add_histogram(metric.id, &labels, &[(0.0, 1), (15.0, 2)], 20.0, 3),
                Kind::Counter | Kind::Gauge => rows.add(metric.id, &labels, 1.5),
            }
        }
    }
}

/// Exit code and all output of `promtool check metrics` on `text`.
fn promtool(text: &[u8]) -> (bool, String) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: apt-get install prometheus, or run cargo xtask test, which does");
    child.stdin.take().unwrap().write_all(text).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn promtool_finds_nothing_to_say() {
    let suppressed = Suppressed::default();
    let mut rows = Rows::new(ROWS_MAX, &suppressed);
    add_every_metric(&mut rows);
    let text = encode(&rows);
    for metric in METRICS {
        let line = format!("\n# TYPE {} {}\n", metric.name, metric.kind.name());
        assert!(text.windows(line.len()).any(|part| part == line.as_bytes()), "{} is absent", metric.name);
    }
    assert_eq!(promtool(&text), (true, String::new()));
}

#[test]
fn promtool_would_have_said_something() {
    let (ok, said) = promtool(b"# TYPE requests counter\nrequests{process=\"a\n\"} 1\n");
    assert!(!ok && !said.is_empty(), "{said}");
}
