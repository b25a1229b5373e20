//! Whom a finding is about: a listener, a workload, a network namespace or the node, by the labels
//! that its metrics carry.

use serde::Serialize;

use super::exposition::Sample;

/// The labels of a subject, empty where it has none. Two rows of the same subject compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Subject {
    /// `host`, or the inode number of the network namespace; empty for the node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub netns: String,
    /// Name of the network namespace, which no row but one carries: the facts know it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub netns_name: String,
    /// Kubernetes namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Container.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// Systemd unit.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// Process that holds the listener.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub process: String,
    /// Address the listener is bound to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Port the listener is bound to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub port: String,
}

/// How much of a row's labels makes a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One listener.
    Listener,
    /// One process that listens, whatever its ports.
    Process,
    /// One workload.
    Workload,
    /// One network namespace.
    Namespace,
    /// The node.
    Node,
}

impl Subject {
    /// The subject of a row.
    #[must_use]
    pub fn of(row: &Sample, scope: Scope) -> Self {
        let label =
            |name, from: &[Scope]| if from.contains(&scope) { row.label(name).to_owned() } else { String::new() };
        let listener = &[Scope::Listener];
        let process = &[Scope::Listener, Scope::Process];
        let workload = &[Scope::Listener, Scope::Process, Scope::Workload];
        let namespace = &[Scope::Listener, Scope::Process, Scope::Workload, Scope::Namespace];
        Self {
            netns: label("netns", namespace),
            netns_name: String::new(),
            namespace: label("namespace", namespace),
            pod: label("pod", namespace),
            container: label("container", workload),
            unit: label("unit", workload),
            process: label("process", process),
            address: label("address", listener),
            port: label("port", listener),
        }
    }

    /// The node as a whole.
    #[must_use]
    pub fn node() -> Self {
        Self::default()
    }

    /// One line for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        match (self.netns.as_str(), self.netns_name.as_str()) {
            ("", _) => parts.push("the node".to_owned()),
            (netns, "") => parts.push(format!("netns {netns}")),
            (netns, name) => parts.push(format!("netns {netns} ({name})")),
        }
        match (self.namespace.as_str(), self.pod.as_str()) {
            (_, "") => {}
            ("", pod) => parts.push(format!("pod {pod}")),
            (namespace, pod) => parts.push(format!("pod {namespace}/{pod}")),
        }
        for (what, value) in [("container", &self.container), ("unit", &self.unit), ("process", &self.process)] {
            if !value.is_empty() {
                parts.push(format!("{what} {value}"));
            }
        }
        if !self.port.is_empty() {
            let is_v6 = self.address.contains(':');
            let address = if is_v6 { format!("[{}]", self.address) } else { self.address.clone() };
            parts.push(format!("{address}:{}", self.port));
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::exposition::Exposition;
    use super::*;

    fn row() -> Sample {
        let text = "a{netns=\"host\",namespace=\"shop\",pod=\"web\",container=\"c\",unit=\"u\",process=\"p\",address=\"::\",port=\"80\"} 1";
        Exposition::parse(text).unwrap().rows("a")[0].clone()
    }

    #[test]
    fn a_scope_says_how_much_is_kept() {
        let told = |scope| Subject::of(&row(), scope).describe();
        assert_eq!(told(Scope::Listener), "netns host, pod shop/web, container c, unit u, process p, [::]:80");
        assert_eq!(told(Scope::Process), "netns host, pod shop/web, container c, unit u, process p");
        assert_eq!(told(Scope::Workload), "netns host, pod shop/web, container c, unit u");
        assert_eq!(told(Scope::Namespace), "netns host, pod shop/web");
        assert_eq!(told(Scope::Node), "the node");
    }

    #[test]
    fn a_namespace_is_named() {
        let subject = Subject { netns: "42".into(), netns_name: "blue".into(), ..Subject::default() };
        assert_eq!(subject.describe(), "netns 42 (blue)");
    }
}
