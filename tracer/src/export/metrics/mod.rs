//! What a metric is, and [`METRICS`], the one list of them.
//!
//! Owns names, types, labels, units and help texts. Holds no values, does no I/O. The collector
//! names a metric by [`MetricId`], so a misspelt name does not compile; docs/metrics.md is rendered
//! from the same table.

mod label;
mod table;

pub use label::{
    ABORT_REASONS, COOKIE_RESULTS, HOLDERS, LISTENER, Label, MEMORY_LEVELS, NAMESPACE, OWNER, Values, ZERO_WINDOWS,
};
pub use table::{METRICS, MetricId};

/// One row of [`METRICS`].
#[derive(Debug)]
pub struct Metric {
    /// Its index, as code names it.
    pub id: MetricId,
    /// The name users see. A contract: it never changes within a major version.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// The first labels: none, or [`NAMESPACE`], [`OWNER`] or [`LISTENER`].
    pub group: &'static [Label],
    /// The labels that follow the group's.
    pub own: &'static [Label],
    /// What one unit of the value is.
    pub unit: &'static str,
    /// Where the numbers come from: without it the metric is absent.
    pub origin: Origin,
    /// One sentence: what is counted, and which kernel counter it closes against.
    pub help: &'static str,
}

impl Metric {
    /// Every label, in the order in which rows give their values.
    pub fn labels(&self) -> impl Iterator<Item = &'static Label> + use<> {
        self.group.iter().chain(self.own)
    }

    /// How many values a row must give.
    #[must_use]
    pub const fn label_count(&self) -> usize {
        self.group.len() + self.own.len()
    }
}

impl MetricId {
    /// The metric's row in [`METRICS`].
    #[must_use]
    pub const fn metric(self) -> &'static Metric {
        &METRICS[self as usize]
    }
}

/// Prometheus' types, as far as they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while its labels live.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution by upper bounds.
    Histogram,
}

impl Kind {
    /// The type's name in the exposition format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a metric's numbers come from, in the words of docs/architecture.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The hooks of the listener-drop ladder.
    ListenDrops,
    /// The pass over listening sockets.
    ListenerPass,
    /// The pass over open sockets.
    SocketPass,
    /// The walk over the sockets of a namespace that is near its port range.
    PortPass,
    /// `tcp_retransmit_skb` and `tcp_retransmit_synack`.
    Retransmits,
    /// `tcp_send_reset` and `tcp_receive_reset`.
    Resets,
    /// The hooks of the `TIME_WAIT` ladder.
    TimeWait,
    /// `inet_csk_get_port`.
    Binds,
    /// `inet_sock_set_state`.
    Transitions,
    /// `/proc`, of each network namespace and of the node.
    Proc,
    /// The comparison of the hooks' counts with the kernel's.
    Reconcile,
    /// The agent itself.
    Agent,
}

impl Origin {
    /// The words used in docs/metrics.md.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ListenDrops => "listener drops",
            Self::ListenerPass => "listener pass",
            Self::SocketPass => "socket pass",
            Self::PortPass => "port pass",
            Self::Retransmits => "retransmits",
            Self::Resets => "resets",
            Self::TimeWait => "TIME_WAIT overflow",
            Self::Binds => "binds",
            Self::Transitions => "state transitions",
            Self::Proc => "/proc",
            Self::Reconcile => "reconciliation",
            Self::Agent => "agent",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn is_snake(name: &str) -> bool {
        name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    }

    #[test]
    fn ids_index_the_table() {
        for (index, metric) in METRICS.iter().enumerate() {
            assert_eq!(metric.id as usize, index, "{}", metric.name);
            assert_eq!(metric.id.metric().name, metric.name);
        }
    }

    #[test]
    fn names_are_unique_and_spelled_as_prometheus_wants() {
        let names: HashSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            assert!(is_snake(metric.name), "{}", metric.name);
            assert!(metric.name.starts_with("tracer_") || metric.name.starts_with("process_"));
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
        }
    }

    #[test]
    fn labels_of_a_metric_are_unique_and_spelled_as_prometheus_wants() {
        for metric in METRICS {
            let names: HashSet<_> = metric.labels().map(|label| label.name).collect();
            assert_eq!(names.len(), metric.label_count(), "{}", metric.name);
            assert!(names.iter().all(|name| is_snake(name) && *name != "le"), "{}", metric.name);
        }
    }

    #[test]
    fn every_group_is_a_beginning_of_the_longest() {
        for metric in METRICS {
            let names = |labels: &[Label]| labels.iter().map(|label| label.name).collect::<Vec<_>>();
            assert!(names(LISTENER).starts_with(&names(metric.group)), "{}", metric.name);
        }
    }

    #[test]
    fn closed_sets_of_label_values_have_no_gaps() {
        for label in METRICS.iter().flat_map(Metric::labels) {
            if let Values::OneOf(values) = label.values {
                let distinct: HashSet<_> = values.iter().collect();
                assert_eq!(distinct.len(), values.len(), "{}", label.name);
                assert!(!distinct.contains(&""), "{}", label.name);
            }
        }
    }

    #[test]
    fn help_is_one_sentence_that_says_more_than_the_name() {
        for metric in METRICS {
            let words = |text: &str| text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).count();
            assert!(metric.help.ends_with('.') && !metric.help.contains(". "), "{}", metric.name);
            assert!(words(metric.help) > words(metric.name), "{}", metric.name);
            assert!(!metric.help.contains(['\n', '\\', '|']), "{}", metric.name);
        }
    }

    #[test]
    fn a_unit_in_the_name_is_the_unit() {
        for metric in METRICS {
            for unit in ["seconds", "bytes"] {
                let named = metric.name.trim_end_matches("_total").ends_with(unit);
                assert_eq!(named, metric.unit == unit, "{}", metric.name);
            }
        }
    }
}
