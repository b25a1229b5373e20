//! `tracer events` under test as a subprocess: started, awaited, read line by line, ended.
//!
//! Everything is seen from outside: objects on stdout, what is said on stderr, the exit status.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::agent::Agent;
use super::machine::machine;
use super::results::note_rungs;
use super::rungs::{Rungs, expected};
use super::setting::{agent_command, without};
use super::wait::until;

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A running `tracer events`; killed on drop.
pub(crate) struct Watching {
    child: Child,
    events: Lines,
    said: Lines,
    /// What the signals stand on.
    pub(crate) rungs: Rungs,
}

/// What a run came to.
pub(crate) struct Seen {
    pub(crate) events: Vec<Value>,
    /// Lines on stderr.
    pub(crate) said: Vec<String>,
}

type Lines = Arc<Mutex<Vec<String>>>;

impl Watching {
    /// Lets it watch an agent.
    pub(crate) fn agent(agent: &Agent, flags: &[&str]) -> Self {
        let mut watching = Self::launch(&agent_command(), &["--socket", &agent.socket()], flags);
        watching.read();
        watching
    }

    /// Starts it with programs of its own and JSON output, and waits until it watches.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let mut watching = Self::unread(flags);
        watching.read();
        watching
    }

    /// The same in surroundings that the command makes, which has to end by itself.
    pub(crate) fn start_by(command: &Command, flags: &[&str]) -> Self {
        let mut watching = Self::own(command, flags);
        watching.read();
        watching
    }

    /// The same, but nobody reads its standard output yet.
    pub(crate) fn unread(flags: &[&str]) -> Self {
        Self::own(&agent_command(), flags)
    }

    fn own(command: &Command, flags: &[&str]) -> Self {
        let without = without();
        let without: Vec<&str> = without.iter().flat_map(|kind| ["--disable-hooks", kind]).collect();
        Self::launch(command, &[&["--own"], &without[..]].concat(), flags)
    }

    /// Hang-ups end it, though whoever started the tests may have told them to ignore those.
    fn launch(command: &Command, source: &[&str], flags: &[&str]) -> Self {
        let mut child = Command::new("perl")
            .args(["-e", "$SIG{HUP} = 'DEFAULT'; exec(@ARGV) or die"])
            .arg(command.get_program())
            .args(command.get_args())
            .args(["events", "--output", "json"])
            .args(source)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = collect(child.stderr.take().unwrap());
        let rungs = expected(machine(), &without());
        note_rungs(&rungs);
        let watching = Self { child, events: Lines::default(), said, rungs };
        until("the watch", START_LIMIT, || {
            let said = watching.said.lock().unwrap();
            let watches = said.iter().any(|line| line.starts_with("tracer: watching "));
            if watches { Ok(()) } else { Err(said.join("\n")) }
        });
        watching
    }

    /// Begins to read.
    pub(crate) fn read(&mut self) {
        self.events = collect(self.child.stdout.take().unwrap());
    }

    /// Closes the reading end.
    pub(crate) fn desert(&mut self) {
        drop(self.child.stdout.take());
    }

    /// Lets it watch an agent, if there is one, else with programs of its own; nobody reads yet.
    pub(crate) fn launch_quiet(agent: Option<&Agent>, flags: &[&str]) -> Self {
        match agent {
            Some(agent) => Self::launch(&agent_command(), &["--socket", &agent.socket()], flags),
            None => Self::unread(flags),
        }
    }

    /// What was said so far.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// How it ended, once it has.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        self.await_exit()
    }

    /// Events so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Ends it with SIGINT, as Ctrl-C does; everything went well.
    pub(crate) fn end(self) -> Seen {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        self.await_end()
    }

    /// Waits until it ends by itself; everything went well.
    pub(crate) fn await_end(mut self) -> Seen {
        let status = self.await_exit();
        assert!(status.success(), "{status}: {:?}", self.said.lock().unwrap());
        // The collectors end with the pipes.
        until("the last line", STOP_LIMIT, || match Arc::strong_count(&self.said) + Arc::strong_count(&self.events) {
            2 => Ok(()),
            more => Err(format!("{more} references")),
        });
        let said = self.said.lock().unwrap().clone();
        assert!(!said.iter().any(|line| line.contains("panicked") || line.contains("ERROR")), "{said:?}");
        Seen { events: self.events(), said }
    }

    fn await_exit(&mut self) -> ExitStatus {
        until("the end of the watch", STOP_LIMIT, || {
            let said = || format!("still running: {:?}", self.said.lock().unwrap());
            self.child.try_wait().unwrap().ok_or_else(said)
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Seen {
    /// The line that counts: what was shown, filtered out and lost.
    pub(crate) fn summary(&self) -> &str {
        let mut lines = self.said.iter().filter_map(|line| line.strip_prefix("tracer: "));
        lines.rfind(|line| line.contains(" shown")).unwrap_or_else(|| panic!("no summary: {:?}", self.said))
    }

    /// A number of the summary, by the word that follows it.
    pub(crate) fn number(&self, word: &str) -> u64 {
        let words: Vec<&str> = self.summary().split_whitespace().collect();
        let place = words.iter().position(|found| found.trim_matches(',') == word);
        let place = place.unwrap_or_else(|| panic!("no {word} in {}", self.summary()));
        words[place - 1].parse().unwrap()
    }
}

/// Reads a pipe to its end on a thread, so that nobody blocks on it.
fn collect(pipe: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let sink = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            sink.lock().unwrap().push(line);
        }
    });
    lines
}
