//! The passes at the documents' scale: a walk over one namespace's half a million sockets, beside what
//! operators read them with today; and many namespaces with many sockets, under an agent as shipped.

use std::fs::File;
use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Plan;
use super::agent::{Agent, sample};
use super::load::Load;
use super::table::{Samples, Table, Target};
use crate::process;

const WALK: &str = "tracer_pass_duration_seconds{pass=\"ports\"}";
const ROUND: &str = "tracer_pass_duration_seconds{pass=\"namespaces\"}";
/// Leaves time between two walks for what the walk is compared with, so that they do not overlap.
const WALK_FLAGS: &[&str] = &["--pass-interval", "5s", "--pass-cpu-percent", "50"];
const WALK_LIMIT: Duration = Duration::from_mins(1);
const NAMESPACES: u64 = 200;
/// One in so many namespaces holds a crowd and is near its port range; half of all sockets are there.
const CROWDED: u64 = 20;

/// Times of one table read in three ways, milliseconds.
#[derive(Default)]
struct Times {
    walk: Samples,
    ss: Samples,
    proc: Samples,
    sockets: Samples,
}

/// The walk of the port pass over one namespace, `ss -tan | wc -l` and a read of /proc/net/tcp, in turns.
pub(super) fn whole_table(plan: &Plan, table: &mut Table) -> Result<()> {
    let mut load = Load::start()?;
    let mut helpers = Vec::new();
    let established = establish(plan.crowd_established, &mut load, &mut helpers)?;
    let wanted = plan.crowd.saturating_sub(established);
    load.time_wait(wanted)?;
    let agent = Agent::start(&plan.agent, WALK_FLAGS)?;
    let mut times = Times::default();
    let mut last = f64::NAN;
    for _ in 0..plan.walks {
        load.time_wait(wanted)?;
        last = next_walk(&agent, last)?;
        times.walk.push(last * 1e3);
        let (took, sockets) = timed(|| ss(load.pid()))?;
        times.ss.push(took);
        times.sockets.push(sockets);
        times.proc.push(timed(|| proc_net_tcp(load.pid()))?.0);
    }
    times.report(plan, established, table);
    Ok(())
}

/// Keeps so many sockets established in the namespace of `load`, as far as memory goes; how many.
fn establish(wanted: u64, load: &mut Load, helpers: &mut Vec<Load>) -> Result<u64> {
    /// A process that gets no more than this has met another limit than its descriptors.
    const WORTH_ANOTHER: u64 = 1000;
    let mut there = 0;
    while there < wanted {
        let mut helper = load.beside()?;
        let more = helper.establish(wanted - there)?;
        helpers.push(helper);
        there += more;
        if more < WORTH_ANOTHER {
            break;
        }
    }
    Ok(there)
}

impl Times {
    fn report(&self, plan: &Plan, established: u64, table: &mut Table) {
        let (sockets, walk, ss) = (self.sockets.median(), self.walk.median(), self.ss.median());
        let over = format!("{sockets:.0} sockets of one namespace");
        let target = if plan.is_quick { Target::None } else { Target::AtMost(200.0, "ms") };
        let figure = format!("{} ({established} of them established)", of(&self.walk));
        table.add(format!("walk over {over}"), walk, figure, target);
        table.add("ss -tan | wc -l of the same", ss, of(&self.ss), Target::None);
        table.add("/proc/net/tcp of the same", self.proc.median(), of(&self.proc), Target::None);
        let faster = ss / walk;
        table.add("ss -tan beside the walk", faster, format!("{faster:.1} times"), Target::AtLeast(3.0, "times"));
    }
}

fn of(times: &Samples) -> String {
    let (least, most) = times.range();
    format!("{:.0} ms ({least:.0} to {most:.0} in {})", times.median(), times.len())
}

/// Waits for the end of a walk; its duration, which is to the nanosecond not that of the one before.
fn next_walk(agent: &Agent, last: f64) -> Result<f64> {
    let limit = Instant::now() + WALK_LIMIT;
    loop {
        let seconds = sample(&agent.metrics()?.body, WALK);
        if let Some(seconds) = seconds.filter(|seconds| seconds.total_cmp(&last).is_ne()) {
            return Ok(seconds);
        }
        if Instant::now() > limit {
            bail!("the agent made no walk within {WALK_LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Milliseconds, and what was read.
fn timed(read: impl FnOnce() -> Result<f64>) -> Result<(f64, f64)> {
    let start = Instant::now();
    let found = read()?;
    Ok((start.elapsed().as_secs_f64() * 1e3, found))
}

/// Lines but for the heading.
fn ss(pid: u32) -> Result<f64> {
    let mut command = Command::new("nsenter");
    command.args([&format!("--net=/proc/{pid}/ns/net"), "sh", "-c", "ss -tan | wc -l"]);
    let lines: f64 = process::capture(&mut command)?.trim().parse()?;
    Ok(lines - 1.0)
}

/// Bytes.
#[expect(clippy::cast_precision_loss, reason = "a size that is compared with nothing")]
fn proc_net_tcp(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/net/tcp");
    let mut file = File::open(&path).with_context(|| format!("opening {path}"))?;
    Ok(io::copy(&mut file, &mut io::sink())? as f64)
}

/// Processor and memory of an agent as shipped, with nothing in its namespaces and with many sockets.
pub(super) fn fleet(plan: &Plan, table: &mut Table) -> Result<()> {
    let mut loads = (0..NAMESPACES).map(|_| Load::start()).collect::<Result<Vec<_>>>()?;
    let agent = Agent::start(&plan.agent, &[])?;
    // Two passes, the first of which meets everything for the first time.
    thread::sleep(Duration::from_secs(12));
    agent.metrics()?;
    let empty = agent.memory_mib("VmRSS")?;
    for (index, load) in (0..).zip(&mut loads) {
        load.time_wait(share(index, plan.fleet_sockets))?;
    }
    let (cpu, passes, start) = (agent.cpu_seconds()?, agent.passes_cpu_seconds()?, Instant::now());
    thread::sleep(plan.fleet_window);
    let percent = |seconds: f64| 100.0 * seconds / start.elapsed().as_secs_f64();
    let (whole, passes) = (percent(agent.cpu_seconds()? - cpu), percent(agent.passes_cpu_seconds()? - passes));
    let body = agent.metrics()?.body;
    let full = agent.memory_mib("VmRSS")?;
    let others = Rounds::go(plan, &mut loads)?;
    let seconds = |series| sample(&body, series).map_or("no".to_owned(), |seconds| format!("{seconds:.2} s"));
    let figure = format!(
        "{passes:.2} % of a core over {} s ({whole:.2} % the whole agent; {:.0} sockets; walks: {} each, {} for a turn)",
        plan.fleet_window.as_secs(),
        time_wait(&body),
        seconds(WALK),
        seconds("tracer_pass_interval_seconds{pass=\"ports\"}"),
    );
    let over = format!("{NAMESPACES} namespaces");
    table.add(format!("passes with {over}, processor"), passes, figure, Target::AtMost(1.0, "%"));
    others.report(&over, sample(&body, ROUND), table);
    let figure = format!("{:.1} MiB ({empty:.1} without sockets, {full:.1} with)", full - empty);
    table.add(format!("growth of RSS with sockets in {over}"), full - empty, figure, Target::AtMost(1.0, "MiB"));
    Ok(())
}

/// Times of one round through all namespaces with what operators read sockets with today, milliseconds.
#[derive(Default)]
struct Rounds {
    ss: f64,
    proc: f64,
    sockets: f64,
}

impl Rounds {
    fn go(plan: &Plan, loads: &mut [Load]) -> Result<Self> {
        let mut rounds = Self::default();
        for (index, load) in (0..).zip(loads) {
            // TIME_WAIT ends within the window.
            load.time_wait(share(index, plan.fleet_sockets))?;
            let (took, sockets) = timed(|| ss(load.pid()))?;
            rounds.ss += took;
            rounds.sockets += sockets;
            rounds.proc += timed(|| proc_net_tcp(load.pid()))?.0;
        }
        Ok(rounds)
    }

    /// `pass` is the agent's own round, seconds: counters, levels and settings of each namespace.
    fn report(&self, over: &str, pass: Option<f64>, table: &mut Table) {
        let pass = pass.map_or(f64::NAN, |seconds| seconds * 1e3);
        let round = |milliseconds: f64| format!("{milliseconds:.0} ms, {:.0} sockets", self.sockets);
        table.add(
            format!("counters, levels and settings of {over}, one pass of the agent"),
            pass,
            format!("{pass:.0} ms"),
            Target::None,
        );
        table.add("ss -tan | wc -l in each of them", self.ss, round(self.ss), Target::None);
        table.add("/proc/net/tcp of each of them", self.proc, round(self.proc), Target::None);
    }
}

/// Sockets of one namespace out of all.
fn share(index: u64, sockets: u64) -> u64 {
    let crowded = NAMESPACES / CROWDED;
    let of = if index.is_multiple_of(CROWDED) { crowded } else { NAMESPACES - crowded };
    sockets / 2 / of
}

/// All TIME_WAIT sockets that the agent shows.
fn time_wait(exposition: &str) -> f64 {
    let rows = exposition.lines().filter(|line| line.starts_with("tracer_tcp_time_wait_sockets{"));
    rows.filter_map(|row| row.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_sockets_are_in_crowded_namespaces() {
        let shares: Vec<u64> = (0..NAMESPACES).map(|index| share(index, 380_000)).collect();
        assert_eq!((shares[0], shares[1], shares[20]), (19_000, 1000, 19_000));
        assert_eq!(shares.iter().sum::<u64>(), 380_000);
    }

    #[test]
    fn sockets_are_summed_over_namespaces() {
        let text =
            "tracer_tcp_time_wait_sockets{netns=\"1\"} 3\ntracer_tcp_time_wait_sockets{netns=\"2\"} 4\nother 9\n";
        assert!(time_wait(text).total_cmp(&7.0).is_eq());
    }
}
