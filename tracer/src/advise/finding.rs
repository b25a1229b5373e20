//! What a rule found: how urgent, about whom, with which evidence, and what to do. A value; how it
//! is shown is `text`'s and `json`'s business.

use serde::Serialize;

use super::amount::Unit;
use super::destinations::{Destination, STATUS};
use super::subject::Subject;

/// How urgent a finding is, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A limit took effect: connections, packets or time were lost.
    Binds,
    /// A limit is near, or a setting works against its purpose.
    Risk,
    /// Worth knowing; nothing has to be done.
    Note,
}

impl Severity {
    /// The word in the first column.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Binds => "binds",
            Self::Risk => "risk",
            Self::Note => "note",
        }
    }
}

/// A number that the finding rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// What it is.
    pub fact: String,
    /// The metric or setting that it comes from, or [`STATUS`].
    pub source: &'static str,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: Unit,
    /// Towards whom, if it is the ports that one destination uses.
    pub destination: Option<Destination>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// In words.
    pub text: String,
    /// A command to type, if there is one. It is never run.
    pub command: Option<String>,
}

/// One finding of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// How urgent.
    pub severity: Severity,
    /// About whom.
    pub subject: Subject,
    /// One sentence: what binds and what it costs.
    pub summary: String,
    /// Orders findings of the same rule and severity, the heaviest first.
    pub weight: f64,
    /// The numbers.
    pub evidence: Vec<Evidence>,
    /// What to do, in order.
    pub remedy: Vec<Step>,
}

impl Finding {
    /// A finding without evidence and remedy yet.
    #[must_use]
    pub fn new(severity: Severity, subject: &Subject, summary: impl Into<String>) -> Self {
        Self {
            severity,
            subject: subject.clone(),
            summary: summary.into(),
            weight: 0.0,
            evidence: Vec::new(),
            remedy: Vec::new(),
        }
    }

    /// The same, with its place among others of its kind.
    #[must_use]
    pub const fn weighing(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// The same, with one more number.
    #[must_use]
    pub fn seen(mut self, fact: impl Into<String>, source: &'static str, value: f64, unit: Unit) -> Self {
        self.evidence.push(Evidence { fact: fact.into(), source, value, unit, destination: None });
        self
    }

    /// The same, with the ports that a destination uses.
    #[must_use]
    pub fn seen_towards(mut self, fact: impl Into<String>, destination: &Destination) -> Self {
        self.evidence.push(Evidence {
            fact: fact.into(),
            source: STATUS,
            value: f64::from(destination.used),
            unit: Unit::Of("ports"),
            destination: Some(destination.clone()),
        });
        self
    }

    /// The same, with one more number if it is known.
    #[must_use]
    pub fn seen_if(self, fact: impl Into<String>, source: &'static str, value: Option<f64>, unit: Unit) -> Self {
        match value {
            Some(value) => self.seen(fact, source, value, unit),
            None => self,
        }
    }

    /// The same, with the value of a setting if it is known.
    #[must_use]
    pub fn set_to(self, setting: &'static str, value: Option<f64>) -> Self {
        self.seen_if(setting, setting, value, Unit::Setting)
    }

    /// The same, with one more thing to do.
    #[must_use]
    pub fn advise(mut self, step: Step) -> Self {
        self.remedy.push(step);
        self
    }

    /// The same, with one more thing to do, in words.
    #[must_use]
    pub fn say(self, text: impl Into<String>) -> Self {
        self.advise(Step { text: text.into(), command: None })
    }
}
