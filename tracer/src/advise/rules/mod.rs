//! The rules, one table. A rule names the facts that it cannot do without and is a pure function over
//! the facts; it is asked only where all of them are there, and what it does not know it does not say.
//!
//! Adding a rule is adding a row here and a section to docs/advise.md. Documents are those that the
//! project began with, numbered as their file names begin.

mod accept_queue;
mod blind_spots;
mod buffers;
mod closing;
mod connect;
mod device;
mod differs;
mod files;
mod keepalive;
mod memory;
mod ports;
mod retransmits;
mod retries;
mod syn_cookies;
mod syn_queue;
mod time_wait;

use super::facts::{Facts, Need};
use super::finding::Finding;

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name: an anchor of docs/advise.md, and the field `rule` of the JSON.
    pub id: &'static str,
    /// What it looks for.
    pub title: &'static str,
    /// Where the documents treat it.
    pub background: &'static str,
    /// What it cannot do without.
    pub needs: &'static [Need],
    /// The judgement.
    pub examine: fn(&Facts) -> Vec<Finding>,
}

/// Every rule; among findings of one severity, those of earlier rules come first. What loses
/// connections comes before what loses time.
pub const RULES: &[Rule] = &[
    files::OPEN_FILES_RULE,
    files::FILE_HANDLES_RULE,
    memory::TCP_MEMORY,
    accept_queue::CLAMPED,
    accept_queue::BACKLOG,
    accept_queue::RESET,
    syn_queue::FULL,
    syn_cookies::COOKIES,
    syn_queue::MAX_SYN_BACKLOG_RULE,
    syn_queue::COOKIES_OFF,
    ports::EPHEMERAL_PORTS,
    ports::REUSE_WITHOUT_TIMESTAMPS,
    device::BACKLOG,
    closing::ORPHANS_RULE,
    time_wait::BUCKETS,
    closing::CLOSE_WAIT,
    memory::IN_BYTES,
    connect::SYN_RETRIES_RULE,
    retries::SYNACK_RETRIES_RULE,
    retries::RETRIES2_RULE,
    retries::ORPHAN_RETRIES_RULE,
    keepalive::KEEPALIVE,
    retransmits::SHARE,
    buffers::WINDOW_SCALING_RULE,
    buffers::RECEIVE_QUEUE,
    time_wait::FIN_TIMEOUT_RULE,
    closing::LINGER,
    differs::DIFFERS,
    blind_spots::BLIND_SPOTS,
];

impl Rule {
    /// What it lacks to judge these facts.
    #[must_use]
    pub fn missing(&self, facts: &Facts) -> Vec<&'static str> {
        self.needs.iter().filter(|need| !facts.meet(**need)).map(|need| need.name()).collect()
    }

    /// Its place in [`RULES`].
    #[must_use]
    pub fn rank(&self) -> usize {
        RULES.iter().position(|rule| rule.id == self.id).unwrap_or(RULES.len())
    }
}

/// How full something is, from 0 to 1; a limit of 0 is full at once.
fn fullness(used: f64, limit: f64) -> f64 {
    if limit > 0.0 { used / limit } else { 1.0 }
}

/// How full an accept queue is: the kernel queues one connection more than the limit, and drops what follows.
fn accept_fullness(length: f64, limit: f64) -> f64 {
    length / (limit + 1.0)
}

/// From here on a limit is near: one doubling of a burst away is too late to notice.
const NEAR: f64 = 0.8;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::super::destinations::Destinations;
    use super::super::exposition::Exposition;
    use super::super::finding::Severity;
    use super::super::names::{METRICS_USED, SETTINGS_USED};
    use super::*;

    /// One row of a rule's table test: what is exposed, and the severities of what is found.
    pub(super) type Case<'a> = (&'a str, &'a str, &'a [Severity]);

    /// A setting as the exposition has it.
    pub(super) fn setting(netns: &str, name: &str, value: i64) -> String {
        format!("tracer_sysctl_value{{netns=\"{netns}\",name=\"{name}\",index=\"\"}} {value}\n")
    }

    /// What the rule finds in `text`.
    pub(super) fn findings(rule: &Rule, text: &str) -> Vec<Finding> {
        findings_behind(rule, text, None)
    }

    /// The same behind a load balancer.
    pub(super) fn findings_behind(rule: &Rule, text: &str, lb_idle: Option<Duration>) -> Vec<Finding> {
        examined(rule, &Facts::new(samples(text), lb_idle))
    }

    /// The same where the agent said this of destinations.
    pub(super) fn findings_beside(rule: &Rule, text: &str, destinations: Destinations) -> Vec<Finding> {
        examined(rule, &Facts::new(samples(text), None).beside(destinations))
    }

    fn samples(text: &str) -> Exposition {
        Exposition::parse(text).unwrap_or_else(|error| panic!("{error} of:\n{text}"))
    }

    fn examined(rule: &Rule, facts: &Facts) -> Vec<Finding> {
        assert_eq!(rule.missing(facts), Vec::<&str>::new(), "{}", rule.id);
        (rule.examine)(facts)
    }

    /// Checks a table of cases, each on top of what all of them share.
    #[track_caller]
    pub(super) fn check(rule: &Rule, shared: &str, cases: &[Case<'_>]) {
        check_behind(rule, shared, None, cases);
    }

    /// The same behind a load balancer.
    #[track_caller]
    pub(super) fn check_behind(rule: &Rule, shared: &str, lb_idle: Option<Duration>, cases: &[Case<'_>]) {
        let severities = |found: &[Finding]| found.iter().map(|finding| finding.severity).collect::<Vec<_>>();
        assert!(cases.iter().any(|case| !case.2.is_empty()), "{}: there is to be a case in which it speaks", rule.id);
        assert!(cases.iter().any(|case| case.2.is_empty()), "{}: there is to be a case in which it does not", rule.id);
        for (what, text, expected) in cases {
            let found = findings_behind(rule, &format!("{shared}{text}"), lb_idle);
            assert_eq!(severities(&found), *expected, "{}: {what}: {found:#?}", rule.id);
            for finding in found {
                assert!(!finding.evidence.is_empty(), "{}: {what}: no evidence", rule.id);
                assert!(!finding.remedy.is_empty(), "{}: {what}: no remedy", rule.id);
                assert!(finding.summary.ends_with('.'), "{}: {what}: {}", rule.id, finding.summary);
            }
        }
    }

    /// [`check`] wants a case in which a rule speaks and one in which it does not; here it is seen that each rule
    /// has such a table, in its own file.
    #[test]
    fn every_rule_has_its_table_of_cases() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/advise/rules");
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let texts: Vec<String> = files
            .map(|path| std::fs::read_to_string(path).unwrap().split_whitespace().collect::<Vec<_>>().concat())
            .collect();
        for rule in RULES {
            let declared = format!(":Rule=Rule{{id:\"{}\"", rule.id);
            let (before, text) = texts
                .iter()
                .find_map(|text| Some((text.split_once(&declared)?.0, text)))
                .unwrap_or_else(|| panic!("no file declares {}", rule.id));
            let (_, name) = before.rsplit_once("const").unwrap();
            let is_checked = ["check", "check_behind"].iter().any(|check| text.contains(&format!("{check}(&{name},")));
            assert!(is_checked, "{}: no table of cases of {name}: use `check`", rule.id);
        }
    }

    #[test]
    #[should_panic(expected = "a case in which it speaks")]
    fn a_table_without_a_true_case_is_refused() {
        check(&syn_queue::COOKIES_OFF, "", &[("on", &setting("host", "net.ipv4.tcp_syncookies", 1), &[])]);
    }

    #[test]
    #[should_panic(expected = "a case in which it does not")]
    fn a_table_without_a_false_case_is_refused() {
        check(
            &syn_queue::COOKIES_OFF,
            "",
            &[("off", &setting("host", "net.ipv4.tcp_syncookies", 0), &[Severity::Risk])],
        );
    }

    #[test]
    fn rules_are_told_apart_and_cite_a_document() {
        let ids: HashSet<_> = RULES.iter().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), RULES.len());
        for rule in RULES {
            assert!(rule.id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{}", rule.id);
            assert!(
                rule.background.starts_with("document ") || rule.background.starts_with("this project"),
                "{}",
                rule.id
            );
            assert!(!rule.needs.is_empty(), "{} would judge without facts", rule.id);
        }
    }

    #[test]
    fn every_rule_has_its_section_in_the_page_with_its_source() {
        let page = include_str!("../../../../docs/advise.md");
        for rule in RULES {
            let (_, section) =
                page.split_once(&format!("### `{}`\n", rule.id)).unwrap_or_else(|| panic!("no section {}", rule.id));
            let section = section.split("\n### ").next().unwrap_or_default();
            assert!(section.contains(rule.background), "{}: {} is not cited", rule.id, rule.background);
            // It begins a sentence there.
            assert!(section.contains(&rule.title[1..]), "{}: {} is not its title", rule.id, rule.title);
        }
    }

    #[test]
    fn needs_are_names_that_are_declared() {
        for need in RULES.iter().flat_map(|rule| rule.needs) {
            match need {
                Need::Metric(name) => assert!(METRICS_USED.contains(name), "{name}"),
                Need::Setting(name) => assert!(SETTINGS_USED.contains(name), "{name}"),
                Need::LbIdle => {}
            }
        }
    }

    #[test]
    fn a_limit_of_zero_is_full() {
        assert_eq!([fullness(1.0, 4.0), fullness(0.0, 0.0)].map(f64::to_bits), [0.25_f64, 1.0].map(f64::to_bits));
    }
}
