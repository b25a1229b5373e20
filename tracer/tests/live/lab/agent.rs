//! The agent under test as a subprocess: started, awaited, scraped over HTTP, ended.
//!
//! Everything is seen from outside, as Prometheus and systemd would: one line on stdout, HTTP,
//! signals, exit status. Its log (stderr) goes into failure messages.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::scrape::Scrape;
use super::setting::{agent_command, patient, without};
use super::wait::until;

/// Loading and attaching takes well under a second; the first pass on a busy node some more.
const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const HTTP_LIMIT: Duration = Duration::from_secs(5);
const PASS_INTERVAL: Duration = Duration::from_millis(200);

/// A running agent; killed on drop.
pub(crate) struct Agent {
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
    /// Time between two passes.
    pub(crate) pass_interval: Duration,
}

impl Agent {
    /// Starts an agent with short passes.
    pub(crate) fn start() -> Self {
        Self::with(PASS_INTERVAL, &[])
    }

    /// Starts an agent with further flags.
    pub(crate) fn with(pass_interval: Duration, flags: &[&str]) -> Self {
        let mut child = agent_command()
            .args(["run", "--listen", "127.0.0.1:0", "--pass-interval", &format!("{}ms", pass_interval.as_millis())])
            // Tests wait for passes, and a slow machine's would be far between.
            .args(["--pass-cpu-percent", "50"])
            .args(flags)
            // Beside the kinds that the flags name, not instead of them.
            .args(without().iter().flat_map(|kind| ["--disable-hooks", kind]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = collect(child.stderr.take().unwrap());
        let lines = lines(child.stdout.take().unwrap());
        let mut agent = Self { child, address: String::new(), log, pass_interval };
        agent.await_address(&lines);
        agent.await_ready();
        agent
    }

    /// One scrape.
    pub(crate) fn scrape(&self) -> Scrape {
        let (status, body) = self.get("/metrics").unwrap_or_else(|error| panic!("scraping: {error}\n{}", self.log()));
        assert_eq!(status, 200, "/metrics: {body}\n{}", self.log());
        Scrape::parse(&body)
    }

    /// The agent met no error of its own: what a workload does is none of its faults.
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        let log = self.log();
        assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    }

    /// Lets two passes begin and end.
    pub(crate) fn sleep_two_passes(&self) {
        // One more interval for the pass that is under way and for a loaded machine.
        std::thread::sleep(self.pass_interval * 3);
    }

    /// Ids of the BPF programs that the agent holds, itself or by a link.
    pub(crate) fn program_ids(&self) -> BTreeSet<u32> {
        let directory = std::fs::read_dir(format!("/proc/{}/fdinfo", self.child.id())).unwrap();
        // A descriptor that closes meanwhile is not one of a program.
        let infos = directory.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
        infos
            .flat_map(|info| {
                info.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok()).collect::<Vec<u32>>()
            })
            .collect()
    }

    /// Ends the agent as systemd does, and waits for it.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.await_exit()
    }

    /// Ends the agent without a chance to clean up.
    pub(crate) fn kill(mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.await_exit()
    }

    /// What the agent logged so far.
    pub(crate) fn log(&self) -> String {
        format!("--- log of the agent ---\n{}", self.log.lock().unwrap())
    }

    fn await_address(&mut self, lines: &Receiver<String>) {
        let deadline = Instant::now() + patient(START_LIMIT);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left).unwrap_or_else(|error| {
                panic!(
                    "the agent printed no metrics address ({error}), exit status {:?}\n{}",
                    self.child.try_wait(),
                    self.log()
                )
            });
            if let Some(url) = line.strip_prefix("metrics: http://") {
                url.strip_suffix("/metrics")
                    .unwrap_or_else(|| panic!("odd address: {line}"))
                    .clone_into(&mut self.address);
                return;
            }
        }
    }

    fn await_ready(&self) {
        until("/readyz", START_LIMIT, || match self.get("/readyz") {
            Ok((200, _)) => Ok(()),
            answer => Err(format!("{answer:?}\n{}", self.log())),
        });
    }

    fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(patient(HTTP_LIMIT)))?;
        stream.set_write_timeout(Some(patient(HTTP_LIMIT)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) =
            answer.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other(format!("no header in {answer:?}")))?;
        assert!(
            !head.to_ascii_lowercase().contains("transfer-encoding"),
            "a body of known length has no reason to be chunked: {head}"
        );
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((status.ok_or_else(|| std::io::Error::other(format!("no status in {head:?}")))?, body.to_owned()))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn await_exit(&mut self) -> ExitStatus {
        until("the agent's end", STOP_LIMIT, || {
            self.child
                .try_wait()
                .unwrap()
                .ok_or_else(|| format!("still running\n--- log ---\n{}", self.log.lock().unwrap()))
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Reads a pipe to its end on a thread, so that the agent never blocks on it.
fn collect(pipe: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&text);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut text = sink.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    text
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // Nobody listens any more once the address is known; keep draining.
            let _ = sender.send(line);
        }
    });
    receiver
}
