//! Which events are shown. Pure.
//!
//! Values of one filter are alternatives; filters add up. What an event does not tell, no filter on it lets pass.

use std::{convert::Infallible, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::{kind::EventKind, names::Origin};
use crate::pipeline::decode::{Endpoint, Event};

/// All filters; an empty list lets everything pass.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Kinds.
    pub kinds: Vec<EventKind>,
    /// Ports of either end.
    pub ports: Vec<u16>,
    /// Addresses of either end.
    pub addresses: Vec<Range>,
    /// Pods, by name or as namespace/name.
    pub pods: Vec<Pattern>,
    /// Processes that listen.
    pub processes: Vec<Pattern>,
    /// Network namespaces.
    pub namespaces: Vec<Netns>,
}

/// A range of addresses, or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range(IpNet);

impl FromStr for Range {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let one = text.parse::<IpAddr>().map(IpNet::from);
        one.or_else(|_| text.parse()).map(Self).map_err(|_| "write an address or a range, as 10.0.0.0/8 or fd00::/8")
    }
}

/// A name, or with a `*` at its end all that begin so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    is_prefix: bool,
}

impl FromStr for Pattern {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let prefix = text.strip_suffix('*');
        Ok(Self { text: prefix.unwrap_or(text).to_owned(), is_prefix: prefix.is_some() })
    }
}

impl Pattern {
    fn fits(&self, name: &str) -> bool {
        if self.is_prefix { name.starts_with(&self.text) } else { name == self.text }
    }

    fn fits_pod(&self, namespace: &str, pod: &str) -> bool {
        match self.text.split_once('/') {
            Some((wanted, rest)) => {
                wanted == namespace && Self { text: rest.to_owned(), is_prefix: self.is_prefix }.fits(pod)
            }
            None => self.fits(pod),
        }
    }
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Netns {
    /// The one of PID 1.
    Host,
    /// That with this inode number.
    Inode(u32),
    /// That with this name under /run/netns.
    Name(String),
}

impl FromStr for Netns {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match (text, text.parse()) {
            ("host", _) => Self::Host,
            (_, Ok(inode)) => Self::Inode(inode),
            _ => Self::Name(text.to_owned()),
        })
    }
}

impl Netns {
    fn is(&self, origin: &Origin<'_>) -> bool {
        match self {
            Self::Host => origin.namespace.is_some_and(|namespace| namespace.is_host),
            Self::Inode(inode) => origin.inode == *inode,
            Self::Name(name) => origin.namespace.is_some_and(|namespace| namespace.is_named(name)),
        }
    }
}

impl Filter {
    /// Whether an event of this origin is shown.
    #[must_use]
    pub fn passes(&self, event: &Event, origin: &Origin<'_>) -> bool {
        let ends = || event.local.iter().chain(&event.remote);
        self.has_kind(event)
            && any(&self.ports, |port| ends().any(|end| end.port == *port))
            && any(&self.addresses, |range| ends().any(|end| range.contains(end)))
            && any(&self.namespaces, |netns| netns.is(origin))
            && any(&self.processes, |pattern| origin.process.is_some_and(|process| pattern.fits(process)))
            && any(&self.pods, |pattern| {
                origin
                    .owner
                    .is_some_and(|owner| !owner.pod.is_empty() && pattern.fits_pod(&owner.namespace, &owner.pod))
            })
    }

    /// Whether events of this kind are shown at all.
    #[must_use]
    pub fn has_kind(&self, event: &Event) -> bool {
        any(&self.kinds, |kind| kind.wire() == event.detail.kind())
    }
}

impl Range {
    fn contains(self, end: &Endpoint) -> bool {
        self.0.contains(&end.address)
    }
}

fn any<T>(wanted: &[T], fits: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        events::names::Namespace,
        pipeline::{attribute::Owner, decode::Detail},
    };

    fn end(text: &str) -> Endpoint {
        let address: std::net::SocketAddr = text.parse().unwrap();
        Endpoint { address: address.ip(), port: address.port() }
    }

    fn event() -> Event {
        Event {
            time_ns: 0,
            netns: 1,
            netns_inum: 99,
            cgroup: 1,
            state: "LISTEN",
            local: Some(end("10.0.0.1:80")),
            remote: Some(end("[fd00::2]:4711")),
            detail: Detail::SynackRetransmit,
        }
    }

    fn list<T: FromStr>(texts: &[&str]) -> Vec<T> {
        texts.iter().map(|text| text.parse().ok().unwrap()).collect()
    }

    #[track_caller]
    fn check(filter: &Filter, expected: bool) {
        let owner = Owner { namespace: "shop".into(), pod: "web-0".into(), ..Owner::default() };
        let namespace = Namespace { inode: 99, is_host: false, name: "blue".into(), other_names: vec!["azure".into()] };
        let origin = Origin { inode: 99, namespace: Some(&namespace), owner: Some(&owner), process: Some("nginx") };
        assert_eq!(filter.passes(&event(), &origin), expected, "{filter:?}");
        // Of what is not known nothing fits.
        let needs_names = !(filter.pods.is_empty() && filter.processes.is_empty() && filter.namespaces.is_empty());
        assert_eq!(filter.passes(&event(), &Origin::default()), expected && !needs_names, "{filter:?}");
    }

    #[test]
    fn values_are_alternatives_and_filters_add_up() {
        check(&Filter::default(), true);
        check(&Filter { kinds: vec![EventKind::Drop, EventKind::Synack], ..Filter::default() }, true);
        check(&Filter { kinds: vec![EventKind::Drop], ..Filter::default() }, false);
        check(&Filter { ports: vec![1, 4711], ..Filter::default() }, true);
        check(&Filter { ports: vec![80], kinds: vec![EventKind::Drop], ..Filter::default() }, false);
        check(&Filter { ports: vec![81], ..Filter::default() }, false);
    }

    #[test]
    fn addresses_are_of_either_end_and_in_either_form() {
        for (range, expected) in
            [("10.0.0.1", true), ("10.0.0.0/31", true), ("fd00::/8", true), ("10.0.0.2", false), ("::/0", true)]
        {
            check(&Filter { addresses: list(&[range]), ..Filter::default() }, expected);
        }
        for wrong in ["10.0.0.0/33", "localhost", "", "10.0.0"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_fit_whole_or_by_their_beginning() {
        for (pod, expected) in [
            ("web-0", true),
            ("web", false),
            ("web*", true),
            ("shop/web-*", true),
            ("shop/web-0", true),
            ("other/web-0", false),
            ("*", true),
        ] {
            check(&Filter { pods: list(&[pod]), ..Filter::default() }, expected);
        }
        for (process, expected) in [("nginx", true), ("ng*", true), ("apache", false)] {
            check(&Filter { processes: list(&[process]), ..Filter::default() }, expected);
        }
    }

    #[test]
    fn a_namespace_is_its_name_or_its_number() {
        for (netns, expected) in
            [("blue", true), ("azure", true), ("99", true), ("98", false), ("host", false), ("red", false)]
        {
            check(&Filter { namespaces: list(&[netns]), ..Filter::default() }, expected);
        }
        let host = Namespace { is_host: true, ..Namespace::default() };
        let origin = Origin { namespace: Some(&host), ..Origin::default() };
        assert!(Filter { namespaces: list(&["host"]), ..Filter::default() }.passes(&event(), &origin));
    }
}
