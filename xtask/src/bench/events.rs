//! How many events `tracer events` shows: every transition of short connections, as JSON to /dev/null, live and
//! from a recording of the same.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::Plan;
use super::agent::cpu_seconds;
use super::load::Load;
use super::table::{Table, Target};

/// What one machine is to show of another's busiest minute.
const TARGET: Target = Target::AtLeast(200_000.0, "a second");

pub(super) fn measure(plan: &Plan, table: &mut Table) -> Result<()> {
    let recording = plan.scratch.join("churn.rec");
    let live = live(plan, &[])?;
    let figure = |seen: &Seen| format!("{:.0} ({:.2} µs each)", seen.shown / seen.cpu, seen.cpu / seen.shown * 1e6);
    table.add("events that came in a second", live.rate, format!("{:.0}", live.rate), Target::None);
    table.add(
        "events lost of them",
        live.lost,
        format!("{:.0} of {:.0}", live.lost, live.shown + live.lost),
        Target::AtMost(0.0, ""),
    );
    table.add("events shown in a second of processor time", live.shown / live.cpu, figure(&live), TARGET);
    let path = recording.to_str().context("a path in UTF-8")?;
    let recorded = self::live(plan, &["--record", path, "--record-max", "256"])?;
    table.add("the same while they are recorded", recorded.shown / recorded.cpu, figure(&recorded), TARGET);
    let replayed = replay(plan, path)?;
    table.add("the same from the recording", replayed.shown / replayed.cpu, figure(&replayed), TARGET);
    fs::remove_file(recording)?;
    Ok(())
}

/// What a run came to.
struct Seen {
    shown: f64,
    lost: f64,
    /// Processor time, seconds.
    cpu: f64,
    /// Events a second of the clock.
    rate: f64,
}

/// Every transition while one thread connects, accepts and closes.
fn live(plan: &Plan, flags: &[&str]) -> Result<Seen> {
    let mut load = Load::start()?;
    // Longer than it is needed: the load ends, and then this.
    let time = format!("{}ms", (plan.connections_window * 2).as_millis() + 2_000);
    let flags = [&["events", "--kind", "state", "--output", "json", "--duration", &time], flags].concat();
    let mut command = Command::new(&plan.agent);
    let mut child = command.args(flags).stdout(File::create("/dev/null")?).stderr(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(child.stderr.take().context("stderr is a pipe")?);
    let mut line = String::new();
    while !line.contains("watching") {
        line.clear();
        if said.read_line(&mut line)? == 0 {
            bail!("the tracer ended instead of watching");
        }
    }
    let start = Instant::now();
    load.connect(plan.connections_window)?;
    let took = start.elapsed().as_secs_f64();
    let cpu = cpu_of(&child)?;
    let seen = end(child, said, cpu)?;
    Ok(Seen { rate: (seen.shown + seen.lost) / took, ..seen })
}

fn replay(plan: &Plan, recording: &str) -> Result<Seen> {
    let start = Instant::now();
    let mut command = Command::new(&plan.agent);
    let mut child = command
        .args(["replay", recording, "--output", "json"])
        .stdout(File::create("/dev/null")?)
        .stderr(Stdio::piped())
        .spawn()?;
    let said = BufReader::new(child.stderr.take().context("stderr is a pipe")?);
    let seen = end(child, said, 0.0)?;
    let took = start.elapsed().as_secs_f64();
    Ok(Seen { cpu: took, rate: seen.shown / took, ..seen })
}

fn cpu_of(child: &Child) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    cpu_seconds(&stat).context("reading the tracer's processor time")
}

/// Reads the summary: `12 shown (state 12), 3 filtered out, 0 lost in 2.0 s`.
fn end(mut child: Child, mut said: BufReader<impl std::io::Read>, cpu: f64) -> Result<Seen> {
    let mut text = String::new();
    said.read_to_string(&mut text)?;
    let status = child.wait()?;
    let number = |word: &str| number_before(&text, word);
    match (status.success(), number("shown"), number("lost")) {
        (true, Some(shown), Some(lost)) => Ok(Seen { shown, lost, cpu, rate: 0.0 }),
        _ => bail!("the tracer ended with {status}: {text}"),
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
}
