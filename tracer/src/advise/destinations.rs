//! Who uses a network namespace's ephemeral ports, by an agent's `/status`: an address is no label, so that
//! `/metrics` has the numbers without the destinations.
//!
//! Owns what is read of `/status`, and why nothing was. Must not ask anybody: the text is handed in.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

/// What evidence that rests on it names as its source.
pub const STATUS: &str = "/status";

/// The destinations of all namespaces that are near their range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destinations {
    /// As an agent or a look counted them, by the label of the namespace.
    Known(Vec<PortUse>),
    /// Nobody told.
    Unknown(Cause),
}

/// Why a namespace's destinations are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There is an exposition and no agent to ask.
    MetricsAlone,
    /// The agent gave no `/status`, for this reason.
    NotServed(String),
    /// Its `/status` is not what this version reads, for this reason.
    NotRead(String),
    /// The agent names peers to clients on its own loopback alone.
    Hidden,
    /// No walk has counted the namespace's ports, or it found none in use.
    NoneCounted,
}

/// What the last walk over one namespace found.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PortUse {
    /// Label of the network namespace.
    netns: String,
    /// The busiest, first the one that uses most.
    pub destinations: Vec<Destination>,
    /// Ports that `bind()` or `listen()` took from all destinations; an older agent does not say.
    #[serde(default)]
    pub bound: u32,
    /// That some were not counted apart.
    incomplete: Option<Incomplete>,
}

/// One destination as seen from one address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Destination {
    /// Local address.
    pub source: IpAddr,
    /// Remote address and port.
    pub destination: SocketAddr,
    /// Ephemeral ports in use.
    pub used: u32,
    /// Those of them in `TIME_WAIT`.
    pub time_wait: u32,
}

/// Destinations beyond the room for them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Incomplete {
    /// None of them uses more ports than this.
    used_at_most: u32,
}

impl Default for Destinations {
    fn default() -> Self {
        Self::Unknown(Cause::MetricsAlone)
    }
}

impl Destinations {
    /// Reads the text of `/status`. Fields that are not about ports are passed over.
    #[must_use]
    pub fn parse(status: &str) -> Self {
        #[derive(Deserialize)]
        struct Status {
            ports: Vec<PortUse>,
            #[serde(default)]
            peers_hidden: bool,
        }
        match serde_json::from_str(status) {
            Ok(Status { peers_hidden: true, .. }) => Self::Unknown(Cause::Hidden),
            Ok(Status { mut ports, .. }) => {
                ports.sort_by(|one, other| one.netns.cmp(&other.netns));
                Self::Known(ports)
            }
            Err(error) => Self::Unknown(Cause::NotRead(error.to_string())),
        }
    }

    /// The destinations of the namespace with this label, or the ports that are taken from all: at least one, else why there
    /// is none.
    pub fn of(&self, netns: &str) -> Result<&PortUse, Cause> {
        match self {
            Self::Known(ports) => {
                let place = ports.partition_point(|ports| ports.netns.as_str() < netns);
                let found = ports.get(place).filter(|ports| ports.netns == netns);
                found.filter(|found| !found.destinations.is_empty() || found.bound > 0).ok_or(Cause::NoneCounted)
            }
            Self::Unknown(cause) => Err(cause.clone()),
        }
    }
}

impl PortUse {
    /// What one that was not counted apart may use, if that is more than the busiest of the others uses.
    #[must_use]
    pub fn uncounted_at_most(&self) -> Option<u32> {
        let busiest = self.destinations.first().map_or(0, |busiest| busiest.used);
        self.incomplete.as_ref().map(|incomplete| incomplete.used_at_most).filter(|at_most| *at_most > busiest)
    }
}

/// How a running agent is asked for all it knows: it tells addresses of peers on its own loopback only, which in
/// Kubernetes is its pod's.
pub const ASK: &str = "--from http://127.0.0.1:9795 on its host, in Kubernetes inside its pod (kubectl exec) or through \
    kubectl port-forward";

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MetricsAlone => write!(
                f,
                "/metrics does not name the destination: a running agent does ({ASK}), and a look of this command's own \
                 (--own).",
            ),
            Self::NotServed(why) => {
                write!(f, "The agent's /status would name the destination, but could not be fetched ({why}).")
            }
            Self::NotRead(why) => write!(
                f,
                "The agent's /status does not name the destination as this version reads it ({why}): is the agent older?"
            ),
            Self::Hidden => {
                write!(f, "The agent's /status names destinations only to clients on its own loopback: {ASK}.")
            }
            Self::NoneCounted => f.write_str("No walk over this namespace has counted a destination's ports by now."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/status` of an agent on which one destination uses 90 ports and another 28.
    const STATUS: &str = r#"{ "up_seconds": 1.5, "ports": [{
        "netns": "7", "range": [40000, 40099], "ports": 100, "used": 90, "age_seconds": 0.5, "incomplete": null,
        "destinations": [
            { "source": "192.0.2.99", "destination": "192.0.2.1:80", "used": 90, "time_wait": 80 },
            { "source": "2001:db8::9", "destination": "[2001:db8::1]:443", "used": 28, "time_wait": 0 }
        ]
    }] }"#;

    #[test]
    fn destinations_are_those_of_their_namespace() {
        let known = Destinations::parse(STATUS);
        let found = known.of("7").unwrap();
        let seen: Vec<_> = found.destinations.iter().map(|of| (of.destination.to_string(), of.used)).collect();
        assert_eq!(seen, [("192.0.2.1:80".to_owned(), 90), ("[2001:db8::1]:443".to_owned(), 28)]);
        assert_eq!((found.destinations[0].source, found.destinations[0].time_wait), ([192, 0, 2, 99].into(), 80));
        assert_eq!(known.of("host"), Err(Cause::NoneCounted));
    }

    #[test]
    fn one_without_room_is_told_if_it_may_be_the_busiest() {
        let at_most = |used_at_most: u32| {
            let incomplete = format!("{{ \"sockets\": 600, \"used_at_most\": {used_at_most} }}");
            let known = Destinations::parse(&STATUS.replace("null", &incomplete));
            known.of("7").unwrap().uncounted_at_most()
        };
        assert_eq!([at_most(1), at_most(90), at_most(91)], [None, None, Some(91)]);
        assert_eq!(Destinations::parse(STATUS).of("7").unwrap().uncounted_at_most(), None);
    }

    #[test]
    fn a_walk_that_found_none_names_none() {
        let empty = r#"{ "ports": [{ "netns": "7", "destinations": [] }] }"#;
        for status in [empty, r#"{ "ports": [] }"#] {
            assert_eq!(Destinations::parse(status).of("7"), Err(Cause::NoneCounted), "{status}");
        }
    }

    #[test]
    fn an_agent_elsewhere_names_no_peer() {
        let hidden = STATUS.replacen("{ ", "{ \"peers_hidden\": true, ", 1);
        assert_eq!(Destinations::parse(&hidden).of("7"), Err(Cause::Hidden));
        let shown = STATUS.replacen("{ ", "{ \"peers_hidden\": false, ", 1);
        assert!(Destinations::parse(&shown).of("7").is_ok());
    }

    #[test]
    fn what_cannot_be_read_is_a_cause_and_no_error() {
        let without = |field: &str| STATUS.replace(field, "other");
        for (text, part) in [
            ("{}", "missing field `ports`"),
            (&without("destinations"), "missing field `destinations`"),
            (&without("time_wait"), "missing field `time_wait`"),
            (&without("192.0.2.1:80"), "invalid socket address"),
            ("<!doctype html>", "expected value"),
            ("", "EOF"),
        ] {
            let Err(Cause::NotRead(why)) = Destinations::parse(text).of("7") else { panic!("{text}") };
            assert!(why.contains(part), "{text}: {why}");
        }
        assert_eq!(Destinations::default().of("7"), Err(Cause::MetricsAlone));
    }
}
