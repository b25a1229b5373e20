//! What became of the events: shown, filtered out, lost on the way. Pure.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracer_ebpf::event::Kind;

use super::kind::EventKind;
use crate::{legible::legible, pipeline::decode::DecodeError};

/// Events of one kind that did not come through, by where they were lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The kind's word.
    pub kind: String,
    /// The ring was full.
    pub ring: u64,
    /// The limit of the rate withheld them.
    pub rate: u64,
    /// They could not be decoded.
    #[serde(default)]
    pub decode: u64,
    /// The agent's queue for whoever watches was full.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub queue: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Loss {
    /// None yet.
    #[must_use]
    pub fn of(kind: EventKind) -> Self {
        Self { kind: kind.name().to_owned(), ..Self::default() }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.ring, self.rate, self.decode, self.queue].into_iter().fold(0, u64::saturating_add)
    }
}

/// Counts of one run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    shown: [u64; Kind::COUNT],
    filtered: u64,
    undecoded: [u64; Kind::COUNT],
    /// Of no known kind.
    unknown: u64,
}

impl Summary {
    /// One was shown.
    pub fn show(&mut self, kind: Kind) {
        self.shown[kind as usize] += 1;
    }

    /// One was filtered out.
    pub fn filter_out(&mut self) {
        self.filtered += 1;
    }

    /// One could not be decoded.
    pub fn fail(&mut self, error: DecodeError) {
        match error {
            DecodeError::Size { kind, .. } | DecodeError::Value { kind, .. } => self.undecoded[kind as usize] += 1,
            DecodeError::Header(_) | DecodeError::Kind(_) => self.unknown += 1,
        }
    }

    /// How many were shown.
    #[must_use]
    pub fn shown(&self) -> u64 {
        self.shown.iter().sum()
    }

    /// The lines that end a run. `losses` are those of the kernel's side.
    #[must_use]
    pub fn lines(&self, losses: &[Loss], took: Option<Duration>) -> Vec<String> {
        let losses = self.with_undecoded(losses);
        let lost = losses.iter().map(Loss::total).fold(0, u64::saturating_add);
        let mut line = format!("{} shown", self.shown());
        let shown = Kind::ALL.iter().filter(|kind| self.shown[**kind as usize] > 0);
        let by_kind: Vec<String> =
            shown.map(|kind| format!("{} {}", EventKind::of(*kind).name(), self.shown[*kind as usize])).collect();
        if !by_kind.is_empty() {
            let _ = write!(line, " ({})", by_kind.join(", "));
        }
        let _ = write!(line, ", {} filtered out, {lost} lost", self.filtered);
        if let Some(took) = took {
            let _ = write!(line, " in {:.1} s", took.as_secs_f64());
        }
        let mut lines = vec![line];
        lines.extend(losses.iter().filter(|loss| loss.total() > 0).map(|loss| format!("lost {}", Said(loss))));
        if losses.iter().any(|loss| loss.ring > 0) {
            lines.push("the ring was full: show fewer kinds, or give it more room with --ring-bytes".to_owned());
        }
        if losses.iter().any(|loss| loss.queue > 0) {
            lines.push("events were not taken from the agent as fast as they came: show fewer kinds".to_owned());
        }
        lines
    }

    fn with_undecoded(&self, losses: &[Loss]) -> Vec<Loss> {
        let mut all = losses.to_vec();
        let known = Kind::ALL.iter().map(|kind| (EventKind::of(*kind).name(), self.undecoded[*kind as usize]));
        for (word, decode) in known.chain([("unknown", self.unknown)]).filter(|(_, decode)| *decode > 0) {
            if let Some(loss) = all.iter_mut().find(|loss| loss.kind == word) {
                loss.decode = loss.decode.saturating_add(decode);
            } else {
                all.push(Loss { kind: word.to_owned(), decode, ..Loss::default() });
            }
        }
        all
    }
}

struct Said<'a>(&'a Loss);

impl fmt::Display for Said<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss { kind, ring, rate, decode, queue } = self.0;
        // A recording may hold any text for it.
        write!(out, "{}: ring {ring}, rate {rate}, decode {decode}", legible(kind))?;
        if *queue > 0 { write!(out, ", queue {queue}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_happened_is_said() {
        let mut summary = Summary::default();
        for _ in 0..3 {
            summary.show(Kind::ListenDrop);
        }
        summary.show(Kind::Connect);
        summary.filter_out();
        assert_eq!(
            summary.lines(&[], Some(Duration::from_millis(2_040))),
            ["4 shown (drop 3, connect 1), 1 filtered out, 0 lost in 2.0 s"]
        );
        summary.fail(DecodeError::Size { kind: Kind::Connect, size: 1 });
        summary.fail(DecodeError::Kind(99));
        let losses = [
            Loss { ring: 5, rate: 2, ..Loss::of(EventKind::Connect) },
            Loss { kind: "drop".into(), ..Loss::default() },
        ];
        assert_eq!(
            summary.lines(&losses, None),
            [
                "4 shown (drop 3, connect 1), 1 filtered out, 9 lost",
                "lost connect: ring 5, rate 2, decode 1",
                "lost unknown: ring 0, rate 0, decode 1",
                "the ring was full: show fewer kinds, or give it more room with --ring-bytes",
            ]
        );
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        assert_eq!(Summary::default().lines(&[], None), ["0 shown, 0 filtered out, 0 lost"]);
    }
}
