//! What must fire during the end-to-end run, and whom each alert must name.
//!
//! Each must really fire but one, so the run takes as long as the longest `for`. The rules are those that are shipped.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::LATE_SCRAPES;
use crate::lab::{Alert, Lab};

/// An alert that must fire, and labels that it must have.
struct Expected {
    name: &'static str,
    labels: &'static [(&'static str, &'static str)],
    /// It need only be pending.
    may_wait: bool,
}

const fn fires(name: &'static str, labels: &'static [(&'static str, &'static str)]) -> Expected {
    Expected { name, labels, may_wait: false }
}

/// Of what comes and goes: that it fires in the end is promtool's to test.
const fn holds(name: &'static str, labels: &'static [(&'static str, &'static str)]) -> Expected {
    Expected { name, labels, may_wait: true }
}

const ORDERS: &[(&str, &str)] = &[
    ("namespace", "shop"),
    ("pod", "orders-0"),
    ("container", "api"),
    ("process", "orders-api"),
    ("address", "127.0.0.1"),
    ("port", "8080"),
];
const REPORTS: &[(&str, &str)] =
    &[("pod", "reports-0"), ("container", "web"), ("process", "reports-web"), ("port", "8081")];
const LOGIN: &[(&str, &str)] = &[("pod", "login-0"), ("process", "login-auth"), ("port", "8443")];
const CRAWLER: &[(&str, &str)] = &[("namespace", "shop"), ("pod", "crawler-0"), ("container", "fetch")];
const SEARCH: &[(&str, &str)] = &[("namespace", "shop"), ("pod", "search-0"), ("container", "client")];
const MAILER: &[(&str, &str)] = &[("namespace", "shop"), ("pod", "mailer-0"), ("container", "smtp")];
const CATALOG: &[(&str, &str)] = &[("namespace", "shop"), ("pod", "catalog-0"), ("container", "db")];
const BILLING: &[(&str, &str)] = &[("namespace", "shop"), ("pod", "billing-0"), ("container", "worker")];

const EXPECTED: &[Expected] = &[
    fires("TracerListenDrops", ORDERS),
    fires("TracerListenDrops", REPORTS),
    fires("TracerAcceptQueueNearLimit", REPORTS),
    fires("TracerSynQueueNearLimit", LOGIN),
    fires("TracerSynCookiesSent", &[("namespace", "shop"), ("pod", "login-0")]),
    fires("TracerConnectRetries", MAILER),
    fires("TracerConnectionTimeouts", MAILER),
    fires("TracerTimeWaitOverflows", CRAWLER),
    fires("TracerPortsExhausted", SEARCH),
    fires("TracerListenDropRatio", ORDERS),
    fires("TracerRetransmitRatio", CATALOG),
    holds("TracerTimeWaitExhaustion", &[("namespace", "shop"), ("pod", "crawler-0")]),
    fires("TracerPortsExhaustion", &[("namespace", "shop"), ("pod", "search-0")]),
    fires("TracerCloseWaitGrowing", BILLING),
];

/// Alerts that say that the agent itself is not well.
const NEVER: &[&str] =
    &["TracerEventsLost", "TracerCountsLost", "TracerScrapesRefused", "TracerSeriesSuppressed", "TracerPassesLate"];

/// The same of those that wait for so long that a run may not see them fire.
const NEVER_PENDING: &[&str] = &["TracerHookLost"];

/// The same again, but a single late scrape makes them pending.
const NEVER_PENDING_LONG: &[&str] = &["TracerAgentDown", "TracerAgentAbsent"];

/// Before the first scrapes no agent is there.
const SETTLING: Duration = Duration::from_mins(1);

impl Expected {
    fn is_met_by(&self, alert: &Alert) -> bool {
        alert.name() == self.name
            && (alert.is_firing() || self.may_wait)
            && self.labels.iter().all(|(name, value)| alert.label(name) == *value)
    }

    fn shown(&self) -> String {
        let labels: Vec<_> = self.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{} with {}", self.name, labels.join(", "))
    }
}

/// Waits until all that is expected is there, and says when each came.
pub(super) fn wait_for_all(lab: &mut Lab, limit: Duration) -> Result<()> {
    let start = Instant::now();
    let mut open: Vec<_> = EXPECTED.iter().collect();
    let mut health = Health::default();
    loop {
        lab.check_runs()?;
        let alerts = lab.prometheus.alerts()?;
        if let Some(alert) = health.illness(&alerts, start.elapsed()) {
            bail!("{} is {}: {:?}", alert.name(), alert.state, alert.annotations.get("summary"));
        }
        let (met, rest): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|expected| alerts.iter().any(|alert| expected.is_met_by(alert)));
        for expected in met {
            println!("e2e: after {:3.0} s {}", start.elapsed().as_secs_f64(), expected.shown());
        }
        if rest.is_empty() && health.unseen_since.is_none() {
            return Ok(());
        }
        if start.elapsed() > limit {
            let missing: Vec<_> = rest.iter().map(|expected| expected.shown()).collect();
            bail!("not within {} s: {}; there are: {}", limit.as_secs(), missing.join("; "), listed(&alerts));
        }
        open = rest;
        thread::sleep(Duration::from_secs(1));
    }
}

/// Whether the agent itself is well, from one look at the alerts to the next.
#[derive(Default)]
struct Health {
    /// Since when, from the start, it seems not to be scraped.
    unseen_since: Option<Duration>,
}

impl Health {
    /// The alert, at a time since the start, that says that it is not well.
    fn illness<'a>(&mut self, alerts: &'a [Alert], after: Duration) -> Option<&'a Alert> {
        let settled = after > SETTLING;
        let certain = alerts.iter().find(|alert| {
            let is_one_of = |all: &[&[&str]]| all.iter().any(|names| names.contains(&alert.name()));
            (alert.is_firing() && is_one_of(&[NEVER, NEVER_PENDING, NEVER_PENDING_LONG]))
                || (settled && is_one_of(&[NEVER_PENDING]))
        });
        let unseen = alerts.iter().find(|alert| settled && NEVER_PENDING_LONG.contains(&alert.name()));
        self.unseen_since = unseen.map(|_| self.unseen_since.unwrap_or(after));
        let is_long = self.unseen_since.is_some_and(|since| after > since + LATE_SCRAPES);
        certain.or(unseen.filter(|_| is_long))
    }
}

fn listed(alerts: &[Alert]) -> String {
    let lines = alerts.iter().map(|alert| format!("{} {} {:?}", alert.name(), alert.state, alert.labels));
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workspace;

    fn alert(state: &str, labels: &[(&str, &str)]) -> Alert {
        Alert {
            state: state.to_owned(),
            labels: labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            annotations: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn an_alert_must_fire_and_name_the_workload() {
        let expected = fires("A", &[("pod", "p")]);
        assert!(expected.is_met_by(&alert("firing", &[("alertname", "A"), ("pod", "p"), ("port", "1")])));
        assert!(!expected.is_met_by(&alert("pending", &[("alertname", "A"), ("pod", "p")])));
        assert!(!expected.is_met_by(&alert("firing", &[("alertname", "A"), ("pod", "q")])));
        assert!(!expected.is_met_by(&alert("firing", &[("alertname", "B"), ("pod", "p")])));
        assert!(holds("A", &[]).is_met_by(&alert("pending", &[("alertname", "A")])));
    }

    #[test]
    fn an_ill_agent_is_seen_before_its_alert_fires() {
        let ill = |health: &mut Health, name: &str, state: &str, after: Duration| {
            let alerts = [alert(state, &[("alertname", "Other")]), alert(state, &[("alertname", name)])];
            health.illness(&alerts, after).is_some()
        };
        let (early, late) = (Duration::ZERO, SETTLING * 2);
        for name in ["TracerEventsLost", "TracerHookLost", "TracerAgentDown"] {
            assert!(ill(&mut Health::default(), name, "firing", early), "{name}");
            assert!(!ill(&mut Health::default(), name, "pending", early), "{name}");
            assert_eq!(ill(&mut Health::default(), name, "pending", late), name == "TracerHookLost", "{name}");
        }

        let mut health = Health::default();
        assert!(!ill(&mut health, "TracerAgentDown", "pending", late) && health.unseen_since.is_some());
        assert!(!ill(&mut health, "TracerAgentDown", "pending", late + LATE_SCRAPES));
        assert!(ill(&mut health, "TracerAgentDown", "pending", late + LATE_SCRAPES * 2));
        assert!(health.illness(&[], late + LATE_SCRAPES * 2).is_none() && health.unseen_since.is_none());
        assert!(!ill(&mut health, "TracerAgentDown", "pending", late + LATE_SCRAPES * 3), "it was well again");
    }

    #[test]
    fn every_alert_is_in_the_rules() {
        let rules = fs::read_to_string(workspace::root().join("dashboards/rules/tracer-alerts.yaml")).unwrap();
        for name in
            EXPECTED.iter().map(|expected| expected.name).chain([NEVER, NEVER_PENDING, NEVER_PENDING_LONG].concat())
        {
            assert!(rules.contains(&format!("- alert: {name}\n")), "{name}");
        }
    }
}
