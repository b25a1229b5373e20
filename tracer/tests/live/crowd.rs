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
/// The acceptance's bound on a probe; twice the time alone is that on a scrape.
const PROBE_MAX: Duration = Duration::from_millis(100);
/// A scrape that takes this or less is not measured against itself alone, on a machine that others use as well.
const SCRAPE_NOISE: Duration = Duration::from_millis(50);
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

fn scrapes(agent: &Agent) -> Duration {
    median((0..5).map(|_| time(agent, "/metrics")).collect())
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
    let mut probes = Vec::new();
    for byte in b"ET /me" {
        for stream in &mut slow {
            let _ = stream.write_all(&[*byte]);
        }
        probes.extend(["/healthz", "/readyz"].map(|path| time(&agent, path)));
    }
    let scrape = scrapes(&agent);
    let (longest, probe) = (probes.iter().max().copied().unwrap(), median(probes));
    let peak = agent.peak_memory_bytes();
    println!(
        "{bytes} bytes: {alone:?} alone, {scrape:?} in the crowd; probes {probe:?}, {longest:?} at most; peak {peak} bytes"
    );
    if !is_slow() {
        assert!(probe <= PROBE_MAX, "a probe took {probe:?}");
        assert!(scrape <= alone * 2 + SCRAPE_NOISE, "{scrape:?} in the crowd, {alone:?} alone");
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
    // Every number below what is open: a connection can be accepted, and after it nothing opened.
    let lowest_free =
        (0..4096).find(|fd| !std::path::Path::new(&format!("/proc/{}/fd/{fd}", agent.pid().as_raw_nonzero())).exists());
    let short = Rlimit { current: Some(lowest_free.unwrap() + 3), maximum };
    prlimit(Some(agent.pid()), Resource::Nofile, short).unwrap();
    let (code, cause) = agent.get("/metrics").unwrap();
    assert_eq!(code, 503, "{cause}");
    assert!(cause.contains("EMFILE") && cause.contains("ulimit -n"), "{cause}");
    assert_eq!(agent.get("/healthz").unwrap().0, 200);
    prlimit(Some(agent.pid()), Resource::Nofile, before).unwrap();
    let scrape = agent.scrape();
    assert!(scrape.len() >= rows, "{} rows, {rows} before", scrape.len());
    assert_eq!(scrape.sum("tracer_http_refused_total", &[("reason", "failed")]), 1);
    assert!(agent.log().contains("a scrape was refused"), "{}", agent.log());
}
