//! SYN cookies, which stand in for a place in a full SYN queue: the listener whose queue that is, and what it wants.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::super::amount::Unit;
use super::super::facts::{Facts, Need};
use super::super::finding::{Finding, Severity};
use super::super::names::{SOMAXCONN, SYN_COOKIES, SYN_LENGTH, SYN_LIMIT, SYNCOOKIES};
use super::super::remedy::{restart, roomier, set};
use super::super::subject::{Scope, Subject};
use super::{NEAR, Rule, fullness};

/// Row 2 of the project's table of limits; document 003, chapter 9, on sockets that a flood leaves in SYN_RECV, and 002
/// on how many there may be. None of the documents treats cookies.
pub(super) const COOKIES: Rule = Rule {
    id: "syn_cookies",
    title: "SYN cookies sent because a SYN queue was full",
    background: "this project's table of limits, row 2; document 003, chapter 9; document 002",
    needs: &[Need::Metric(SYN_COOKIES)],
    examine: cookies,
};

/// A SYN queue as the last pass found it.
pub(super) struct SynQueue {
    pub listener: Rc<Subject>,
    pub length: f64,
    pub limit: f64,
}

impl SynQueue {
    fn fullness(&self) -> f64 {
        fullness(self.length, self.limit)
    }

    /// Whether hardly another handshake finds room.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.length > 0.0 && self.fullness() >= NEAR
    }
}

/// The SYN queues of each namespace, the fullest first, and of equally full ones the shortest limit.
pub(super) fn syn_queues(facts: &Facts) -> BTreeMap<String, Vec<SynQueue>> {
    let lengths = facts.highest(SYN_LENGTH, Scope::Listener, &[]);
    let mut queues: BTreeMap<String, Vec<SynQueue>> = BTreeMap::new();
    for (listener, limit) in facts.highest(SYN_LIMIT, Scope::Listener, &[]) {
        let length = lengths.get(&listener).copied().unwrap_or(0.0);
        queues.entry(listener.netns.clone()).or_default().push(SynQueue { listener, length, limit });
    }
    for queues in queues.values_mut() {
        queues.sort_by(|a, b| b.fullness().total_cmp(&a.fullness()).then(a.limit.total_cmp(&b.limit)));
    }
    queues
}

/// Whom the cookies of a namespace are sent for, as far as that can be told.
enum Behind<'a> {
    /// The listener whose queue is full now.
    Listener(&'a SynQueue),
    /// The only one whose queue is known. Another may have closed since, or be known by the kernel's table alone.
    Only(&'a SynQueue),
    /// None is full any more. Of several, the shortest was full first.
    Perhaps(&'a SynQueue),
    Unknown,
}

impl<'a> Behind<'a> {
    fn of(queues: &'a [SynQueue]) -> Self {
        match queues {
            [first, ..] if first.is_nearly_full() => Self::Listener(first),
            [only] => Self::Only(only),
            several => {
                let shortest = several.iter().min_by(|a, b| a.limit.total_cmp(&b.limit));
                shortest.map_or(Self::Unknown, Self::Perhaps)
            }
        }
    }

    /// The queue that a remedy may be about: nobody restarts one of several for a guess.
    fn queue(&self) -> Option<&'a SynQueue> {
        match self {
            Self::Listener(queue) | Self::Only(queue) => Some(queue),
            Self::Perhaps(_) | Self::Unknown => None,
        }
    }
}

/// What became of the cookies of one namespace.
struct Cookies {
    sent: f64,
    received: Option<f64>,
    failed: Option<f64>,
}

impl Cookies {
    /// More than half came back: clients, not a flood.
    fn are_of_clients(&self) -> Option<bool> {
        self.received.map(|received| received / self.sent > 0.5)
    }

    fn evidence(&self, finding: Finding) -> Finding {
        finding
            .weighing(self.sent)
            .seen("cookies sent in the namespace, ever", SYN_COOKIES, self.sent, Unit::Of("packets"))
            .seen_if("valid ones that came back, ever", SYN_COOKIES, self.received, Unit::Of("packets"))
            .seen_if("invalid ones that came, ever", SYN_COOKIES, self.failed, Unit::Of("packets"))
    }
}

fn cookies(facts: &Facts) -> Vec<Finding> {
    let of = |result| facts.by_subject(SYN_COOKIES, Scope::Namespace, &[("result", result)]);
    let (sent, received, failed) = (of("sent"), of("received"), of("failed"));
    let queues = syn_queues(facts);
    let sent = sent.into_iter().filter(|(_, n)| *n > 0.0);
    sent.map(|(namespace, sent)| {
        let cookies =
            Cookies { sent, received: received.get(&namespace).copied(), failed: failed.get(&namespace).copied() };
        if facts.setting(&namespace.netns, SYNCOOKIES) == Some(2.0) {
            return always(&namespace, &cookies);
        }
        let behind = Behind::of(queues.get(&namespace.netns).map_or(&[], Vec::as_slice));
        full(facts, &namespace, &cookies, &behind)
    })
    .collect()
}

/// By setting, whatever the queue.
fn always(namespace: &Subject, cookies: &Cookies) -> Finding {
    let summary = "Every SYN is answered with a cookie, by setting; window scaling and SACK suffer where clients send no \
                   timestamps.";
    cookies.evidence(Finding::new(Severity::Note, namespace, summary)).set_to(SYNCOOKIES, Some(2.0)).advise(set(
        namespace,
        "Send cookies only when the queue is full, as by default.",
        SYNCOOKIES,
        "1",
    ))
}

fn full(facts: &Facts, namespace: &Subject, cookies: &Cookies, behind: &Behind<'_>) -> Finding {
    let (subject, whose) = match behind {
        Behind::Listener(queue) => (&*queue.listener, "Its SYN queue was full"),
        Behind::Only(queue) => (&*queue.listener, "A SYN queue was full, and its is the only one known there"),
        Behind::Perhaps(_) | Behind::Unknown => (namespace, "SYN queues were full"),
    };
    let what = match cookies.are_of_clients() {
        Some(true) => "most cookies came back, so these were clients that want a longer queue",
        Some(false) => "most cookies did not come back, as in a SYN flood",
        None => "clients were answered with cookies",
    };
    let finding = Finding::new(Severity::Risk, subject, format!("{whose}; {what}."));
    let finding = cookies.evidence(finding).set_to(SYNCOOKIES, facts.setting(&namespace.netns, SYNCOOKIES));
    let finding = match behind {
        Behind::Listener(queue) | Behind::Only(queue) => finding
            .seen("SYN queue limit", SYN_LIMIT, queue.limit, Unit::Of("connections"))
            .seen("SYN queue length now", SYN_LENGTH, queue.length, Unit::Of("connections")),
        Behind::Perhaps(queue) => {
            let fact = format!("shortest SYN queue there, {}", queue.listener.describe());
            finding.seen(fact, SYN_LIMIT, queue.limit, Unit::Of("connections"))
        }
        Behind::Unknown => finding,
    };
    let somaxconn = facts.setting(&namespace.netns, SOMAXCONN);
    remedies(finding.set_to(SOMAXCONN, somaxconn), cookies, behind, somaxconn)
}

/// A backlog that the settings would let be longer is worth raising, whoever fills it. Beyond that clients want more
/// room, and a flood takes what it gets.
fn remedies(finding: Finding, cookies: &Cookies, behind: &Behind<'_>, somaxconn: Option<f64>) -> Finding {
    const LARGER: &str = "with a larger backlog, which limits the SYN queue too.";
    let is_flood = cookies.are_of_clients() != Some(true);
    let finding = match behind.queue() {
        Some(queue) if somaxconn.is_some_and(|somaxconn| queue.limit < somaxconn) => finding
            .say("The application asked for a short queue: the settings let it have a longer one. Raise its backlog.")
            .advise(restart(&queue.listener, LARGER)),
        Some(queue) if !is_flood && somaxconn.is_some() => finding
            .advise(set(&queue.listener, "Raise somaxconn first.", SOMAXCONN, &roomier(queue.limit, 65_535)))
            .advise(restart(&queue.listener, LARGER)),
        _ if is_flood => finding.say("A larger backlog only holds more of the flood."),
        _ => finding.say(
            "Give the listeners of this namespace a larger backlog (and net.core.somaxconn at least as much): it limits \
             the SYN queue too.",
        ),
    };
    if is_flood { finding.say("Leave cookies on: they keep the listener open to real clients.") } else { finding }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, findings, setting};
    use super::*;
    use Severity::{Note, Risk};

    fn cookies(sent: u32, received: u32) -> String {
        format!(
            "tracer_tcp_syn_cookies_total{{netns=\"host\",result=\"sent\"}} {sent}\n\
             tracer_tcp_syn_cookies_total{{netns=\"host\",result=\"received\"}} {received}\n"
        )
    }

    fn queue(port: u16, length: u32, limit: u32) -> String {
        let labels = format!("{{netns=\"host\",process=\"web\",address=\"0.0.0.0\",port=\"{port}\"}}");
        format!("tracer_tcp_syn_queue_length{labels} {length}\ntracer_tcp_syn_queue_limit{labels} {limit}\n")
    }

    fn said(finding: &Finding) -> String {
        finding.remedy.iter().map(|step| step.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn cookies_that_were_sent() {
        let always = cookies(9, 9) + &setting("host", SYNCOOKIES, 2);
        let cases: &[super::super::tests::Case<'_>] =
            &[("none", &cookies(0, 0), &[]), ("a flood", &cookies(1000, 3), &[Risk]), ("always", &always, &[Note])];
        check(&COOKIES, "", cases);
        let summary = |text: &str| findings(&COOKIES, text)[0].summary.clone();
        assert!(summary(&cookies(1000, 3)).contains("SYN flood"));
        assert!(summary(&cookies(1000, 900)).contains("longer queue"));
    }

    /// A backlog of 5 beside large settings, filled by whom it may be.
    #[test]
    fn the_listener_whose_queue_is_full_is_named_and_its_short_backlog() {
        let settings = setting("host", SOMAXCONN, 4096);
        for received in [3, 900] {
            let text = cookies(1000, received) + &settings + &queue(80, 2, 4096) + &queue(81, 5, 5);
            let finding = &findings(&COOKIES, &text)[0];
            assert_eq!(finding.subject.port, "81", "{finding:?}");
            let said = said(finding);
            assert!(said.contains("asked for a short queue") && !said.contains("more of the flood"), "{said}");
        }
    }

    #[test]
    fn the_only_listener_is_named_and_of_several_that_are_empty_the_shortest_is_shown() {
        let settings = setting("host", SOMAXCONN, 4096);
        let only = &findings(&COOKIES, &(cookies(9, 0) + &settings + &queue(80, 0, 128)))[0];
        assert_eq!(only.subject.port, "80");
        let several = &findings(&COOKIES, &(cookies(9, 0) + &settings + &queue(80, 0, 128) + &queue(81, 0, 5)))[0];
        assert_eq!(several.subject.port, "", "nobody knows");
        assert!(several.evidence.iter().any(|seen| seen.fact.ends_with("process web, 0.0.0.0:81")), "{several:?}");
    }

    /// Nobody knows whose queue the flood filled, so nobody is told to restart the smaller.
    #[test]
    fn of_several_idle_listeners_none_is_to_be_restarted() {
        let queues = setting("host", SOMAXCONN, 4096) + &queue(80, 0, 128) + &queue(81, 0, 4096);
        let of = |received| said(&findings(&COOKIES, &(cookies(1000, received) + &queues))[0]);
        let (flood, clients) = (of(3), of(900));
        assert!(flood.contains("only holds more of the flood") && flood.contains("Leave cookies on"), "{flood}");
        assert!(clients.contains("the listeners of this namespace a larger backlog"), "{clients}");
        for said in [flood, clients] {
            assert!(!said.contains("short queue") && !said.contains("Restart"), "{said}");
        }
    }

    /// The other one is known by the kernel's table alone, where no SYN queue is.
    #[test]
    fn the_only_known_queue_is_not_said_to_have_been_full() {
        let other = "tracer_tcp_accept_queue_limit{netns=\"host\",process=\"old\",address=\"0.0.0.0\",port=\"81\"} 5\n";
        let text = cookies(9, 0) + &setting("host", SOMAXCONN, 4096) + &queue(80, 0, 128) + other;
        let only = &findings(&COOKIES, &text)[0];
        assert_eq!(only.subject.port, "80");
        assert!(only.summary.starts_with("A SYN queue was full, and its is the only one known there; "), "{only:?}");
        let full = &findings(&COOKIES, &(cookies(9, 0) + &setting("host", SOMAXCONN, 4096) + &queue(80, 128, 128)))[0];
        assert!(full.summary.starts_with("Its SYN queue was full; "), "{full:?}");
    }

    #[test]
    fn a_queue_as_long_as_the_settings_allow_wants_more_for_clients_and_holds_a_flood_as_it_is() {
        let text = |received| cookies(1000, received) + &setting("host", SOMAXCONN, 4096) + &queue(80, 4096, 4096);
        let (flood, clients) = (said(&findings(&COOKIES, &text(3))[0]), said(&findings(&COOKIES, &text(900))[0]));
        assert!(flood.contains("only holds more of the flood") && flood.contains("Leave cookies on"), "{flood}");
        assert!(clients.contains("Raise somaxconn first") && !clients.contains("flood"), "{clients}");
    }
}
