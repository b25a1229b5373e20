//! Clients that crowd the HTTP server: those that connect and say nothing, say it byte by byte, or read no answer.
//! And an agent that has run out of descriptors: a scrape is whole or refused.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::herd::Herd;
use crate::lab::netns::Netns;
use crate::lab::setting::{is_slow, patient};
use crate::lab::wait::until;

const LISTENERS: u16 = 5_000;
const PASS_INTERVAL: Duration = Duration::from_millis(200);
/// The acceptance's bound on a probe. Others use this machine as well, so it is the fastest that must keep to it; that
/// probes wait for no reading shows beside scrapes, which do.
const PROBE_MAX: Duration = Duration::from_millis(100);
/// Of the 128 MiB that manifests and unit give, the part that is for agent and maps.
const MEMORY_MAX: f64 = 96.0 * 1024.0 * 1024.0;

/// Clients of one kind, which stay as long as the value.
fn crowd(agent: &Agent, size: usize, first: &[u8]) -> Vec<TcpStream> {
    let address = agent.url().strip_prefix("http://").unwrap().to_owned();
    let connect = |_| {
        let mut stream = TcpStream::connect(&address).unwrap();
        // One that had to give way takes no more.
        let _ = stream.write_all(first);
        stream
    };
    (0..size).map(connect).collect()
}

fn time(agent: &Agent, path: &str) -> Duration {
    let begin = Instant::now();
    let (code, _) = agent.get(path).unwrap();
    assert_eq!(code, 200, "{path}");
    begin.elapsed()
}

/// The middle one: others use this machine as well, and the clients take their share of it.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn scrapes(agent: &Agent) -> Vec<Duration> {
    (0..5).map(|_| time(agent, "/metrics")).collect()
}

/// Fails unless scrapes in a crowd take at most twice their time alone, the quickest in the crowd beside the slowest alone.
fn assert_no_slower(crowd: &[Duration], alone: &[Duration]) {
    assert!(
        crowd.iter().min() <= alone.iter().max().map(|alone| *alone * 2).as_ref(),
        "{crowd:?} in the crowd, {alone:?} alone"
    );
}

#[test]
fn a_crowd_holds_up_neither_probes_nor_scrapes() {
    let _lab = Lab::enter(&[]);
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits }).unwrap();
    let netns = Netns::single();
    let herd = Herd::start(&netns, Ipv4Addr::LOCALHOST, 10_000, LISTENERS, 5);
    let agent = Agent::with(PASS_INTERVAL, &[]);
    until("rows of all listeners", patient(Duration::from_secs(30)), || {
        let bytes = agent.scrape().bytes();
        if bytes > usize::from(LISTENERS) * 1000 { Ok(()) } else { Err(format!("{bytes} bytes")) }
    });
    let bytes = agent.scrape().bytes();
    let alone = scrapes(&agent);
    let idle = crowd(&agent, 1000, b"");
    let unread = crowd(&agent, 200, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut slow = crowd(&agent, 1000, b"G");
    let (mut probes, mut crowded) = (Vec::new(), Vec::new());
    for byte in b"ET /me" {
        for stream in &mut slow {
            let _ = stream.write_all(&[*byte]);
        }
        probes.extend(["/healthz", "/readyz"].map(|path| time(&agent, path)));
        crowded.push(time(&agent, "/metrics"));
    }
    crowded.extend(scrapes(&agent));
    let fastest = probes.iter().min().copied().unwrap();
    let (probe, scrape) = (median(probes), median(crowded.clone()));
    let peak = agent.peak_memory_bytes();
    println!(
        "{bytes} bytes: {alone:?} alone, {crowded:?} in the crowd; probes {fastest:?}, {probe:?}; peak {peak} bytes"
    );
    assert!(probe < scrape, "a probe takes {probe:?}, as long as a scrape");
    assert_no_slower(&crowded, &alone);
    if !is_slow() {
        assert!(fastest <= PROBE_MAX, "each probe took {fastest:?} at least");
    }
    assert!(peak <= MEMORY_MAX, "{peak} bytes");
    let refused = agent.scrape();
    assert!(refused.sum("tracer_http_refused_total", &[("reason", "idle")]) > 1000);
    assert_eq!(refused.sum("tracer_http_refused_total", &[("reason", "failed")]), 0);
    drop((idle, unread, slow, herd));
    agent.assert_sound();
}

#[test]
fn a_scrape_without_descriptors_is_refused_and_comes_back_whole() {
    let _lab = Lab::enter(&[]);
    let agent = Agent::start();
    agent.await_two_passes();
    let rows = agent.scrape().len();
    // The hard limit stays: who lowers it may not be allowed to raise it again.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before = prlimit(Some(agent.pid()), Resource::Nofile, Rlimit { current: Some(4096), maximum }).unwrap();
    // Every number below what is open: a connection can be accepted, and after it nothing opened. In the middle of a pass
    // more is open than at a scrape, which then finds room.
    let cause = until("a scrape without descriptors", Duration::from_secs(10), || {
        let directory = format!("/proc/{}/fd", agent.pid().as_raw_nonzero());
        let lowest_free = (0..4096).find(|fd| !std::path::Path::new(&format!("{directory}/{fd}")).exists());
        let short = Rlimit { current: Some(lowest_free.unwrap() + 3), maximum };
        prlimit(Some(agent.pid()), Resource::Nofile, short).unwrap();
        match agent.get("/metrics").unwrap() {
            (503, cause) => Ok(cause),
            (code, text) => Err(format!("{code} with {} bytes below {lowest_free:?}", text.len())),
        }
    });
    assert!(cause.contains("EMFILE") && cause.contains("ulimit -n"), "{cause}");
    assert_eq!(agent.get("/healthz").unwrap().0, 200);
    prlimit(Some(agent.pid()), Resource::Nofile, before).unwrap();
    let scrape = agent.scrape();
    assert!(scrape.len() >= rows, "{} rows, {rows} before", scrape.len());
    assert_eq!(scrape.sum("tracer_http_refused_total", &[("reason", "failed")]), 1);
    agent.await_log("a scrape was refused");
}
