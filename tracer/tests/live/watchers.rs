//! Commands that take what they show from the running agent: the same as an instance of their own would show, whoever else
//! watches, and to an end once nobody looks.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Signal as Sent, kill_process};
use serde_json::Value;
use tracer::events::recording::{Frame, Reader};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::memory::MemoryCgroup;
use crate::lab::netns::Netns;
use crate::lab::own_process_name;
use crate::lab::rungs::Signal;
use crate::lab::setting::agent_binary;
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::{equal, until};
use crate::lab::watch::{Seen, Watching};

const PORT: u16 = 8140;
const CLOSED: u16 = 8141;
const BACKLOG: i32 = 5;
const LIMIT: Duration = Duration::from_secs(10);
const PASS_INTERVAL: Duration = Duration::from_millis(200);
/// What the agent and its maps may take of the 128 MiB that they have.
const MEMORY_MAX: f64 = 96.0 * 1024.0 * 1024.0;

/// Events in an order of their own: each instance has its own clock readings, and its own order of what several CPUs tell.
fn without_time(seen: &Seen) -> Vec<String> {
    let mut events: Vec<String> = seen
        .events
        .iter()
        .map(|event| {
            let mut event = event.clone();
            // Two programs at one hook do not look at the queues in the same moment.
            event.as_object_mut().unwrap().retain(|field, _| field != "time" && !field.contains("queue"));
            event.to_string()
        })
        .collect();
    events.sort();
    events
}

fn refused_connects(netns: &Netns, count: usize) {
    let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, CLOSED));
    for _ in 0..count {
        assert_eq!(Client::connect(netns, closed).outcome(LIMIT), Err(Errno::CONNREFUSED));
    }
}

#[test]
fn the_agent_shows_what_an_instance_of_its_own_shows() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::Connections, Signal::Resets]);
    let netns = Netns::single();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let _older = Listener::open(&netns, address, BACKLOG);
    let agent = Agent::start();
    agent.await_two_passes();
    let flags = ["--kind", "drop,connect,reset,listen", "--netns", netns.name()];
    let [of_agent, own] = [Watching::agent(&agent, &flags), Watching::start(&flags)];
    let mut clients = Client::connect_many(&netns, address, 12);
    refused_connects(&netns, 3);
    drop(Listener::open(&netns, SocketAddr::from((Ipv4Addr::LOCALHOST, PORT + 2)), BACKLOG));
    std::thread::sleep(Duration::from_secs(1));
    clients.retain_mut(|client| client.result() == Some(Ok(())));
    let [of_agent, own] = [of_agent.end(), own.end()];
    assert_eq!(without_time(&of_agent), without_time(&own), "{:?} and {:?}", of_agent.said, own.said);
    let is = |event: &&Value, kind: &str| event["kind"] == kind;
    for (kind, at_least) in [("drop", 1), ("connect", 3), ("listen", 2)] {
        assert!(of_agent.events.iter().filter(|event| is(event, kind)).count() >= at_least, "{kind}");
    }
    let process = own_process_name();
    assert!(of_agent.events.iter().filter(|event| is(event, "drop")).all(|drop| drop["process"] == process.as_str()));
    assert_eq!((of_agent.number("lost"), of_agent.number("shown")), (0, own.number("shown")));
    // What it may not look at is the machine's affair.
    let is_fault = |line: &str| line.contains("WARN") && !line.contains("reason=\"denied\"");
    assert!(!agent.log().lines().any(is_fault), "{}", agent.log());
}

#[test]
fn a_stuck_watcher_loses_and_nobody_else() {
    const CONNECTS: usize = 6000;
    let _lab = Lab::enter(&[Signal::Connections, Signal::Resets]);
    let netns = Netns::single();
    let cgroup = MemoryCgroup::make();
    let agent = Agent::confined(cgroup.as_ref(), PASS_INTERVAL, &["--rate-limit", "0"]);
    let flags = ["--kind", "connect,reset", "--netns", netns.name()];
    let watching = [(); 2].map(|()| Watching::agent(&agent, &flags));
    let mut stuck = UnixStream::connect(agent.socket()).unwrap();
    stuck.write_all(&u64::MAX.to_le_bytes()).unwrap();
    until("three watchers", LIMIT, || equal("watchers", &agent.scrape().sum("tracer_event_watchers", &[]), &3));
    assert_eq!(agent.status()["event_watchers"]["watching"], 3);
    let connects = |watching: &Watching| watching.events().iter().filter(|event| event["kind"] == "connect").count();
    // As fast as those that read can follow.
    for done in (0..CONNECTS).step_by(500) {
        refused_connects(&netns, 500);
        for watching in &watching {
            until("what was made so far", LIMIT, || equal("connects", &connects(watching), &(done + 500)));
        }
    }
    until("losses of the stuck one", LIMIT, || match agent.scrape().sum("tracer_events_unwatched_total", &[]) {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    });
    for watching in watching {
        let seen = watching.end();
        assert_eq!(seen.events.iter().filter(|event| event["kind"] == "connect").count(), CONNECTS, "{:?}", seen.said);
        assert_eq!(seen.number("lost"), 0, "{:?}", seen.said);
    }
    // What it lost is said to it as well.
    stuck.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(rest_of(stuck) > 0);
    until("no watcher", LIMIT, || equal("watchers", &agent.scrape().sum("tracer_event_watchers", &[]), &0));
    let peak = agent.peak_memory_bytes();
    println!("{peak} bytes with a stuck watcher");
    assert!(peak <= MEMORY_MAX, "{peak} bytes");
    agent.assert_sound();
}

/// Reads a stream to its end; what its last frame says of queues.
fn rest_of(stream: UnixStream) -> u64 {
    let mut input = std::io::BufReader::new(stream);
    let mut line = Vec::new();
    std::io::BufRead::read_until(&mut input, b'\n', &mut line).unwrap();
    let (_, mut reader) = Reader::new(input).unwrap();
    loop {
        match reader.next_frame().unwrap() {
            Frame::End(end) => return end.losses.iter().map(|loss| loss.queue).sum(),
            Frame::Cut(at) => panic!("no end after {at} bytes"),
            Frame::Record(_) | Frame::Name(_) => {}
        }
    }
}

#[test]
fn places_are_few_and_the_socket_is_roots_alone() {
    let _lab = Lab::enter(&[]);
    let agent = Agent::start();
    let path = agent.socket();
    let path = Path::new(&path);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(path), mode(path.parent().unwrap())), (0o600, 0o700));
    let held: Vec<_> = (0..8).map(|_| UnixStream::connect(path).unwrap()).collect();
    let refusal = || {
        let mut line = String::new();
        UnixStream::connect(path).unwrap().read_to_string(&mut line).unwrap();
        line
    };
    until("a refusal", LIMIT, || if refusal().contains("as many commands") { Ok(()) } else { Err("none".into()) });
    let mut command = Command::new(agent_binary());
    let output = command.args(["events", "--duration", "1s", "--socket"]).arg(path).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(69) && said.contains("as many commands as may do so"), "{said}");
    drop(held);
    Watching::agent(&agent, &["--kind", "reset"]).end();
    agent.terminate();
    assert!(!path.exists(), "the socket stays");
}

/// Nothing is printed meanwhile, so no write tells.
#[test]
fn it_ends_when_nobody_looks() {
    let _lab = Lab::enter(&[]);
    let agent = Agent::start();
    let quiet = ["--kind", "synack", "--port", "1"];
    for of_agent in [true, false] {
        let start = || if of_agent { Watching::agent(&agent, &quiet) } else { Watching::start(&quiet) };
        let begin = |watching: &Watching| {
            // No terminal is there, so that it ends in its own time at the latest.
            assert!(watching.said().iter().any(|line| line.contains("or 10m (--duration)")), "{:?}", watching.said());
            Instant::now()
        };
        let mut hung_up = start();
        let began = begin(&hung_up);
        kill_process(hung_up.pid(), Sent::HUP).unwrap();
        hung_up.exit();
        let took = began.elapsed();
        assert!(took < LIMIT, "{took:?}");
        let mut deserted = Watching::launch_quiet(of_agent.then_some(&agent), &quiet);
        deserted.desert();
        assert!(deserted.exit().success());
    }
    until("no watcher", LIMIT, || equal("watchers", &agent.scrape().sum("tracer_event_watchers", &[]), &0));
}

/// Where an agent serves by default, `advise` and `top` ask it.
#[test]
fn advice_and_tables_are_the_agents() {
    let _lab = Lab::enter(&[]);
    let netns = Netns::single();
    let agent = Agent::start();
    agent.await_pass();
    let text = agent.get("/metrics").unwrap().1;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    let outputs = netns.run(|| {
        let server = TcpListener::bind("127.0.0.1:9795").unwrap();
        std::thread::spawn(move || {
            for stream in server.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream
                    .read(&mut [0; 1024])
                    .and_then(|read| if read > 0 { stream.write_all(answer.as_bytes()) } else { Ok(()) });
            }
        });
        let said = |args: &[&str]| {
            let output = Command::new(agent_binary()).args(args).output().unwrap();
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        };
        // Anybody may have bound the port: without the socket, which is root's, it is nobody's agent.
        let stranger = said(&["top", "--once"]);
        let _socket = OwnSocket::bind("/run/tracer/9795.sock");
        [stranger, said(&["advise"]), said(&["top", "--once"])]
    });
    let asks_agent = outputs.each_ref().map(|said| said.contains("the agent at http://127.0.0.1:9795"));
    assert_eq!(asks_agent, [false, true, true], "{outputs:#?}");
}

/// A socket where an agent has one; the file goes with it.
struct OwnSocket {
    path: &'static str,
    _listener: UnixListener,
}

impl OwnSocket {
    fn bind(path: &'static str) -> Self {
        Self { path, _listener: UnixListener::bind(path).unwrap() }
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        std::fs::remove_file(self.path).unwrap();
    }
}
