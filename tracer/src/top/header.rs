//! The lines above the table: who is asked and how fresh that is, the node's totals, and whether the numbers can
//! be trusted.

use std::time::Duration;

use super::{
    Tone,
    reading::Reading,
    rows::Tally,
    text::{UNKNOWN, count, rate},
};
use crate::{advise::amount, legible::legible};

/// A part of a line.
pub type Piece = (String, Tone);

/// Passes older than this are late, whatever was agreed: the default is five seconds, stretched under load.
const PASS_LATE_SECONDS: f64 = 30.0;
/// Between two parts of a line.
const BETWEEN: &str = " · ";

/// Where readings come from, and how the last one went.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// In words.
    pub name: String,
    /// Whether it is a look of the command's own, in which nobody reads events.
    pub is_own_look: bool,
    /// Seconds since the Unix epoch.
    pub now: f64,
    /// How old the values are that are shown.
    pub age: Duration,
    /// Since when and why there are no newer ones.
    pub trouble: Option<Trouble>,
}

/// Why no newer values come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// When it began, as text.
    pub since: String,
    /// For how long.
    pub lasts: Duration,
    /// The last error.
    pub cause: String,
}

/// The lines, the most important first: a small terminal shows fewer.
#[must_use]
pub fn lines(reading: &Reading, source: &Source) -> [Vec<Piece>; 3] {
    [totals(reading), trust(reading, source), who(reading, source)]
}

/// What is said while nothing comes, on lines of its own.
#[must_use]
pub fn trouble(source: &Source) -> Option<String> {
    let trouble = source.trouble.as_ref()?;
    let lasts = amount::seconds(whole(trouble.lasts));
    Some(format!("nothing new since {} ({lasts}), trying again: {}", trouble.since, legible(&trouble.cause)))
}

fn totals(reading: &Reading) -> Vec<Piece> {
    let node = &reading.node;
    let mut pieces = Vec::new();
    let mut tally = |name: &str, tally: Tally, harms: bool| {
        let total = tally.total.map_or_else(|| UNKNOWN.to_owned(), count);
        let speed = tally.rate.map_or_else(|| UNKNOWN.to_owned(), rate);
        let tone = if harms && tally.rate.is_some_and(|rate| rate > 0.0) { Tone::Bad } else { Tone::Plain };
        join(&mut pieces, format!("{name} {total} ({speed}/s)"), tone);
    };
    tally("drops", node.drops, true);
    tally("retransmits", node.retransmits, false);
    tally("accepted", node.accepted, false);
    tally("TIME_WAIT overflows", node.overflows, true);
    if let Some(sockets) = node.time_wait {
        join(&mut pieces, format!("TIME_WAIT {}", count(sockets)), Tone::Plain);
    }
    for (name, used, limit, show) in [
        ("orphans", node.orphans, node.orphans_limit, count as fn(f64) -> String),
        ("memory", node.memory_bytes, node.memory_limit_bytes, amount::bytes),
    ] {
        if let Some(used) = used {
            let limit = limit.map_or_else(|| UNKNOWN.to_owned(), show);
            join(&mut pieces, format!("{name} {} of {limit}", show(used)), Tone::Plain);
        }
    }
    pieces
}

/// Whether the numbers close, what was lost, how old the passes are.
fn trust(reading: &Reading, source: &Source) -> Vec<Piece> {
    let node = &reading.node;
    let mut pieces = Vec::new();
    match &node.difference {
        None => join(&mut pieces, "nothing to compare with the kernel's counts yet".to_owned(), Tone::Faint),
        Some((0.0, ..)) => join(&mut pieces, "numbers close".to_owned(), Tone::Good),
        Some((difference, signal, netns)) => {
            let text = format!("largest count difference {difference:+.0} ({signal}, netns {netns})");
            join(&mut pieces, text, Tone::Warn);
        }
    }
    let events = if source.is_own_look { None } else { node.events_lost };
    let lost = [("events", events), ("counts", node.counts_lost), ("series", node.series_suppressed)];
    let lost: Vec<String> = lost
        .iter()
        .filter_map(|(what, lost)| lost.filter(|lost| *lost > 0.0).map(|lost| format!("{} {what}", count(lost))))
        .collect();
    match lost.as_slice() {
        [] => join(&mut pieces, "nothing lost".to_owned(), Tone::Good),
        lost => join(&mut pieces, format!("lost {}", lost.join(", ")), Tone::Warn),
    }
    // What is shown ages on.
    let since = source.age.as_secs_f64();
    let ages: Vec<String> =
        node.passes.iter().map(|(name, age)| format!("{name} {}", amount::seconds((age + since).round()))).collect();
    let late = node.passes.iter().any(|(name, age)| name == "namespaces" && age + since > PASS_LATE_SECONDS);
    if !ages.is_empty() {
        let tone = if late { Tone::Warn } else { Tone::Plain };
        join(&mut pieces, format!("age of passes: {}", ages.join(", ")), tone);
    }
    pieces
}

fn who(reading: &Reading, source: &Source) -> Vec<Piece> {
    let node = &reading.node;
    let mut pieces = Vec::new();
    join(&mut pieces, format!("tracer {}", node.version), Tone::Strong);
    join(&mut pieces, format!("values {} old", amount::seconds(whole(source.age))), Tone::Plain);
    join(&mut pieces, legible(&source.name).into_owned(), Tone::Plain);
    if let Some(up) = node.started.map(|started| source.now - started).filter(|up| *up >= 0.0 && !source.is_own_look) {
        join(&mut pieces, format!("counting for {}", amount::seconds(up.round())), Tone::Plain);
    }
    pieces
}

fn whole(time: Duration) -> f64 {
    time.as_secs_f64().floor()
}

fn join(pieces: &mut Vec<Piece>, text: String, tone: Tone) {
    if !pieces.is_empty() {
        pieces.push((BETWEEN.to_owned(), Tone::Faint));
    }
    pieces.push((text, tone));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, source: &Source) -> [String; 3] {
        let text = format!("tracer_build_info{{version=\"0.1.0\"}} 1\nprocess_start_time_seconds 1000\n{text}");
        let reading = Reading::parse(&text, Duration::ZERO).unwrap();
        lines(&reading, source).map(|pieces| pieces.into_iter().map(|(text, _)| text).collect())
    }

    fn source() -> Source {
        Source { name: "the agent at x".into(), now: 1090.0, age: Duration::from_secs(2), ..Source::default() }
    }

    #[test]
    fn the_first_screen_has_totals_and_no_rates() {
        let [totals, trust, who] = said(
            "tracer_tcp_listen_drops_total{netns=\"1\",reason=\"other\"} 7\ntracer_tcp_orphan_sockets 3\n\
             tracer_count_difference{netns=\"1\",signal=\"listen_drops\"} 0\n\
             tracer_pass_age_seconds{pass=\"namespaces\"} 1.2\n",
            &source(),
        );
        assert!(totals.starts_with("drops 7 (–/s) · retransmits – (–/s)"), "{totals}");
        assert!(totals.ends_with("orphans 3 of –"), "{totals}");
        assert_eq!(trust, "numbers close · nothing lost · age of passes: namespaces 3 s");
        assert_eq!(who, "tracer 0.1.0 · values 2 s old · the agent at x · counting for 1m 30s");
    }

    #[test]
    fn what_does_not_close_and_what_was_lost_is_said() {
        let text = "tracer_count_difference{netns=\"42\",signal=\"listen_drops\"} -3\n\
             tracer_events_lost_total{kind=\"reset\",stage=\"ring\"} 12\ntracer_counts_lost_total{counter=\"a\"} 2\n\
             tracer_series_suppressed_total{metric=\"a\"} 0\n";
        let [_, trust, _] = said(text, &source());
        assert_eq!(trust, "largest count difference -3 (listen_drops, netns 42) · lost 12 events, 2 counts");
        let own = Source { is_own_look: true, ..source() };
        assert!(said(text, &own)[1].ends_with("lost 2 counts"), "in an own look nobody reads events");
    }

    #[test]
    fn nothing_compared_is_not_said_to_close() {
        assert!(said("", &source())[1].starts_with("nothing to compare"));
    }

    #[test]
    fn trouble_has_its_beginning_and_its_cause() {
        assert_eq!(trouble(&source()), None);
        let lasting =
            Trouble { since: "12:00:00Z".into(), lasts: Duration::from_secs(75), cause: "refused\x1b".into() };
        let text = trouble(&Source { trouble: Some(lasting), ..source() }).unwrap();
        assert_eq!(text, "nothing new since 12:00:00Z (1m 15s), trying again: refused\u{FFFD}");
    }
}
