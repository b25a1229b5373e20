//! Several sockets that listen on one address: each queue is judged by its own limit.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::netns::Netns;
use crate::lab::rungs::Signal;
use crate::lab::setting::agent_command;
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::{equal, until};

const PORT: u16 = 8131;
const LONG: i32 = 64;
const SHORT: i32 = 4;
/// Three quarters of the long queue, ten times the short one.
const WAITING: u32 = 50;
const LIMIT: Duration = Duration::from_secs(10);

/// How two sockets come to listen on one address.
#[derive(Clone, Copy, Debug)]
enum Group {
    ReusePort,
    Devices,
}

impl Group {
    fn open(self, netns: &Netns, device: &str, address: SocketAddr, backlog: i32) -> Listener {
        match self {
            Self::ReusePort => Listener::open_shared(netns, address, backlog),
            Self::Devices => Listener::open_on(netns, device, address, backlog),
        }
    }
}

/// The socket with the long queue held 50 of 65 for a while; the other never held any.
#[test]
fn the_peak_of_one_socket_is_held_against_its_own_limit() {
    let _lab = Lab::enter(&[Signal::ListenerPass]);
    let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)), SocketAddr::from((Ipv6Addr::LOCALHOST, PORT))];
    for (group, to) in [Group::ReusePort, Group::Devices].into_iter().flat_map(|group| addresses.map(|to| (group, to)))
    {
        let netns = Netns::single();
        assert!(
            netns.command("ip", &["link", "add", "other", "type", "veth", "peer", "name", "peer"]).status.success()
        );
        let inode = netns.inode();
        let labels = [("netns", inode.as_str()), ("port", "8131")];
        let agent = Agent::start();
        let any = SocketAddr::new(
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() },
            PORT,
        );
        let long = group.open(&netns, "lo", any, LONG);
        let clients = Client::connect_many(&netns, to, WAITING as usize);
        let gauge = |name, value: u32| {
            until(&format!("{name} of {group:?} {to}"), LIMIT, || {
                let seen = agent.scrape().one(name, &labels)?;
                equal(name, &seen, &f64::from(value))
            });
        };
        gauge("tracer_tcp_accept_queue_length", WAITING);
        let _short = group.open(&netns, "other", any, SHORT);
        gauge("tracer_tcp_listener_sockets", 2);
        while long.accept().is_some() {}
        drop(clients);
        // Of queues that are empty the short one is the first to fill.
        gauge("tracer_tcp_accept_queue_length", 0);
        gauge("tracer_tcp_accept_queue_limit", SHORT.unsigned_abs());
        gauge("tracer_tcp_accept_queue_peak", WAITING);
        gauge("tracer_tcp_accept_queue_peak_limit", LONG.unsigned_abs());
        assert_eq!(findings(&agent, &inode), Vec::<Value>::new(), "{group:?} {to}");
    }
}

/// What `tracer advise` says of accept queues in this namespace.
fn findings(agent: &Agent, inode: &str) -> Vec<Value> {
    let mut command = agent_command();
    command.args(["advise", "--output", "json", "--from", &agent.url()]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let advice: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = advice["findings"].as_array().unwrap().iter();
    let of_queues = |finding: &&Value| finding["rule"].as_str().is_some_and(|rule| rule.starts_with("accept_queue_"));
    findings.filter(of_queues).filter(|finding| finding["subject"]["netns"] == inode).cloned().collect()
}
