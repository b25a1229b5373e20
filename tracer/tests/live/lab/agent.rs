//! The agent under test as a subprocess: started, awaited, scraped over HTTP, ended.
//!
//! Everything is seen from outside, as Prometheus and systemd would: one line on stdout, HTTP,
//! signals, exit status. Its log (stderr) goes into failure messages.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::machine::machine;
use super::memory::MemoryCgroup;
use super::results::note_rungs;
use super::rungs::{Rung, Rungs, expected};
use super::scrape::Scrape;
use super::setting::{agent_command, capable, patient, without};
use super::wait::until;

/// Loading and attaching takes well under a second; the first pass on a busy node some more.
const START_LIMIT: Duration = Duration::from_secs(20);
/// A look is over some seconds later.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Ten thousand listeners are some seconds of a build without optimisation.
const HTTP_LIMIT: Duration = Duration::from_secs(30);
/// A pass that was slow under load puts off the next, because passes keep to a share of a core.
const PASS_LIMIT: Duration = Duration::from_secs(30);
const PASS_INTERVAL: Duration = Duration::from_millis(200);

/// A running agent; killed on drop.
pub(crate) struct Agent {
    child: Child,
    address: String,
    /// Locked by nobody; threads of a test share the agent.
    lines: Mutex<Receiver<String>>,
    log: Arc<Mutex<String>>,
    /// Time between two passes.
    pub(crate) pass_interval: Duration,
    rungs: Rungs,
}

impl Agent {
    /// Starts an agent with short passes.
    pub(crate) fn start() -> Self {
        Self::with(PASS_INTERVAL, &[])
    }

    /// Starts an agent with further flags. It must come to the rungs that this machine has.
    pub(crate) fn with(pass_interval: Duration, flags: &[&str]) -> Self {
        Self::served(agent_command(), pass_interval, flags)
    }

    /// The same in a memory cgroup, where there is one.
    pub(crate) fn confined(cgroup: Option<&MemoryCgroup>, pass_interval: Duration, flags: &[&str]) -> Self {
        let command = agent_command();
        Self::served(cgroup.map_or(command, |cgroup| cgroup.confine(&agent_command())), pass_interval, flags)
    }

    fn served(command: Command, pass_interval: Duration, flags: &[&str]) -> Self {
        let mut agent = Self::spawn(command, Stdio::piped(), pass_interval, flags);
        agent.read_log();
        agent.await_start();
        agent.assert_rungs();
        note_rungs(&agent.rungs);
        agent
    }

    /// Starts an agent in surroundings that its command makes, with its log where the test wants it. Whether and
    /// when it serves is the test's affair.
    pub(crate) fn spawn(mut command: Command, log: Stdio, pass_interval: Duration, flags: &[&str]) -> Self {
        let mut child = command
            .args(["run", "--listen", "127.0.0.1:0", "--pass-interval", &format!("{}ms", pass_interval.as_millis())])
            // Tests wait for passes, and a slow machine's would be far between.
            .args(["--pass-cpu-percent", "50"].iter().filter(|_| !flags.contains(&"--pass-cpu-percent")))
            .args(flags)
            // Beside the kinds that the flags name, not instead of them.
            .args(without().iter().flat_map(|kind| ["--disable-hooks", kind]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let lines = lines(child.stdout.take().unwrap());
        let rungs = expected(machine(), &taken_away(flags));
        Self { child, address: String::new(), lines: Mutex::new(lines), log: Arc::default(), pass_interval, rungs }
    }

    /// Waits until it serves.
    pub(crate) fn await_start(&mut self) {
        self.await_address(START_LIMIT);
        self.await_ready();
    }

    /// Waits until it says where it serves, ready or not.
    pub(crate) fn await_address(&mut self, limit: Duration) {
        let deadline = Instant::now() + patient(limit);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.get_mut().unwrap().recv_timeout(left).unwrap_or_else(|error| {
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

    /// Collects its log from here on, if that is a pipe.
    pub(crate) fn read_log(&mut self) {
        self.log = collect(self.child.stderr.take().unwrap());
    }

    /// What its signals stand on, as expected and found.
    pub(crate) fn rungs(&self) -> &Rungs {
        &self.rungs
    }

    /// Where it serves.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where its events can be watched.
    pub(crate) fn socket(&self) -> String {
        let port = self.address.rsplit(':').next().unwrap();
        format!("/run/tracer/{port}.sock")
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

    /// Waits until its log says this: lines are written by a thread of their own, later than what they are about.
    #[track_caller]
    pub(crate) fn await_log(&self, part: &str) {
        until("a line of the log", STOP_LIMIT, || {
            let log = self.log();
            if log.contains(part) { Ok(()) } else { Err(format!("no {part:?} in\n{log}")) }
        });
    }

    /// Lets two passes begin and end.
    pub(crate) fn await_two_passes(&self) {
        self.await_pass();
        self.await_pass();
    }

    /// Lets a pass begin and end.
    pub(crate) fn await_pass(&self) {
        let now = Instant::now();
        until("a pass", PASS_LIMIT.max(self.pass_interval * 4), || {
            let asked = Instant::now();
            let status = self.status();
            // The listeners' part follows the namespaces' and is shown with it.
            let pass = &status["passes"][0];
            let [age, duration] =
                ["age_seconds", "duration_seconds"].map(|field| Duration::from_secs_f64(pass[field].as_f64().unwrap()));
            // Its age was worked out after it was asked for.
            if asked.saturating_duration_since(now) > age + duration {
                Ok(())
            } else {
                Err(format!("the last one: {pass}\n{}", self.log()))
            }
        });
    }

    /// The most memory that the agent had resident at any time.
    pub(crate) fn peak_memory_bytes(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.unwrap().parse::<f64>().unwrap() * 1024.0
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

    /// How long it takes to end after a signal as systemd sends it, if that is no longer than `limit`.
    #[track_caller]
    pub(crate) fn terminate_within(mut self, limit: Duration) -> ExitStatus {
        let asked = Instant::now();
        self.signal(Signal::TERM);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(asked.elapsed() < patient(limit), "still there {limit:?} after SIGTERM\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the agent without a chance to clean up.
    pub(crate) fn kill(mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.await_exit()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What the agent logged so far.
    pub(crate) fn log(&self) -> String {
        format!("--- log of the agent ---\n{}", self.log.lock().unwrap())
    }

    fn assert_rungs(&self) {
        let status = self.status();
        for (signal, expected) in &self.rungs.ladders {
            let reports = status["signals"].as_array().unwrap();
            let report = reports.iter().find(|report| report["signal"] == signal.name());
            let report = report.unwrap_or_else(|| panic!("no {} in {status}", signal.name()));
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let hooks = report["hooks"].as_array().unwrap().iter().map(text).collect();
            let found = Rung { in_force: text(&report["in_force"]), hooks };
            assert!(
                found == *expected,
                "{} stands on {found:#?}\ninstead of {expected:#?}\nbecause {:#}\non {:?}\n{}",
                signal.name(),
                report["refusals"],
                machine(),
                self.log()
            );
        }
    }

    /// What `/status` says.
    pub(crate) fn status(&self) -> Value {
        let (code, body) = self.get("/status").unwrap_or_else(|error| panic!("/status: {error}\n{}", self.log()));
        assert_eq!(code, 200, "/status: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn await_ready(&self) {
        until("/readyz", START_LIMIT, || match self.get("/readyz") {
            Ok((200, _)) => Ok(()),
            answer => Err(format!("{answer:?}\n{}", self.log())),
        });
    }

    /// The status code and the body of one answer.
    pub(crate) fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
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

/// Waits until a command that looks for itself makes passes: by then everything is attached.
pub(crate) fn await_passes(look: &Child) {
    until("the look's passes", LOOK_LIMIT, || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", look.id())).unwrap();
        let names = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        let names: Vec<String> = names.collect();
        if names.iter().any(|name| name == "passes\n") { Ok(()) } else { Err(format!("threads: {names:?}")) }
    });
}

/// Kinds of hooks that an agent with these flags cannot have here.
fn taken_away(flags: &[&str]) -> BTreeSet<String> {
    let mut kinds = without();
    for (number, flag) in flags.iter().enumerate() {
        match *flag {
            "--no-packet-hook" => _ = kinds.insert("packet".to_owned()),
            "--disable-hooks" => kinds.extend(flags[number + 1].split(',').map(str::to_owned)),
            _ => {}
        }
    }
    // From 6.9 on CAP_SYS_ADMIN, which agents always have, does as well.
    if !capable("net_admin") && machine().kernel < (6, 9, 0) {
        kinds.insert("packet".to_owned());
    }
    kinds
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
