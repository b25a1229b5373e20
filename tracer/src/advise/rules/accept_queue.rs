//! Full accept queues: who set the limit, `net.core.somaxconn` or the application, and what the kernel
//! does with those who find no room.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::super::amount::{Unit, plain};
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{
    ABORT_ON_OVERFLOW, ACCEPT_LENGTH, ACCEPT_LIMIT, ACCEPT_PEAK, ACCEPT_PEAK_LIMIT, LISTEN_DROPS, LISTENER_SOCKETS,
    OPEN_FILES, OPEN_FILES_LIMIT, SOMAXCONN,
};
use super::super::remedy::{restart, roomier, set};
use super::super::subject::{Scope, Subject};
use super::{NEAR, Rule, accept_fullness};

/// Document 004, section 4.2 (Apache asks for 511 and gets 128), and 002 (a raised limit is for new calls of
/// `listen()` alone).
pub(super) const CLAMPED: Rule = Rule {
    id: "accept_queue_clamped",
    title: "an accept queue that net.core.somaxconn clamps",
    background: "document 004, section 4.2; document 002",
    needs: &[Need::Metric(ACCEPT_LIMIT), Need::Setting(SOMAXCONN)],
    examine: |facts| {
        queues(facts)
            .iter()
            .filter(|queue| queue.limit_to_somaxconn == Some(Ordering::Equal))
            .filter_map(clamped)
            .collect()
    },
};

/// Document 002: `listen(fd, 5)` lets six in, and the seventh client waits.
pub(super) const BACKLOG: Rule = Rule {
    id: "accept_queue_backlog",
    title: "an accept queue that the application's own backlog limits",
    background: "document 002; document 004, section 4.2",
    needs: &[Need::Metric(ACCEPT_LIMIT)],
    examine: |facts| {
        queues(facts)
            .iter()
            .filter(|queue| queue.limit_to_somaxconn != Some(Ordering::Equal))
            .filter_map(backlog)
            .collect()
    },
};

/// Row 14 of the project's table of limits. The documents describe what this takes away: the client of a
/// full queue is left to try again (002).
pub(super) const RESET: Rule = Rule {
    id: "abort_on_overflow",
    title: "clients that are reset when the accept queue is full",
    background: "this project's table of limits, row 14; document 002",
    needs: &[Need::Setting(ABORT_ON_OVERFLOW)],
    examine: resets,
};

/// From this length on a queue that was nearly full says something: a queue for 5 is nearly full with
/// every burst.
const LENGTH_MIN: f64 = 8.0;

/// One listener's accept queue: that of the socket that was fullest, now or in the last two minutes, since the sockets of
/// a group may have different limits. What is not known is `None`.
struct Queue {
    subject: Rc<Subject>,
    limit: f64,
    sockets: Option<f64>,
    somaxconn: Option<f64>,
    /// Equal: somaxconn is what limits it. Greater: somaxconn was lowered since.
    limit_to_somaxconn: Option<Ordering>,
    /// Longest that it was.
    longest: f64,
    length: Option<f64>,
    peak: Option<f64>,
    drops: f64,
}

impl Queue {
    fn is_nearly_full(&self) -> bool {
        self.longest >= LENGTH_MIN && accept_fullness(self.longest, self.limit) >= NEAR
    }

    fn evidence(&self, finding: Finding) -> Finding {
        finding
            .weighing(self.drops)
            .seen("accept queue limit", ACCEPT_LIMIT, self.limit, Unit::Of("connections"))
            .set_to(SOMAXCONN, self.somaxconn)
            .seen_if("accept queue length now", ACCEPT_LENGTH, self.length, Unit::Of("connections"))
            .seen_if("fullest in two minutes", ACCEPT_PEAK, self.peak, Unit::Of("connections"))
            .seen_if("sockets in its group", LISTENER_SOCKETS, self.sockets.filter(|n| *n > 1.0), Unit::Of("sockets"))
            .seen("dropped, accept queue full", LISTEN_DROPS, self.drops, Unit::Of("packets"))
    }
}

/// All listeners but those whose process is out of descriptors: there accept() is what fails, and
/// another rule says so.
fn queues(facts: &Facts) -> Vec<Queue> {
    let highest = |metric| facts.highest(metric, Scope::Listener, &[]);
    let (limits, lengths) = (highest(ACCEPT_LIMIT), highest(ACCEPT_LENGTH));
    let (peaks, peak_limits) = (highest(ACCEPT_PEAK), highest(ACCEPT_PEAK_LIMIT));
    let sockets = highest(LISTENER_SOCKETS);
    let (files, files_limits) = (highest(OPEN_FILES), highest(OPEN_FILES_LIMIT));
    let drops = drops(facts);
    let is_out_of_files = |subject: &Subject| match (files.get(subject), files_limits.get(subject)) {
        (Some(files), Some(limit)) => files >= limit,
        _ => false,
    };
    let open = limits.into_iter().filter(|(subject, _)| !is_out_of_files(subject));
    open.map(|(subject, limit)| {
        let (length, peak) = (lengths.get(&subject).copied(), peaks.get(&subject).copied());
        let now = (length.unwrap_or(0.0), limit);
        let at_peak = (peak.unwrap_or(0.0), peak_limits.get(&subject).copied().unwrap_or(limit));
        let is_fuller = accept_fullness(at_peak.0, at_peak.1) > accept_fullness(now.0, now.1);
        let (longest, limit) = if is_fuller { at_peak } else { now };
        let somaxconn = facts.setting(&subject.netns, SOMAXCONN);
        Queue {
            somaxconn,
            limit_to_somaxconn: somaxconn.map(|somaxconn| limit.total_cmp(&somaxconn)),
            sockets: sockets.get(&subject).copied(),
            longest,
            length,
            peak,
            drops: drops.get(&subject).copied().unwrap_or(0.0),
            subject,
            limit,
        }
    })
    .collect()
}

/// Where the client is when it finds no room: at its SYN, or at the ACK that ends the handshake.
const AT_SYN: &str = "accept_queue_full_syn";
const AT_ACK: &str = "accept_queue_full_ack";

/// Drops for a full accept queue, by listener.
fn drops(facts: &Facts) -> BTreeMap<Rc<Subject>, f64> {
    let mut drops = BTreeMap::new();
    for reason in [AT_SYN, AT_ACK] {
        for (subject, n) in facts.by_subject(LISTEN_DROPS, Scope::Listener, &[("reason", reason)]) {
            *drops.entry(subject).or_insert(0.0) += n;
        }
    }
    drops
}

fn clamped(queue: &Queue) -> Option<Finding> {
    let (severity, summary) = if queue.drops > 0.0 {
        (Severity::Binds, "The accept queue was full and dropped handshakes; somaxconn limits it.")
    } else if queue.is_nearly_full() {
        (Severity::Risk, "The accept queue was nearly full; somaxconn limits it.")
    } else {
        return None;
    };
    let text = "Raise the limit, which is for calls of listen() from then on.";
    let larger = set(&queue.subject, text, SOMAXCONN, &roomier(queue.limit, 65_535));
    let again = restart(
        &queue.subject,
        "an open socket keeps its limit until listen() is called again, and gets no more than the backlog it \
         asks for.",
    );
    Some(queue.evidence(Finding::new(severity, &queue.subject, summary)).advise(larger).advise(again))
}

fn backlog(queue: &Queue) -> Option<Finding> {
    let severity = if queue.drops > 0.0 {
        Severity::Binds
    } else if queue.is_nearly_full() {
        Severity::Risk
    } else {
        return None;
    };
    let what = if severity == Severity::Binds { "was full and dropped handshakes" } else { "was nearly full" };
    let whose = match queue.limit_to_somaxconn {
        Some(Ordering::Greater) => "somaxconn was lowered since, and a restart would shorten the queue.",
        Some(_) => "its limit is below somaxconn, so the backlog given to listen() is what binds.",
        None => "whether its backlog or somaxconn is what binds cannot be told here.",
    };
    let finding = queue.evidence(Finding::new(severity, &queue.subject, format!("The accept queue {what}; {whose}")));
    let room = match queue.somaxconn {
        Some(somaxconn) => format!("up to {} (somaxconn) is granted", plain(somaxconn)),
        None => "no more than net.core.somaxconn is granted".to_owned(),
    };
    let step = format!("Raise the backlog in the application's configuration: {room}. Or let it accept() faster.");
    let why = "it gets the new limit when it calls listen(). That alone is enough if it was \
               started before somaxconn was raised.";
    let finding = if queue.limit_to_somaxconn == Some(Ordering::Greater) {
        finding.advise(set(&queue.subject, "Raise somaxconn first.", SOMAXCONN, &roomier(queue.limit, 65_535)))
    } else {
        finding
    };
    Some(finding.say(step).advise(restart(&queue.subject, why)))
}

fn resets(facts: &Facts) -> Vec<Finding> {
    let mut by_namespace: BTreeMap<String, f64> = BTreeMap::new();
    for (subject, n) in facts.by_subject(LISTEN_DROPS, Scope::Listener, &[("reason", AT_ACK)]) {
        *by_namespace.entry(subject.netns.clone()).or_default() += n;
    }
    let mut namespaces = facts.namespaces_with(&[ABORT_ON_OVERFLOW]);
    // Namespaces that only follow the host are named where they dropped something.
    namespaces.extend(by_namespace.iter().filter(|(_, n)| **n > 0.0).map(|(netns, _)| facts.namespace(netns)));
    namespaces.sort_unstable();
    namespaces.dedup();
    let is_set = |subject: &Subject| facts.setting(&subject.netns, ABORT_ON_OVERFLOW).is_some_and(|value| value > 0.0);
    namespaces
        .iter()
        .filter(|subject| is_set(subject))
        .map(|subject| {
            let drops = by_namespace.get(&subject.netns).copied();
            let severity = if drops.unwrap_or(0.0) > 0.0 { Severity::Binds } else { Severity::Risk };
            let summary =
                "A client that finds the accept queue full at its last ACK is reset instead of left to try again.";
            Finding::new(severity, subject, summary)
                .weighing(drops.unwrap_or(0.0))
                .set_to(ABORT_ON_OVERFLOW, facts.setting(&subject.netns, ABORT_ON_OVERFLOW))
                .seen_if("handshakes ended at their last ACK", LISTEN_DROPS, drops, Unit::Of("packets"))
                .advise(set(subject, "Let clients try again, as by default.", ABORT_ON_OVERFLOW, "0"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings, setting};
    use super::*;
    use Severity::{Binds, Risk};

    const L: &str = "netns=\"host\",unit=\"web.service\",process=\"web\",address=\"0.0.0.0\",port=\"80\"";

    fn listener(limit: u32, peak: u32, drops: u32) -> String {
        format!(
            "tracer_tcp_accept_queue_limit{{{L}}} {limit}\ntracer_tcp_accept_queue_peak{{{L}}} {peak}\n\
             tracer_tcp_accept_queue_length{{{L}}} 1\n\
             tracer_tcp_listen_drops_total{{{L},reason=\"accept_queue_full_syn\"}} {drops}\n\
             tracer_tcp_listen_drops_total{{{L},reason=\"accept_queue_full_ack\"}} 0\n\
             tracer_tcp_listen_drops_total{{{L},reason=\"other\"}} 9\n"
        )
    }

    #[test]
    fn clamped_by_somaxconn() {
        let full_of_files = "tracer_tcp_listener_open_files{L} 64\ntracer_tcp_listener_open_files_limit{L} 64\n";
        check(
            &CLAMPED,
            &setting("host", "net.core.somaxconn", 128),
            &[
                ("full", &listener(128, 129, 312), &[Binds]),
                ("nearly full", &listener(128, 104, 0), &[Risk]),
                ("roomy", &listener(128, 103, 0), &[]),
                ("the application asked for less", &listener(5, 6, 312), &[]),
                (
                    "out of descriptors",
                    &(listener(128, 129, 312) + &full_of_files.replace("{L}", &format!("{{{L}}}"))),
                    &[],
                ),
            ],
        );
    }

    /// Two sockets of one group: one of 1024 that once had 500, one of 5 that is empty.
    #[test]
    fn the_queue_of_one_socket_is_not_held_against_the_limit_of_another() {
        let of_two = |peak: u32, peak_limit: u32| {
            listener(5, peak, 0)
                + &format!("tracer_tcp_accept_queue_peak_limit{{{L}}} {peak_limit}\n")
                + &format!("tracer_tcp_listener_sockets{{{L}}} 2\n")
        };
        let somaxconn = setting("host", "net.core.somaxconn", 1024);
        check(
            &CLAMPED,
            &somaxconn,
            &[("half full", &of_two(500, 1024), &[]), ("nearly full", &of_two(900, 1024), &[Risk])],
        );
        check(
            &BACKLOG,
            &somaxconn,
            &[("the longer one", &of_two(900, 1024), &[]), ("another of 16", &of_two(17, 16), &[Risk])],
        );
        let shown = &findings(&BACKLOG, &(somaxconn + &of_two(17, 16)))[0];
        let value = |source| shown.evidence.iter().find(|evidence| evidence.source == source).unwrap().value;
        assert_eq!(
            [ACCEPT_LIMIT, LISTENER_SOCKETS].map(|source| value(source).to_bits()),
            [16.0_f64, 2.0].map(f64::to_bits)
        );
    }

    /// As the alert and the screen have it: of the limit and one more.
    #[test]
    fn four_fifths_are_of_what_the_kernel_queues() {
        let somaxconn = setting("host", "net.core.somaxconn", 4096);
        let cases = [("80 of 101", &*listener(100, 80, 0), &[][..]), ("81 of 101", &listener(100, 81, 0), &[Risk])];
        check(&BACKLOG, &somaxconn, &cases);
    }

    #[test]
    fn clamped_names_the_way_out() {
        let text = setting("host", "net.core.somaxconn", 128) + &listener(128, 129, 312);
        let finding = &findings(&CLAMPED, &text)[0];
        assert_eq!(finding.subject.describe(), "netns host, unit web.service, process web, 0.0.0.0:80");
        let commands: Vec<_> = finding.remedy.iter().filter_map(|step| step.command.as_deref()).collect();
        assert_eq!(commands, ["sysctl -w net.core.somaxconn=1024", "systemctl restart web.service"]);
        let drops = finding.evidence.iter().find(|evidence| evidence.source == LISTEN_DROPS).unwrap();
        assert_eq!(drops.unit.show(drops.value), "312 packets");
    }

    #[test]
    fn limited_by_the_backlog() {
        let somaxconn = setting("host", "net.core.somaxconn", 4096);
        check(
            &BACKLOG,
            "",
            &[
                ("full", &(listener(5, 6, 14) + &somaxconn), &[Binds]),
                ("somaxconn unknown", &listener(128, 129, 14), &[Binds]),
                ("nearly full", &(listener(128, 129, 0) + &somaxconn), &[Risk]),
                ("a short queue is nearly full with every burst", &(listener(5, 5, 0) + &somaxconn), &[]),
                ("somaxconn was lowered", &(listener(8192, 8193, 14) + &somaxconn), &[Binds]),
                ("clamped", &(listener(4096, 4097, 14) + &somaxconn), &[]),
            ],
        );
        let unknown = &findings(&BACKLOG, &listener(128, 129, 14))[0];
        assert!(unknown.summary.contains("cannot be told"), "{}", unknown.summary);
    }

    #[test]
    fn a_namespaces_own_somaxconn_counts() {
        let text = setting("host", "net.core.somaxconn", 4096)
            + &setting("7", "net.core.somaxconn", 128)
            + &listener(128, 129, 3).replace("netns=\"host\"", "netns=\"7\"");
        assert_eq!(findings(&CLAMPED, &text).len(), 1);
        assert!(findings(&BACKLOG, &text).is_empty());
    }

    #[test]
    fn reset_on_overflow() {
        let at_ack = listener(5, 6, 3).replace("full_ack\"} 0", "full_ack\"} 3");
        let (on, off) = (setting("host", ABORT_ON_OVERFLOW, 1), setting("host", ABORT_ON_OVERFLOW, 0));
        check(
            &RESET,
            "",
            &[
                ("set, nothing dropped", &(on.clone() + &listener(5, 1, 0)), &[Risk]),
                ("set, dropped at the SYN", &(on.clone() + &listener(5, 6, 3)), &[Risk]),
                ("set, dropped at the ACK", &(on + &at_ack), &[Binds]),
                ("not set", &(off + &listener(5, 6, 3)), &[]),
            ],
        );
    }
}
