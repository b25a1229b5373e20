//! `tracer events` on the running kernel: each experiment is shown as it happens, as often as the kernel counts
//! it, and what is lost on the way is said.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use rustix::io::Errno;
use serde_json::Value;

use crate::lab::counters::Watch;
use crate::lab::firewall::Firewall;
use crate::lab::load::{Connection, FirstClose, open_and_close};
use crate::lab::machine::machine;
use crate::lab::netns::{CLIENT_V4, CLIENT_V6, Netns, Pair, SERVER_V4, SERVER_V6};
use crate::lab::raw::{ACK, RawSender, spoofed};
use crate::lab::rungs::{Drops, Signal, resets_have_reasons};
use crate::lab::setting::{agent_command, patient};
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::{equal, until};
use crate::lab::watch::{Seen, Watching};
use crate::lab::{Lab, own_process_name};

const PORT: u16 = 8120;
const LISTENS: u16 = 8121;
const BACKLOG: i32 = 5;
const CLIENTS: usize = 20;
const LIMIT: Duration = Duration::from_secs(10);
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A connection over loopback, both ends.
const TRANSITIONS: u64 = 10;

fn of<'a>(seen: &'a Seen, kind: &str) -> Vec<&'a Value> {
    seen.events.iter().filter(|event| event["kind"] == kind).collect()
}

/// Fills the queue, lets the rest be dropped, and ends those that would come again.
fn overflow(netns: &Netns, to: SocketAddr, watch: &Watch<'_>) -> Vec<Client> {
    let mut clients = Client::connect_many(netns, to, CLIENTS);
    until("drops", LIMIT, || match watch.delta("ListenDrops") {
        // All but six. How often they come again is a slow machine's own affair.
        drops if drops >= 14 => Ok(()),
        drops => Err(format!("ListenDrops {drops}")),
    });
    clients.retain_mut(|client| client.result() == Some(Ok(())));
    clients
}

#[track_caller]
fn assert_drop(event: &Value, netns: &Netns, process: Option<&str>) {
    let expected = [
        ("netns", Value::from(netns.inode())),
        ("netns_name", netns.name().into()),
        ("state", "LISTEN".into()),
        ("local_address", "127.0.0.1".into()),
        ("local_port", PORT.into()),
        ("queue_length", (BACKLOG + 1).into()),
        ("queue_limit", BACKLOG.into()),
    ];
    for (field, value) in expected {
        assert_eq!(event[field], value, "{field}: {event}");
    }
    // Where SYNs come slowly, some are let in before the queue is full, and then fail at their last ACK.
    let reasons = ["accept_queue_full_syn", "accept_queue_full_ack"];
    assert!(event["reason"].as_str().is_some_and(|reason| reasons.contains(&reason)), "{event}");
    assert_eq!(event["process"].as_str(), process, "{event}");
}

fn every_drop_is_shown(listens_before: bool) {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let address = SocketAddr::new(LOCALHOST, PORT);
    let listener = listens_before.then(|| Listener::open(&netns, address, BACKLOG));
    let watch = Watch::from_now(&netns);
    let watching = Watching::start(&["--kind", "drop", "--netns", netns.name()]);
    let rung = watching.rungs.drops;
    let _listener = listener.unwrap_or_else(|| Listener::open(&netns, address, BACKLOG));
    let _clients = overflow(&netns, address, &watch);
    let drops = watch.delta("ListenDrops");
    let seen = watching.end();
    if rung == Drops::Totals {
        assert!(seen.events.is_empty());
        assert!(seen.said.iter().any(|line| line.starts_with("tracer: no drop events here")), "{:?}", seen.said);
        return;
    }
    assert_eq!((of(&seen, "drop").len() as u64, seen.events.len() as u64), (drops, drops), "{}", seen.summary());
    // Before 5.11 no walk tells whose a listener is that is older than the watch.
    let is_known = !listens_before || machine().kernel >= (5, 11, 0);
    let process = own_process_name();
    for event in &seen.events {
        assert_drop(event, &netns, is_known.then_some(process.as_str()));
    }
    assert!(seen.summary().starts_with(&format!("{drops} shown (drop {drops}), ")), "{}", seen.summary());
    assert_eq!(seen.number("lost"), 0);
}

#[test]
fn every_drop_of_a_listener_that_was_there() {
    every_drop_is_shown(true);
}

#[test]
fn every_drop_of_a_listener_that_opens_meanwhile() {
    every_drop_is_shown(false);
}

#[test]
fn failed_connects_and_the_resets_they_meet() {
    let _lab = Lab::enter(&[Signal::Connections, Signal::Resets]);
    let pair = Pair::new();
    let to = SocketAddr::from((SERVER_V4, PORT));
    let watching = Watching::start(&["--kind", "connect,reset", "--netns", &pair.client.inode()]);
    let at_server = Watching::start(&["--kind", "reset", "--netns", pair.server.name()]);
    for _ in 0..3 {
        assert_eq!(Client::connect(&pair.client, to).outcome(LIMIT), Err(Errno::CONNREFUSED));
    }
    let seen = watching.end();
    for event in of(&seen, "connect") {
        assert_eq!((&event["result"], &event["errno"], &event["retries"]), (&"refused".into(), &111.into(), &0.into()));
        assert_eq!((&event["remote_address"], &event["remote_port"]), (&SERVER_V4.to_string().into(), &PORT.into()));
        // It was given back by then, and is told all the same.
        assert!(event["local_port"].as_u64().is_some_and(|port| port > 0), "{event}");
    }
    for event in of(&seen, "reset") {
        assert_eq!((&event["direction"], &event["reason"]), (&"received".into(), &"refused".into()), "{event}");
    }
    assert_eq!((of(&seen, "connect").len(), of(&seen, "reset").len()), (3, 3), "{}", seen.summary());
    let seen = at_server.end();
    let sent = if resets_have_reasons(machine()) { 3 } else { 0 };
    let is_sent = |event: &&Value| event["direction"] == "sent" && event["reason"] == "no_socket";
    assert_eq!((seen.events.iter().filter(is_sent).count(), seen.events.len()), (sent, sent), "{:?}", seen.events);
}

/// A SYN for a closed port meets no socket, and a lone ACK for a listener meets only that: the segment tells both ends.
#[test]
fn resets_that_answer_a_segment_show_both_its_ends() {
    let _lab = Lab::enter(&[Signal::Resets]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.server);
    let listener = Listener::open(&pair.server, SocketAddr::from((Ipv4Addr::UNSPECIFIED, LISTENS)), BACKLOG);
    let watching = Watching::start(&["--kind", "reset", "--netns", pair.server.name()]);
    for server in [SERVER_V4, SERVER_V6] {
        let mut client = Client::connect(&pair.client, SocketAddr::from((server, PORT)));
        assert_eq!(client.outcome(LIMIT), Err(Errno::CONNREFUSED));
    }
    let IpAddr::V4(server) = SERVER_V4 else { unreachable!("the name says so") };
    RawSender::open(&pair.client).send(spoofed(1), SocketAddrV4::new(server, LISTENS), ACK);
    until("three resets", LIMIT, || equal("OutRsts", &watch.delta("OutRsts"), &3));
    drop(listener);
    // The tracepoint of a reset stands before its counter, and the end shows all that was seen before.
    let seen = watching.end().events;
    if !resets_have_reasons(machine()) {
        // The tracepoint fires for sockets alone: here for the listener, whose own end is all that it tells.
        let told = |event: &Value| (event["direction"].clone(), event["reason"].clone(), event["local_port"].clone());
        let listener = ("sent".into(), "unknown".into(), LISTENS.into());
        assert_eq!(seen.iter().map(told).collect::<Vec<_>>(), [listener], "{seen:?}");
        return;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    if machine().confidential {
        // No program may read the segment then, and where it met no socket nothing else tells the ends.
        let has_an_end = |event: &Value| ["local_address", "remote_address"].iter().any(|end| !event[end].is_null());
        assert!(!seen[..2].iter().any(has_an_end), "{seen:?}");
        assert_eq!(seen[2]["local_port"], LISTENS, "{seen:?}");
        return;
    }
    let ends = |event: &Value| {
        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        (text("local_address"), event["local_port"].as_u64(), text("remote_address"))
    };
    let expected = [(SERVER_V4, PORT, CLIENT_V4), (SERVER_V6, PORT, CLIENT_V6)];
    for (event, (server, port, client)) in seen.iter().zip(expected) {
        assert_eq!(ends(event), (server.to_string(), Some(port.into()), client.to_string()), "{event}");
        assert!(event["remote_port"].as_u64().is_some_and(|port| port > 0), "{event}");
    }
    let (from, stray) = (spoofed(1), &seen[2]);
    assert_eq!(ends(stray), (SERVER_V4.to_string(), Some(LISTENS.into()), from.ip().to_string()), "{stray}");
    assert_eq!(stray["remote_port"], from.port(), "{stray}");
}

#[test]
fn every_retransmitted_segment() {
    let _lab = Lab::enter(&[Signal::Retransmits]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.client);
    let to = SocketAddr::from((SERVER_V4, PORT));
    let listener = Listener::open(&pair.server, to, 16);
    let mut connection = Connection::open(&pair, &listener, to);
    let range = format!("{SERVER_V4}/32");
    let watching = Watching::start(&["--kind", "retransmit", "--netns", pair.client.name(), "--address", &range]);
    let firewall = Firewall::install(&pair.server, "input", "meta l4proto tcp drop");
    connection.client.write_all(b"lost").unwrap();
    until("retransmits", LIMIT, || match watch.delta("RetransSegs") {
        count if count >= 4 => Ok(()),
        count => Err(format!("RetransSegs {count}")),
    });
    drop(firewall);
    // The next time-out is seconds away by now, and must not come between the readings.
    connection.server.set_read_timeout(Some(patient(LIMIT))).unwrap();
    connection.server.read_exact(&mut [0; 4]).unwrap();
    let seen = watching.end();
    let segments = seen.events.iter().filter(|event| event["errno"].is_null());
    let segments: u64 = segments.map(|event| event["segments"].as_u64().unwrap()).sum();
    assert_eq!(segments, watch.delta("RetransSegs"), "{:?}", seen.events);
    let causes = |cause: &str| seen.events.iter().filter(|event| event["cause"] == cause).count() as u64;
    assert_eq!((causes("tail_loss_probe"), causes("rto")), (watch.delta("TCPLossProbes"), watch.delta("TCPTimeouts")));
    assert!(seen.events.iter().all(|event| event["role"] == "client" && event["remote_port"] == PORT));
}

#[test]
fn every_time_wait_overflow() {
    let _lab = Lab::enter(&[Signal::TimeWaitOverflows]);
    let netns = Netns::single();
    netns.set_tcp("tcp_max_tw_buckets", "4");
    let watch = Watch::from_now(&netns);
    let address = SocketAddr::new(LOCALHOST, PORT);
    let listener = Listener::open(&netns, address, BACKLOG);
    let watching = Watching::start(&["--kind", "time_wait", "--netns", netns.name()]);
    let are_confirmed = !watching.rungs.ladders[&Signal::TimeWaitOverflows].hooks.is_empty();
    open_and_close(&netns, &listener, address, 50, FirstClose::Client);
    let overflows = watch.delta("TCPTimeWaitOverflow");
    assert_eq!(overflows, 46);
    let seen = watching.end();
    assert!(seen.events.iter().all(|event| event["confirmed"] == are_confirmed), "{:?}", seen.events);
    let shown = seen.events.len() as u64;
    // A candidate may be the close that took the last room.
    assert!(shown == overflows || (!are_confirmed && shown == overflows + 1), "{shown} of {overflows}");
    assert!(seen.events.iter().all(|event| event["remote_port"] == PORT && event["local_port"].is_u64()));
}

#[test]
fn every_transition_on_request() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let netns = Netns::single();
    let address = SocketAddr::new(LOCALHOST, PORT);
    let port = PORT.to_string();
    let watching = Watching::start(&["--kind", "state", "--netns", netns.name(), "--port", &port]);
    let listener = Listener::open(&netns, address, BACKLOG);
    open_and_close(&netns, &listener, address, 1, FirstClose::Client);
    drop(listener);
    let seen = watching.end();
    let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    let mut found: Vec<_> = seen.events.iter().map(|event| (text(event, "old_state"), text(event, "state"))).collect();
    let mut expected = [
        ("CLOSE", "LISTEN"),
        ("CLOSE", "SYN_SENT"),
        ("LISTEN", "SYN_RECV"),
        ("SYN_SENT", "ESTABLISHED"),
        ("SYN_RECV", "ESTABLISHED"),
        ("ESTABLISHED", "FIN_WAIT1"),
        ("ESTABLISHED", "CLOSE_WAIT"),
        ("FIN_WAIT1", "FIN_WAIT2"),
        ("FIN_WAIT2", "CLOSE"),
        ("CLOSE_WAIT", "LAST_ACK"),
        ("LAST_ACK", "CLOSE"),
        ("LISTEN", "CLOSE"),
    ]
    .map(|(old, new)| (old.to_owned(), new.to_owned()));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    // The local port of a client is chosen after the first of its transitions.
    let ends = ["local_port", "remote_port"];
    let unknown = |event: &&Value| ends.iter().any(|end| event[end].is_null());
    let unknown: Vec<_> = seen.events.iter().filter(unknown).map(|event| text(event, "old_state")).collect();
    assert!(unknown.iter().all(|old| ["CLOSE", "LISTEN"].contains(&old.as_str())), "{unknown:?}");
}

/// Connects that are refused, one after the other.
fn refusals(netns: &Netns, count: usize) {
    for _ in 0..count {
        let to = SocketAddr::new(LOCALHOST, PORT);
        assert_eq!(Client::connect(netns, to).outcome(LIMIT), Err(Errno::CONNREFUSED));
    }
}

#[test]
fn it_ends_after_so_many_and_after_so_long() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let netns = Netns::single();
    let watching = Watching::start(&["--kind", "connect", "--netns", netns.name(), "--count", "2"]);
    refusals(&netns, 3);
    let seen = watching.await_end();
    assert_eq!((seen.events.len(), seen.number("shown")), (2, 2));

    let watching = Watching::start(&["--kind", "connect", "--netns", netns.name(), "--duration", "1s"]);
    refusals(&netns, 1);
    assert_eq!(watching.await_end().events.len(), 1);
}

#[test]
fn what_is_filtered_out_is_counted() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let netns = Netns::single();
    for filter in [["--port", "1"], ["--address", "10.0.0.0/8"], ["--process", "nobody*"], ["--pod", "a/b"]] {
        let watching = Watching::start(&[&["--kind", "connect"], &filter[..]].concat());
        refusals(&netns, 3);
        let seen = watching.end();
        assert!(seen.events.is_empty(), "{filter:?}: {:?}", seen.events);
        // The machine may have failures of its own.
        assert!(seen.summary().starts_with("0 shown, "), "{}", seen.summary());
        assert!(seen.number("filtered") >= 3, "{filter:?}: {}", seen.summary());
    }
}

#[test]
fn a_reader_that_stops_costs_events_which_are_counted() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let netns = Netns::single();
    let address = SocketAddr::new(LOCALHOST, PORT);
    let listener = Listener::open(&netns, address, BACKLOG);
    let mut watching = Watching::unread(&["--kind", "state", "--ring-bytes", "4096", "--netns", netns.name()]);
    // What a pipe holds is a few hundred lines.
    let connections: u16 = 300;
    open_and_close(&netns, &listener, address, connections.into(), FirstClose::Client);
    watching.read();
    let seen = watching.end();
    let happened = TRANSITIONS * u64::from(connections);
    let (shown, lost) = (seen.events.len() as u64, seen.number("lost"));
    assert!(shown > 0 && shown < happened && lost > 0, "{shown} shown: {}", seen.summary());
    assert!(shown + seen.number("filtered") + lost >= happened, "of {happened}: {}", seen.summary());
    let line = format!("tracer: lost state: ring {lost}, rate 0, decode 0");
    assert!(seen.said.contains(&line), "{:?}", seen.said);
    assert!(seen.said.iter().any(|line| line.contains("--ring-bytes")), "{:?}", seen.said);
}

#[test]
fn the_limit_of_the_rate_is_said() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let netns = Netns::single();
    let address = SocketAddr::new(LOCALHOST, PORT);
    let listener = Listener::open(&netns, address, BACKLOG);
    let watching = Watching::start(&["--kind", "state", "--rate-limit", "1", "--netns", netns.name()]);
    open_and_close(&netns, &listener, address, 20, FirstClose::Client);
    let seen = watching.end();
    let line = format!("tracer: lost state: ring 0, rate {}, decode 0", seen.number("lost"));
    assert!(seen.number("lost") > 0 && seen.said.contains(&line), "{:?}", seen.said);
}

#[test]
fn a_reader_that_left_ends_it_quietly() {
    let _lab = Lab::enter(&[Signal::Connections]);
    let netns = Netns::single();
    let mut watching = Watching::unread(&["--kind", "connect"]);
    watching.desert();
    refusals(&netns, 1);
    let seen = watching.await_end();
    assert!(seen.said.iter().all(|line| line.starts_with("tracer: watching ")), "{:?}", seen.said);
}

#[test]
fn a_recording_shows_again_what_was_shown() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::Connections]);
    let netns = Netns::single();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("watch.rec");
    let file = file.to_str().unwrap();
    let watch = Watch::from_now(&netns);
    let address = SocketAddr::new(LOCALHOST, PORT);
    let watching = Watching::start(&["--netns", netns.name(), "--record", file]);
    {
        let _listener = Listener::open(&netns, address, BACKLOG);
        let _clients = overflow(&netns, address, &watch);
    }
    refusals(&netns, 2);
    until("the last event", LIMIT, || {
        let refused = watching.events().iter().filter(|event| event["result"] == "refused").count();
        equal("refused", &refused, &2)
    });
    let seen = watching.end();
    let kinds = "drop,retransmit,synack,connect,time_wait,listen,reset";
    let replay = agent_command()
        .args(["replay", file, "--output", "json", "--kind", kinds, "--netns", netns.name()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&replay.stderr);
    assert!(replay.status.success(), "{said}");
    let replayed: Vec<Value> =
        String::from_utf8_lossy(&replay.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!seen.events.is_empty());
    assert_eq!(replayed, seen.events, "{said}");
    let shown = |summary: &str| summary.split(" filtered").next().unwrap().to_owned();
    assert!(said.contains(&shown(seen.summary())), "{said}\n{}", seen.summary());
}
