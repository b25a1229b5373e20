//! What the advice cannot see: counts without an owner, counts that were lost, readings that are old.

use super::super::amount::Unit;
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{
    COUNT_DIFFERENCE, COUNTS_LOST, HOOK_ATTACHED, LISTEN_DROPS, PASS_AGE, PASS_INTERVAL, RETRANSMITS,
    RETRANSMITS_FAILED, SERIES_SUPPRESSED,
};
use super::super::subject::Subject;
use super::Rule;

/// Not in the documents: it is about the tracer, so that nobody takes silence for health.
pub(super) const BLIND_SPOTS: Rule = Rule {
    id: "blind_spots",
    title: "what the agent could not tell apart, lost or read long ago",
    background: "this project's principles: degrade, and say so",
    needs: &[Need::Metric(HOOK_ATTACHED)],
    examine: |facts| [unhooked, unattributed, different, lost, stale].iter().filter_map(|look| look(facts)).collect(),
};

fn note(summary: impl Into<String>) -> Finding {
    Finding::new(Severity::Note, &Subject::node(), summary)
}

/// Signals of which no hook is in force.
fn unhooked(facts: &Facts) -> Option<Finding> {
    let mut signals: Vec<(&str, f64)> = Vec::new();
    for row in facts.rows(HOOK_ATTACHED, &[]) {
        let signal = row.label("signal");
        match signals.iter_mut().find(|(name, _)| *name == signal) {
            Some((_, attached)) => *attached += row.value,
            None => signals.push((signal, row.value)),
        }
    }
    let silent: Vec<&str> = signals.iter().filter(|(_, attached)| *attached == 0.0).map(|(name, _)| *name).collect();
    if silent.is_empty() {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "there are ten signals or so")]
    let count = silent.len() as f64;
    Some(
        note(format!("No hook of its own is in force for {}: counts may lack owner or cause.", silent.join(", ")))
            .seen("signals without a hook of their own", HOOK_ATTACHED, count, Unit::Of("signals"))
            .say("`tracer doctor` says why, and what would help."),
    )
}

/// Counts that have no owner.
fn unattributed(facts: &Facts) -> Option<Finding> {
    let drops = facts.sum(LISTEN_DROPS, &[("reason", "unknown"), ("process", "")]);
    // What the host itself refused to send again no hook is shown before Linux 6.17, and nobody is at fault.
    let refused = facts.sum(RETRANSMITS_FAILED, &[("cause", "unknown")]).unwrap_or(0.0);
    let segments = facts.sum(RETRANSMITS, &[("cause", "unknown")]).map(|segments| (segments - refused).max(0.0));
    if drops.unwrap_or(0.0) + segments.unwrap_or(0.0) == 0.0 {
        return None;
    }
    Some(
        note("The kernel counted more than the hooks saw: that part has no owner here.")
            .seen_if("listener drops without a listener", LISTEN_DROPS, drops, Unit::Of("packets"))
            .seen_if("retransmits without a cause", RETRANSMITS, segments, Unit::Of("segments"))
            .say("`tracer doctor` says which hooks are degraded; the totals are right all the same."),
    )
}

/// Books that do not close.
fn different(facts: &Facts) -> Option<Finding> {
    let largest = facts.rows(COUNT_DIFFERENCE, &[]).max_by(|a, b| a.value.abs().total_cmp(&b.value.abs()));
    let largest = largest.filter(|row| row.value != 0.0)?;
    let finding = Finding::new(
        Severity::Note,
        &facts.namespace(largest.label("netns")),
        "The hooks' counts and the kernel's differ, for the moment or for good.",
    );
    Some(
        finding
            .seen(
                format!("difference in {}", largest.label("signal")),
                COUNT_DIFFERENCE,
                largest.value,
                Unit::Of("events"),
            )
            .say("Ask again in a few seconds; a difference that stays is to be reported, with `tracer doctor`."),
    )
}

/// Counts and series that found no room.
fn lost(facts: &Facts) -> Option<Finding> {
    let (counts, series) = (facts.sum(COUNTS_LOST, &[]), facts.sum(SERIES_SUPPRESSED, &[]));
    if counts.unwrap_or(0.0) + series.unwrap_or(0.0) == 0.0 {
        return None;
    }
    Some(
        note("The agent ran out of room: some counts or series are not here.")
            .seen_if("counts that found no room", COUNTS_LOST, counts, Unit::Of("events"))
            .seen_if("series left out of scrapes", SERIES_SUPPRESSED, series, Unit::Of("series"))
            .say("Start the agent with a larger --max-listeners or --max-workloads."),
    )
}

/// Levels that were read long ago.
fn stale(facts: &Facts) -> Option<Finding> {
    /// Passes of one interval's age are as they should be; a slow one may double it.
    const LATE: f64 = 3.0;
    let late = facts.rows(PASS_AGE, &[]).find_map(|row| {
        let interval = facts.sum(PASS_INTERVAL, &[("pass", row.label("pass"))])?;
        (row.value > interval.max(1.0) * LATE).then_some((row, interval))
    });
    let (row, interval) = late?;
    let pass = row.label("pass");
    Some(
        note(format!("Levels of the pass over {pass} are old: queues and limits may have changed."))
            .seen(format!("age of the pass over {pass}"), PASS_AGE, row.value, Unit::Seconds)
            .seen("its interval", PASS_INTERVAL, interval, Unit::Seconds)
            .say("Look at the agent's log; an agent without CPU time cannot read."),
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use Severity::Note;

    #[test]
    fn what_is_not_seen_is_said() {
        let hooks = "tracer_hook_attached{signal=\"listen_drops\",hook=\"a\"} \
         1\ntracer_hook_attached{signal=\"listen_drops\",hook=\"b\"} 0\n";
        let passes = |age| {
            format!(
                "tracer_pass_age_seconds{{pass=\"listeners\"}} \
                 {age}\ntracer_pass_interval_seconds{{pass=\"listeners\"}} 5\n"
            )
        };
        check(
            &BLIND_SPOTS,
            hooks,
            &[
                ("all is seen", &passes(5), &[]),
                ("no hook", "tracer_hook_attached{signal=\"retransmits\",hook=\"c\"} 0\n", &[Note]),
                ("no owner", "tracer_tcp_listen_drops_total{netns=\"host\",reason=\"unknown\"} 3\n", &[Note]),
                (
                    "a suspect is an owner",
                    "tracer_tcp_listen_drops_total{netns=\"host\",process=\"a\",reason=\"unknown\"} 3\n",
                    &[],
                ),
                (
                    "no cause",
                    "tracer_tcp_retransmitted_segments_total{netns=\"host\",cause=\"unknown\"} \
                 3\n",
                    &[Note],
                ),
                (
                    "refused by the host before 6.17",
                    "tracer_tcp_retransmitted_segments_total{netns=\"host\",cause=\"unknown\"} 3\n\
                     tracer_tcp_retransmits_failed_total{netns=\"host\",cause=\"unknown\"} 3\n",
                    &[],
                ),
                (
                    "refused, and one more",
                    "tracer_tcp_retransmitted_segments_total{netns=\"host\",cause=\"unknown\"} 4\n\
                     tracer_tcp_retransmits_failed_total{netns=\"host\",cause=\"unknown\"} 3\n\
                     tracer_tcp_retransmits_failed_total{netns=\"host\",cause=\"syn\"} 9\n",
                    &[Note],
                ),
                ("a difference", "tracer_count_difference{netns=\"host\",signal=\"listen_drops\"} -3\n", &[Note]),
                ("no difference", "tracer_count_difference{netns=\"host\",signal=\"listen_drops\"} 0\n", &[]),
                ("lost counts", "tracer_counts_lost_total{counter=\"accepted\"} 3\n", &[Note]),
                ("an old pass", &passes(16), &[Note]),
            ],
        );
    }
}
