//! `tracer advise` on the running kernel: the listener of an experiment is named with its numbers, and the
//! destination that used up the ports, from a running agent and from a look of the command's own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use serde_json::{Value, json};

use crate::lab::agent::{Agent, await_passes};
use crate::lab::counters::Watch;
use crate::lab::load::{FirstClose, open_and_close};
use crate::lab::machine::machine;
use crate::lab::netns::{CLIENT_V4, Netns, Pair, SERVER_V4};
use crate::lab::raw::RawSender;
use crate::lab::rungs::{Drops, Signal};
use crate::lab::setting::{agent_command, without};
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::until;
use crate::lab::{Lab, own_process_name};

const PORT: u16 = 8110;
const SOMAXCONN: u32 = 8;
const CLIENTS: usize = 20;
/// Clients that find no room come again after one second.
const DROPS_LIMIT: Duration = Duration::from_secs(5);
/// Ports that one destination uses up.
const RANGE: &str = "40000 40099";
const PORTS: usize = 100;
/// Walks keep to half of the passes' share of a core.
const WALK_LIMIT: Duration = Duration::from_secs(30);
/// Exit codes: where drops have no owner, a queue that is full is a risk.
const RISK: i32 = 1;
const BINDS: i32 = 2;

/// A namespace in which a backlog of 64 is clamped.
fn clamped() -> (Netns, Listener, SocketAddr) {
    let netns = Netns::single();
    netns.run(|| std::fs::write("/proc/sys/net/core/somaxconn", SOMAXCONN.to_string()).unwrap());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let listener = Listener::open(&netns, address, 64);
    (netns, listener, address)
}

fn command(args: &[&str]) -> Command {
    let mut command = agent_command();
    command.args(["advise", "--output", "json"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn advice(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(RISK | BINDS)), "{said}{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The finding about the listener of `netns`, with process, port and the numbers of the experiment. Before 5.11 no
/// walk tells whose a listener is that is older than the agent.
fn assert_names(advice: &Value, netns: &Netns, rung: Drops, drops: u64) {
    let findings = advice["findings"].as_array().unwrap();
    let inode = netns.inode();
    let finding = findings
        .iter()
        .find(|finding| finding["rule"] == "accept_queue_clamped" && finding["subject"]["netns"] == inode.as_str())
        .unwrap_or_else(|| panic!("no clamped listener in {inode}: {advice:#}"));
    let subject = &finding["subject"];
    let expected = [
        ("netns_name", netns.name().to_owned()),
        ("process", own_process_name()),
        ("address", Ipv4Addr::LOCALHOST.to_string()),
        ("port", PORT.to_string()),
    ];
    let knows_processes = machine().kernel >= (5, 11, 0);
    for (label, value) in expected.into_iter().filter(|(label, _)| knows_processes || *label != "process") {
        assert_eq!(subject[label], value.as_str(), "{label}: {finding:#}");
    }
    // On the lowest rung the kernel's count has no listener; the full queue shows all the same.
    let (severity, drops) = if rung == Drops::Totals { ("risk", 0) } else { ("binds", drops) };
    assert_eq!(finding["severity"], severity, "{finding:#}");
    let evidence = finding["evidence"].as_array().unwrap();
    let number = |source: &str| {
        let found = evidence.iter().find(|evidence| evidence["source"] == source);
        found.unwrap_or_else(|| panic!("no {source}: {finding:#}"))["value"].as_u64()
    };
    assert_eq!(number("tracer_tcp_accept_queue_limit"), Some(u64::from(SOMAXCONN)));
    assert_eq!(number("net.core.somaxconn"), Some(u64::from(SOMAXCONN)));
    assert_eq!(number("tracer_tcp_accept_queue_length"), Some(u64::from(SOMAXCONN) + 1));
    assert_eq!(number("tracer_tcp_listen_drops_total"), Some(drops));
    let raise = format!("ip netns exec {} sysctl -w net.core.somaxconn=1024", netns.name());
    let commands: Vec<_> = finding["remedy"].as_array().unwrap().iter().map(|step| &step["command"]).collect();
    assert!(commands.contains(&&Value::from(raise)), "{commands:?}");
}

/// Fills the queue, lets the rest be dropped, and ends those that would come again.
fn overflow(netns: &Netns, address: SocketAddr, watch: &Watch<'_>) -> Vec<Client> {
    let mut clients = Client::connect_many(netns, address, CLIENTS);
    let room = u64::from(SOMAXCONN) + 1;
    until("drops", DROPS_LIMIT, || match watch.delta("ListenDrops") {
        drops if drops >= CLIENTS as u64 - room => Ok(()),
        drops => Err(format!("ListenDrops {drops}")),
    });
    clients.retain_mut(|client| client.result() == Some(Ok(())));
    clients
}

#[test]
fn a_running_agent_names_the_clamped_listener() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let (netns, _listener, address) = clamped();
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let _clients = overflow(&netns, address, &watch);
    agent.await_two_passes();
    let output = command(&["--from", &agent.url()]).output().unwrap();
    assert_names(&advice(&output), &netns, agent.rungs().drops, watch.delta("ListenDrops"));
}

#[test]
fn a_look_of_its_own_names_the_clamped_listener() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let (netns, _listener, address) = clamped();
    let watch = Watch::from_now(&netns);
    let rung = Agent::start().rungs().drops;
    let flags: Vec<String> = without().into_iter().flat_map(|kind| ["--disable-hooks".to_owned(), kind]).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let child = command(&["--watch", "6s"]).args(flags).spawn().unwrap();
    // Loading takes a second or so, on slow machines more; then nothing but the look is under way.
    await_passes(&child);
    let _clients = overflow(&netns, address, &watch);
    let output = child.wait_with_output().unwrap();
    let advice = advice(&output);
    assert_names(&advice, &netns, rung, watch.delta("ListenDrops"));
    assert_eq!(advice["source"]["kind"], "snapshot");
    assert_eq!(advice["source"]["seconds"], 6);
}

/// A flood at a listener that asked for four places, beside one that asked for many and is left alone.
#[test]
fn the_listener_behind_syn_cookies_is_named_with_its_short_backlog() {
    let _lab = Lab::enter(&[Signal::ListenerPass]);
    let pair = Pair::new();
    let IpAddr::V4(server) = SERVER_V4 else { unreachable!("the name says so") };
    let flooded = Listener::open(&pair.server, SocketAddr::from((SERVER_V4, PORT)), 4);
    let _roomy = Listener::open(&pair.server, SocketAddr::from((SERVER_V4, PORT + 1)), 1024);
    let agent = Agent::start();
    RawSender::open(&pair.client).flood(SocketAddrV4::new(server, PORT), 40);
    agent.await_two_passes();
    let output = command(&["--from", &agent.url()]).output().unwrap();
    let (advice, inode) = (advice(&output), pair.server.inode());
    let of = |rule: &str| {
        let findings = advice["findings"].as_array().unwrap();
        let found = findings.iter().find(|found| found["rule"] == rule && found["subject"]["netns"] == inode.as_str());
        found.unwrap_or_else(|| panic!("no {rule}: {advice:#}")).clone()
    };
    let cookies = of("syn_cookies");
    assert_eq!(cookies["subject"]["port"], PORT.to_string(), "{cookies:#}");
    let steps = cookies["remedy"].to_string();
    assert!(steps.contains("asked for a short queue") && !steps.contains("more of the flood"), "{cookies:#}");
    drop(flooded);
}

/// Two namespaces, of which one has used up its ports towards a listener in the other: all are in `TIME_WAIT`, for a
/// minute.
fn exhausted() -> (Pair, Listener, SocketAddr) {
    let pair = Pair::new();
    pair.client.set_tcp("ip_local_port_range", RANGE);
    pair.client.set_tcp("tcp_tw_reuse", "0");
    let to = SocketAddr::from((SERVER_V4, PORT));
    let listener = Listener::open(&pair.server, to, 128);
    open_and_close(&pair.client, &listener, to, PORTS, FirstClose::Client);
    (pair, listener, to)
}

/// The finding about the ports of `netns`, with the destination that has them.
fn assert_names_destination(advice: &Value, netns: &Netns, severity: &str) {
    let findings = advice["findings"].as_array().unwrap();
    let inode = netns.inode();
    let finding = findings
        .iter()
        .find(|finding| finding["rule"] == "ephemeral_ports" && finding["subject"]["netns"] == inode.as_str())
        .unwrap_or_else(|| panic!("no ports in {inode}: {advice:#}"));
    assert_eq!(finding["severity"], severity, "{finding:#}");
    let evidence = finding["evidence"].as_array().unwrap();
    let named: Vec<_> = evidence.iter().filter(|evidence| evidence["source"] == "/status").collect();
    let expected = json!({
        "fact": format!("now to {SERVER_V4}:{PORT}"),
        "source": "/status",
        "value": PORTS,
        "unit": "ports",
        "destination": { "address": SERVER_V4, "port": PORT, "from": CLIENT_V4, "time_wait": PORTS },
    });
    assert_eq!(named, [&expected], "{finding:#}");
}

#[test]
fn a_running_agent_names_the_destination_that_used_up_the_ports() {
    let _lab = Lab::enter(&[Signal::EphemeralPorts, Signal::Connections]);
    let agent = Agent::start();
    let (pair, _listener, to) = exhausted();
    assert_eq!(Client::connect(&pair.client, to).outcome(WALK_LIMIT), Err(Errno::ADDRNOTAVAIL));
    let inode = pair.client.inode();
    until("a walk that found them all", WALK_LIMIT, || {
        let ports = agent.status()["ports"].clone();
        let all = ports.as_array().unwrap().iter().any(|row| row["netns"] == inode.as_str() && row["used"] == PORTS);
        if all { Ok(()) } else { Err(format!("{ports:#}")) }
    });
    let output = command(&["--from", &agent.url()]).output().unwrap();
    assert_names_destination(&advice(&output), &pair.client, "binds");
}

#[test]
fn a_look_of_its_own_names_the_destination_that_used_up_the_ports() {
    let _lab = Lab::enter(&[Signal::EphemeralPorts]);
    let (pair, _listener, _) = exhausted();
    let flags: Vec<String> = without().into_iter().flat_map(|kind| ["--disable-hooks".to_owned(), kind]).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let output = command(&["--watch", "4s"]).args(flags).output().unwrap();
    // No connect() failed while it looked.
    assert_names_destination(&advice(&output), &pair.client, "risk");
}
