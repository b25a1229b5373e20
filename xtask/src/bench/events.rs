//! How many events `tracer events` shows: every transition, as JSON to /dev/null. Of short connections, live and from a
//! recording of the same; and of sockets that do little else, at a pace and without one.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::Plan;
use super::agent::cpu_seconds;
use super::load::Load;
use super::table::{Table, Target};

/// What one machine is to show of another's busiest minute.
const TARGET: Target = Target::AtLeast(200_000.0, "a second");

/// More than any core makes.
const UNPACED: u64 = 1_000_000_000;

/// How long the reader may take for what the ring holds when the load ends: its 8 MiB are 0.2 s of work.
const SETTLE: Duration = Duration::from_millis(500);

/// When the viewer is to end if this program does not end it.
const LIMIT: &str = "120s";

pub(super) fn measure(plan: &Plan, table: &mut Table) -> Result<()> {
    connections(plan, table)?;
    at_a_pace(plan, table)?;
    without_a_pace(plan, table, "ring of 8 MiB", &[])?;
    without_a_pace(plan, table, "ring of 64 KiB", &["--ring-bytes", "65536"])
}

/// Every transition while one thread connects, accepts and closes.
fn connections(plan: &Plan, table: &mut Table) -> Result<()> {
    let recording = plan.scratch.join("churn.rec");
    let path = recording.to_str().context("a path in UTF-8")?;
    let mut load = Load::start()?;
    let mut seen = |flags: &[&str]| watch(plan, flags, || load.connect(plan.connections_window).map(drop));
    let live = seen(&[])?;
    table.add("events of connections in a second", live.rate(), format!("{:.0}", live.rate()), Target::None);
    add_lost(table, "events lost of them", &live);
    let figure = |seen: &Seen| format!("{:.0} ({:.2} µs each)", seen.shown / seen.cpu, seen.cpu / seen.shown * 1e6);
    table.add("events shown in a second of processor time", live.shown / live.cpu, figure(&live), TARGET);
    let recorded = seen(&["--record", path, "--record-max", "256"])?;
    table.add("the same while they are recorded", recorded.shown / recorded.cpu, figure(&recorded), TARGET);
    let replayed = replay(plan, path)?;
    table.add("the same from the recording", replayed.shown / replayed.cpu, figure(&replayed), TARGET);
    fs::remove_file(recording)?;
    Ok(())
}

/// As many transitions as are asked for.
fn at_a_pace(plan: &Plan, table: &mut Table) -> Result<()> {
    let (seen, made) = transitions(plan, plan.transitions, &[])?;
    let figure = format!("{:.0} shown, {:.0} made", seen.shown / seen.took, made / seen.took);
    let measure = format!("transitions in a second, {} asked for", plan.transitions);
    table.add(measure, seen.shown / seen.took, figure, TARGET);
    add_lost(table, "transitions lost of them", &seen);
    add_unexplained(table, &seen, made);
    let percent = 100.0 * seen.cpu / seen.took;
    let figure = format!("{percent:.0} % of a core ({:.2} µs each)", seen.cpu / seen.shown * 1e6);
    table.add("the reader beside them", percent, figure, Target::None);
    Ok(())
}

/// As many transitions as one core makes: more may come than the ring and the reader take, and then the summary has
/// to tell so.
fn without_a_pace(plan: &Plan, table: &mut Table, ring: &str, flags: &[&str]) -> Result<()> {
    let (seen, made) = transitions(plan, UNPACED, flags)?;
    let figure = format!("{:.0} shown, {:.0} made", seen.shown / seen.took, made / seen.took);
    table.add(format!("transitions in a second, unpaced, {ring}"), made / seen.took, figure, Target::None);
    add_unexplained(table, &seen, made);
    Ok(())
}

fn add_lost(table: &mut Table, measure: &str, seen: &Seen) {
    let figure = format!("{:.0} of {:.0}", seen.lost, seen.shown + seen.lost);
    table.add(measure, seen.lost, figure, Target::AtMost(0.0, ""));
}

fn add_unexplained(table: &mut Table, seen: &Seen, made: f64) {
    let unexplained = unexplained(made, seen.shown, seen.lost);
    let figure = format!("{unexplained:.0} ({made:.0} made, {:.0} shown, {:.0} lost)", seen.shown, seen.lost);
    table.add("neither shown nor lost, or not made", unexplained, figure, Target::AtMost(0.0, ""));
}

/// Events that were made and are missing, or were shown and never made. What is lost may be another namespace's,
/// since nobody can tell, so more may be lost than is missing.
fn unexplained(made: f64, shown: f64, lost: f64) -> f64 {
    (made - shown - lost).max(shown - made).max(0.0)
}

/// The transitions of one namespace at a pace, and how many were made.
fn transitions(plan: &Plan, pace: u64, flags: &[&str]) -> Result<(Seen, f64)> {
    let mut load = Load::start()?;
    // Its sockets' own transitions are over before anybody looks.
    load.pace(pace)?;
    let netns = load.netns()?.to_string();
    let mut made = 0.0;
    let seen = watch(plan, &[&["--netns", &netns], flags].concat(), || {
        made = load.transit(plan.transitions_window)?;
        Ok(())
    })?;
    Ok((seen, made))
}

/// What a run came to.
struct Seen {
    shown: f64,
    lost: f64,
    /// Processor time, seconds.
    cpu: f64,
    /// How long the load took by the clock, seconds.
    took: f64,
}

impl Seen {
    /// Events that came in a second of the clock.
    fn rate(&self) -> f64 {
        (self.shown + self.lost) / self.took
    }
}

/// Watches every transition while there is load.
fn watch(plan: &Plan, flags: &[&str], load: impl FnOnce() -> Result<()>) -> Result<Seen> {
    let flags = [&["events", "--kind", "state", "--output", "json", "--duration", LIMIT], flags].concat();
    let mut viewer = Viewer::start(Command::new(&plan.agent).args(flags))?;
    viewer.wait_until_it_watches()?;
    let (start, cpu) = (Instant::now(), viewer.cpu()?);
    load()?;
    let took = start.elapsed().as_secs_f64();
    thread::sleep(SETTLE);
    let cpu = viewer.cpu()? - cpu;
    viewer.interrupt()?;
    let (shown, lost) = viewer.end()?;
    Ok(Seen { shown, lost, cpu, took })
}

fn replay(plan: &Plan, recording: &str) -> Result<Seen> {
    let start = Instant::now();
    let (shown, lost) =
        Viewer::start(Command::new(&plan.agent).args(["replay", recording, "--output", "json"]))?.end()?;
    let took = start.elapsed().as_secs_f64();
    Ok(Seen { shown, lost, cpu: took, took })
}

/// A tracer that shows events to nobody.
struct Viewer {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Viewer {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdout(File::create("/dev/null")?).stderr(Stdio::piped()).spawn()?;
        let said = BufReader::new(child.stderr.take().context("stderr is a pipe")?);
        Ok(Self { child, said })
    }

    fn wait_until_it_watches(&mut self) -> Result<()> {
        let mut line = String::new();
        while !line.contains("watching") {
            line.clear();
            if self.said.read_line(&mut line)? == 0 {
                bail!("the tracer ended instead of watching");
            }
        }
        Ok(())
    }

    /// Processor time so far, seconds.
    fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        cpu_seconds(&stat).context("reading the tracer's processor time")
    }

    /// As Ctrl-C does.
    fn interrupt(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::INT).context("interrupting the tracer")
    }

    /// Reads the summary: `12 shown (state 12), 3 filtered out, 0 lost in 2.0 s`; how many were shown and lost.
    fn end(mut self) -> Result<(f64, f64)> {
        let mut text = String::new();
        self.said.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        let number = |word: &str| number_before(&text, word);
        match (status.success(), number("shown"), number("lost")) {
            (true, Some(shown), Some(lost)) => Ok((shown, lost)),
            _ => bail!("the tracer ended with {status}: {text}"),
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number_before(text: &str, word: &str) -> Option<f64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let place = words.iter().position(|found| found.trim_matches(',') == word)?;
    words.get(place.checked_sub(1)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_before_their_words() {
        let text = "tracer: watching state\ntracer: 12 shown (state 12), 3 filtered out, 7 lost in 2.0 s\n";
        assert_eq!([number_before(text, "shown"), number_before(text, "lost")], [Some(12.0), Some(7.0)]);
        assert_eq!(number_before("tracer: 0 shown, 0 filtered out", "shown"), Some(0.0));
        assert_eq!(number_before("shown", "shown"), None);
    }

    #[test]
    fn what_was_lost_is_explained_and_what_was_not_made_is_not() {
        assert!(unexplained(10.0, 7.0, 3.0).total_cmp(&0.0).is_eq());
        assert!(unexplained(10.0, 7.0, 4.0).total_cmp(&0.0).is_eq());
        assert!(unexplained(10.0, 7.0, 1.0).total_cmp(&2.0).is_eq());
        assert!(unexplained(10.0, 12.0, 0.0).total_cmp(&2.0).is_eq());
    }
}
