//! What binds on a node, and what to do about it: the limits, settings and counts of one exposition
//! ([`facts`]) judged by the [`rules`], and the result as [`text`] or [`json`].
//!
//! Pure: the text comes from whoever calls, and nothing is set, run or written. The rules judge by what
//! any scraper reads, so advice on a running agent, on a file and on a fresh look is the same; an agent and a
//! look name [`destinations`] besides.

pub mod amount;
pub mod destinations;
pub mod exposition;
pub mod facts;
pub mod finding;
pub mod json;
pub mod names;
pub mod remedy;
pub mod rules;
pub mod subject;
pub mod text;

use std::{cmp::Ordering, fmt};

use facts::Facts;
use finding::{Finding, Severity};
use rules::{RULES, Rule};

/// Where the facts came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What was asked.
    pub origin: Origin,
    /// When counting began, in seconds since the Unix epoch, where that is known.
    pub since: Option<u64>,
    /// For how long it was counted, where that is known.
    pub seconds: Option<u64>,
}

/// What was asked for the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A running agent, at this address.
    Agent(String),
    /// A file.
    File(String),
    /// Standard input.
    Stdin,
    /// The kernel, in a look of its own.
    Snapshot,
}

impl Origin {
    /// The word for it in JSON.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Agent(_) => "agent",
            Self::File(_) => "file",
            Self::Stdin => "stdin",
            Self::Snapshot => "snapshot",
        }
    }

    /// Its address or path.
    #[must_use]
    pub fn place(&self) -> Option<&str> {
        match self {
            Self::Agent(place) | Self::File(place) => Some(place),
            Self::Stdin | Self::Snapshot => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(address) => write!(f, "the agent at {address}"),
            Self::File(path) => write!(f, "{path}"),
            Self::Stdin => f.write_str("standard input"),
            Self::Snapshot => f.write_str("a fresh look at the kernel"),
        }
    }
}

/// A finding with the rule that made it.
#[derive(Clone, Debug)]
pub struct Ruled {
    /// The rule.
    pub rule: &'static Rule,
    /// What it found.
    pub finding: Finding,
}

/// A rule that could not judge.
#[derive(Clone, Debug)]
pub struct Untold {
    /// The rule.
    pub rule: &'static Rule,
    /// What it lacked.
    pub missing: Vec<&'static str>,
}

/// The result of all rules.
#[derive(Clone, Debug, Default)]
pub struct Advice {
    /// What was found, most urgent first.
    pub findings: Vec<Ruled>,
    /// Rules whose facts are absent.
    pub untold: Vec<Untold>,
    /// Severities of findings that are left out, since their rule found more than [`FINDINGS_MAX`].
    pub left_out: Vec<Severity>,
}

/// Findings of one rule that are kept, the most urgent: more than anybody reads, and the memory of a full node's is bounded.
pub const FINDINGS_MAX: usize = 1000;

impl Advice {
    /// Judges the facts by every rule.
    #[must_use]
    pub fn on(facts: &Facts) -> Self {
        let mut advice = Self::default();
        for rule in RULES {
            let missing = rule.missing(facts);
            if missing.is_empty() {
                let mut findings = (rule.examine)(facts);
                if findings.len() > FINDINGS_MAX {
                    findings.sort_by(|a, b| a.severity.cmp(&b.severity).then_with(|| heavier(a, b)));
                    advice.left_out.extend(findings.drain(FINDINGS_MAX..).map(|finding| finding.severity));
                }
                advice.findings.extend(findings.into_iter().map(|finding| Ruled { rule, finding }));
            } else {
                advice.untold.push(Untold { rule, missing });
            }
        }
        // Stable: within a severity, rules stay in the order of their table.
        advice.findings.sort_by(|a, b| {
            let rank = |ruled: &Ruled| (ruled.finding.severity, ruled.rule.rank());
            rank(a).cmp(&rank(b)).then_with(|| heavier(&a.finding, &b.finding))
        });
        advice
    }

    /// The most urgent severity; `None` when there is nothing to say.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings.first().map(|ruled| ruled.finding.severity)
    }

    /// How many findings are of this severity, those that are left out among them.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        let kept = self.findings.iter().map(|ruled| ruled.finding.severity);
        kept.chain(self.left_out.iter().copied()).filter(|found| *found == severity).count()
    }
}

/// The order of findings of one rule and severity.
fn heavier(a: &Finding, b: &Finding) -> Ordering {
    b.weight.partial_cmp(&a.weight).unwrap_or(Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advise::exposition::Exposition;

    fn advice(text: &str) -> Advice {
        Advice::on(&Facts::new(Exposition::parse(text).unwrap(), None))
    }

    #[test]
    fn nothing_known_is_nothing_found_and_nothing_told() {
        let advice = advice("");
        assert!(advice.findings.is_empty() && advice.worst().is_none());
        assert_eq!(advice.untold.len(), RULES.len(), "a rule without needs judges what it does not know");
    }

    #[test]
    fn the_most_urgent_comes_first_and_the_heavier_of_two() {
        let text = "\
            tracer_sysctl_value{netns=\"host\",name=\"net.ipv4.tcp_window_scaling\",index=\"0\"} 0\n\
            tracer_tcp_time_wait_sockets{netns=\"1\"} 4\ntracer_tcp_time_wait_limit{netns=\"1\"} 4\n\
            tracer_tcp_time_wait_overflows_total{netns=\"1\"} 5\n\
            tracer_tcp_time_wait_sockets{netns=\"2\"} 4\ntracer_tcp_time_wait_limit{netns=\"2\"} 4\n\
            tracer_tcp_time_wait_overflows_total{netns=\"2\"} 7\n\
            tracer_file_handles 99\ntracer_file_handles_limit 100\n";
        let advice = advice(text);
        let found: Vec<_> =
            advice.findings.iter().map(|ruled| (ruled.rule.id, ruled.finding.subject.netns.as_str())).collect();
        let expected =
            [("time_wait_buckets", "2"), ("time_wait_buckets", "1"), ("file_handles", ""), ("window_scaling", "host")];
        assert_eq!(found, expected);
        assert_eq!((advice.worst(), advice.count(Severity::Binds)), (Some(Severity::Binds), 2));
    }
}
