//! Drops of listeners as rows of the metric: by reason where the rung in force tells reasons, as one
//! unknown number where it has only the namespace's.

use super::agent::Agent;
use super::equations::DROPS;
use super::results::hidden;
use super::rungs::Drops;
use super::unknown::DROPS_UNKNOWN;
use super::wait::equal;

/// Reasons that together make up `ListenOverflows`: which of them it is depends on the stage that a
/// handshake had come to.
pub(crate) const ACCEPT_QUEUE_FULL: &[&str] = &["accept_queue_full_syn", "accept_queue_full_ack"];
pub(crate) const ACCEPT_QUEUE_FULL_SYN: &[&str] = &["accept_queue_full_syn"];
pub(crate) const ACCEPT_QUEUE_FULL_ACK: &[&str] = &["accept_queue_full_ack"];
pub(crate) const SYN_QUEUE_FULL: &[&str] = &["syn_queue_full"];
pub(crate) const OTHER: &[&str] = &["other"];

/// How many drops there must be for any of these reasons.
pub(crate) type Expected<'a> = (&'a [&'a str], u64);

/// Whether the rows with `labels`, among them `netns`, hold exactly what is expected.
///
/// On the lowest rung a whole namespace's rows must add up to it, with reason `unknown`; a single
/// listener's rows have no more than that, since drops have an owner there only if nobody else comes
/// into question.
///
/// Drops that the kernel says it did not show to the hooks, as the last closing check found, have no reason: as many may be
/// lacking as are `unknown` in this namespace. One of each kind must have been told all the same.
pub(crate) fn drops_are(agent: &Agent, labels: &[(&str, &str)], expected: &[Expected<'_>]) -> Result<(), String> {
    let scrape = agent.scrape();
    let sum = |reason: &str| scrape.sum(DROPS, &[labels, &[("reason", reason)]].concat());
    let namespace = labels.iter().find(|(name, _)| *name == "netns").copied();
    let unknown = scrape.sum(DROPS, &[namespace.as_slice(), &[("reason", "unknown")]].concat());
    let mut hidden = hidden(DROPS_UNKNOWN.what).min(unknown);
    let told = |(reasons, count): &Expected<'_>| {
        let told: u64 = reasons.iter().map(|reason| sum(reason)).sum();
        let excused = if told > 0 { count.saturating_sub(told).min(hidden) } else { 0 };
        hidden -= excused;
        equal(&format!("drops for {reasons:?}"), &(told + excused), count)
    };
    let result = match agent.rungs().drops {
        Drops::Outcomes | Drops::Packets => expected.iter().try_for_each(told),
        Drops::Totals => {
            let count = expected.iter().map(|(_, count)| count).sum();
            match sum("unknown") {
                fewer if fewer < count && names_a_listener(labels) => Ok(()),
                unknown => equal("drops for a reason unknown", &unknown, &count),
            }
        }
    };
    result.map_err(|error| format!("{error} with {labels:?}\n{}", scrape.show(DROPS, &labels[..1])))
}

/// Asserts the same at once: the sums have closed before.
#[track_caller]
pub(crate) fn assert_drops(agent: &Agent, labels: &[(&str, &str)], expected: &[Expected<'_>]) {
    drops_are(agent, labels, expected).unwrap_or_else(|error| panic!("{error}\n{}", agent.log()));
}

fn names_a_listener(labels: &[(&str, &str)]) -> bool {
    labels.iter().any(|(name, _)| *name != "netns")
}
