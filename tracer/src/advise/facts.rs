//! What rules see: the samples of one exposition, asked by subject, by setting and by sum, and what
//! the agent and the user said beside them. Nothing here judges.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use super::destinations::Destinations;
use super::exposition::{Exposition, Sample};
use super::names::{BUILD_INFO, NETNS_INFO, SYSCTL};
use super::subject::{Scope, Subject};

/// The label of the host's network namespace.
pub const HOST: &str = "host";

/// Everything that a rule may look at.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    samples: Exposition,
    /// Namespaces by their label, with name and pod.
    namespaces: HashMap<String, Subject>,
    /// Subjects that were asked for, each once: rules hold several tables of ten thousand of them.
    subjects: RefCell<HashSet<Rc<Subject>>>,
    /// Values of settings, by namespace, name and index.
    settings: HashMap<String, f64>,
    /// After how long without a packet a load balancer forgets a connection.
    pub lb_idle: Option<Duration>,
    /// Who uses the ephemeral ports. A rule may name them, and judges by the samples alone.
    pub destinations: Destinations,
}

/// What a rule cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Any row of this metric.
    Metric(&'static str),
    /// This setting, of any namespace.
    Setting(&'static str),
    /// `--lb-idle`.
    LbIdle,
}

impl Need {
    /// What is missing, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metric(name) | Self::Setting(name) => name,
            Self::LbIdle => "--lb-idle",
        }
    }
}

impl Facts {
    /// Facts from an exposition alone.
    #[must_use]
    pub fn new(samples: Exposition, lb_idle: Option<Duration>) -> Self {
        let named = samples.rows(NETNS_INFO).iter().map(|row| {
            let mut subject = Subject::of(row, Scope::Namespace);
            row.label("name").clone_into(&mut subject.netns_name);
            (subject.netns.clone(), subject)
        });
        let mut settings = HashMap::new();
        for row in samples.rows(SYSCTL) {
            let key = setting_key(row.label("netns"), row.label("name"), row.label("index"));
            settings.entry(key).or_insert(row.value);
        }
        Self {
            namespaces: named.collect(),
            subjects: RefCell::default(),
            settings,
            samples,
            lb_idle,
            destinations: Destinations::default(),
        }
    }

    /// The same, with what is known of who uses the ephemeral ports.
    #[must_use]
    pub fn beside(self, destinations: Destinations) -> Self {
        Self { destinations, ..self }
    }

    /// The version of the agent that wrote the exposition; `None` if none did.
    #[must_use]
    pub fn agent_version(&self) -> Option<&str> {
        self.samples.rows(BUILD_INFO).first().map(|row| row.label("version"))
    }

    /// Whether the need is met.
    #[must_use]
    pub fn meet(&self, need: Need) -> bool {
        match need {
            Need::Metric(name) => !self.samples.rows(name).is_empty(),
            Need::Setting(name) => self.samples.rows(SYSCTL).iter().any(|row| row.label("name") == name),
            Need::LbIdle => self.lb_idle.is_some(),
        }
    }

    /// Rows of a metric that carry all of `labels`.
    pub fn rows<'a>(&'a self, metric: &str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.rows(metric).iter().filter(move |row| row.has(labels))
    }

    /// Sums of the rows that carry all of `labels`, by subject: a fact that is absent has no entry.
    #[must_use]
    pub fn by_subject(&self, metric: &str, scope: Scope, labels: &[(&str, &str)]) -> BTreeMap<Rc<Subject>, f64> {
        let mut sums = BTreeMap::new();
        for row in self.rows(metric, labels) {
            *sums.entry(self.subject(row, scope)).or_insert(0.0) += row.value;
        }
        sums
    }

    /// The largest row by subject, for levels that must not be summed.
    #[must_use]
    pub fn highest(&self, metric: &str, scope: Scope, labels: &[(&str, &str)]) -> BTreeMap<Rc<Subject>, f64> {
        let mut levels: BTreeMap<Rc<Subject>, f64> = BTreeMap::new();
        for row in self.rows(metric, labels) {
            levels
                .entry(self.subject(row, scope))
                .and_modify(|level| *level = level.max(row.value))
                .or_insert(row.value);
        }
        levels
    }

    /// Sum of the rows that carry all of `labels`; `None` when there is no such row.
    #[must_use]
    pub fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.rows(metric, labels).map(|row| row.value).reduce(|sum, value| sum + value)
    }

    /// A setting of a namespace: its own, or the host's, since only those that differ are shown.
    #[must_use]
    pub fn setting(&self, netns: &str, name: &str) -> Option<f64> {
        self.setting_at(netns, name, "").or_else(|| self.setting_at(netns, name, "0"))
    }

    /// One number of a setting that holds several.
    #[must_use]
    pub fn setting_at(&self, netns: &str, name: &str, index: &str) -> Option<f64> {
        let of = |netns: &str| self.settings.get(&setting_key(netns, name, index)).copied();
        of(netns).or_else(|| of(HOST))
    }

    /// Namespaces that have a value of their own of one of these settings, the host among them.
    #[must_use]
    pub fn namespaces_with(&self, names: &[&str]) -> Vec<Subject> {
        let rows = self.samples.rows(SYSCTL).iter().filter(|row| names.contains(&row.label("name")));
        let mut found: Vec<Subject> = rows.map(|row| self.namespace(row.label("netns"))).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// A namespace by its label, with its name and its pod where they are known.
    #[must_use]
    pub fn namespace(&self, netns: &str) -> Subject {
        let unnamed = || Subject { netns: netns.to_owned(), ..Subject::default() };
        self.namespaces.get(netns).cloned().unwrap_or_else(unnamed)
    }

    /// The subject of a row, the same for the rows of all metrics.
    fn subject(&self, row: &Sample, scope: Scope) -> Rc<Subject> {
        let mut subject = Subject::of(row, scope);
        match self.namespaces.get(&subject.netns) {
            Some(named) if scope == Scope::Namespace => subject.clone_from(named),
            Some(named) => subject.netns_name.clone_from(&named.netns_name),
            None => {}
        }
        let mut subjects = self.subjects.borrow_mut();
        if let Some(there) = subjects.get(&subject) {
            return Rc::clone(there);
        }
        let subject = Rc::new(subject);
        subjects.insert(Rc::clone(&subject));
        subject
    }
}

/// Between the parts is a character that no label of an agent has.
fn setting_key(netns: &str, name: &str, index: &str) -> String {
    [netns, name, index].join("\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(text: &str) -> Facts {
        Facts::new(Exposition::parse(text).unwrap(), None)
    }

    #[test]
    fn a_setting_is_the_namespaces_own_or_the_hosts() {
        let facts = facts(
            "tracer_sysctl_value{netns=\"host\",name=\"net.core.somaxconn\",index=\"0\"} 4096\n\
             tracer_sysctl_value{netns=\"7\",name=\"net.core.somaxconn\",index=\"0\"} 128\n\
             tracer_sysctl_value{netns=\"host\",name=\"net.ipv4.tcp_rmem\",index=\"2\"} 6\n",
        );
        assert_eq!(facts.setting("7", "net.core.somaxconn"), Some(128.0));
        assert_eq!(facts.setting("8", "net.core.somaxconn"), Some(4096.0));
        assert_eq!(facts.setting("8", "net.ipv4.tcp_syncookies"), None);
        assert_eq!(facts.setting_at("7", "net.ipv4.tcp_rmem", "2"), Some(6.0));
        let with = facts.namespaces_with(&["net.core.somaxconn"]);
        assert_eq!(with.iter().map(|subject| subject.netns.as_str()).collect::<Vec<_>>(), ["7", "host"]);
    }

    #[test]
    fn a_setting_without_an_index_is_one_number() {
        let facts = facts("tracer_sysctl_value{netns=\"host\",name=\"net.core.somaxconn\"} 4096\n");
        assert_eq!(facts.setting("host", "net.core.somaxconn"), Some(4096.0));
    }

    #[test]
    fn what_is_absent_is_not_zero() {
        let facts = facts("a{x=\"1\"} 0\n");
        assert_eq!(facts.sum("a", &[]), Some(0.0));
        assert_eq!(facts.sum("a", &[("x", "2")]), None);
        assert_eq!(facts.sum("b", &[]), None);
        assert!(facts.meet(Need::Metric("a")) && !facts.meet(Need::Metric("b")) && !facts.meet(Need::LbIdle));
    }

    #[test]
    fn subjects_of_a_namespace_are_the_same_whatever_the_metric_knows_of_it() {
        let facts = facts(
            "tracer_netns_info{netns=\"7\",name=\"blue\",namespace=\"shop\",pod=\"web\"} 1\n\
             a{netns=\"7\"} 1\nb{netns=\"7\",namespace=\"shop\",pod=\"web\"} 1\n",
        );
        let subject = |metric| facts.by_subject(metric, Scope::Namespace, &[]).into_keys().next().unwrap();
        assert_eq!(subject("a"), subject("b"));
        assert_eq!(subject("a").describe(), "netns 7 (blue), pod shop/web");
        assert_eq!(facts.namespace("8").describe(), "netns 8");
    }

    #[test]
    fn rows_are_summed_or_the_highest_taken() {
        let facts = facts("a{netns=\"1\",port=\"1\"} 2\na{netns=\"1\",port=\"2\"} 3\na{netns=\"2\",port=\"1\"} 4\n");
        let one = Subject { netns: "1".into(), ..Subject::default() };
        assert_eq!(facts.by_subject("a", Scope::Namespace, &[])[&one].to_bits(), 5.0_f64.to_bits());
        assert_eq!(facts.highest("a", Scope::Namespace, &[])[&one].to_bits(), 3.0_f64.to_bits());
    }
}
