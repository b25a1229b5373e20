//! What the agent uses by itself: processor and memory while idle, the time of a scrape, the time of
//! its passes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Plan;
use super::agent::{Agent, sample};
use super::load::Load;
use super::table::{Samples, Table, Target};

const LISTENERS: u32 = 1000;
const SCRAPES: usize = 20;
const NAMESPACES: usize = 50;
const MIB: f64 = 1024.0 * 1024.0;

/// Processor and memory of an agent that nobody asks anything. Whatever else the machine does at
/// the time is part of it: the agent looks after all of its namespaces.
pub(super) fn idle(plan: &Plan, table: &mut Table) -> Result<()> {
    let agent = Agent::start(&plan.agent, &[])?;
    let peak = agent.memory_mib("VmHWM")?;
    thread::sleep(Duration::from_secs(1));
    let (cpu, start) = (agent.cpu_seconds()?, Instant::now());
    thread::sleep(plan.idle_window);
    let share = 100.0 * (agent.cpu_seconds()? - cpu) / start.elapsed().as_secs_f64();
    let resident = agent.memory_mib("VmRSS")?;
    let body = agent.metrics()?.body;
    let count = |series| body.lines().filter(|line| line.starts_with(series)).count();
    let seen =
        format!("{} namespaces, {} listeners", count("tracer_netns_info{"), count("tracer_tcp_listener_sockets{"));
    let figure = format!("{share:.2} % of a core over {} s ({seen})", plan.idle_window.as_secs());
    table.add("idle agent, processor", share, figure, Target::AtMost(0.3, "%"));
    table.add("idle agent, RSS", resident, format!("{resident:.1} MiB"), Target::AtMost(10.0, "MiB"));
    table.add("peak of RSS at start", peak, format!("{peak:.1} MiB"), Target::AtMost(32.0, "MiB"));
    Ok(())
}

/// Time and size of a scrape, with listeners of one namespace opened while the agent runs.
pub(super) fn scrape(plan: &Plan, table: &mut Table) -> Result<()> {
    let agent = Agent::start(&plan.agent, &[])?;
    let mut load = Load::start()?;
    load.listen(LISTENERS)?;
    wait_for_listeners(&agent)?;
    let mut times = Samples::default();
    let mut bytes = 0;
    for _ in 0..SCRAPES {
        let answer = agent.metrics()?;
        times.push(answer.took.as_secs_f64() * 1e3);
        bytes = answer.body.len();
    }
    let (least, most) = times.range();
    let median = times.median();
    let figure = format!("{median:.1} ms ({least:.1} to {most:.1} in {SCRAPES}; {:.2} MiB)", mib(bytes));
    table.add(format!("scrape of {LISTENERS} listeners"), median, figure, Target::AtMost(10.0, "ms"));
    let resident = agent.memory_mib("VmRSS")?;
    table.add(format!("RSS with {LISTENERS} listeners, scraped"), resident, format!("{resident:.1} MiB"), Target::None);
    Ok(())
}

fn wait_for_listeners(agent: &Agent) -> Result<()> {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let body = agent.metrics()?.body;
        let listeners = body.lines().filter(|line| line.starts_with("tracer_tcp_accept_queue_length{")).count();
        if listeners >= LISTENERS as usize {
            return Ok(());
        }
        if Instant::now() > limit {
            bail!("the agent shows {listeners} of {LISTENERS} listeners after 30 s");
        }
        thread::sleep(Duration::from_millis(250));
    }
}

/// Time of the passes with many namespaces, each with a listener.
pub(super) fn passes(plan: &Plan, table: &mut Table) -> Result<()> {
    let mut loads = Vec::new();
    for _ in 0..NAMESPACES {
        let mut load = Load::start()?;
        load.listen(1)?;
        loads.push(load);
    }
    let agent = Agent::start(&plan.agent, &["--pass-interval", "1s"])?;
    for pass in ["namespaces", "listeners"] {
        let series = format!("tracer_pass_duration_seconds{{pass=\"{pass}\"}}");
        let times = durations(&agent, &series, plan.passes)?;
        let (least, most) = times.range();
        let median = times.median();
        let figure = format!("{median:.2} ms ({least:.2} to {most:.2} in {})", times.len());
        table.add(format!("{pass} pass with {NAMESPACES} more namespaces"), median, figure, Target::None);
    }
    Ok(())
}

/// Durations of so many passes, milliseconds. One that took to the nanosecond as long as the pass
/// before is left out.
fn durations(agent: &Agent, series: &str, passes: usize) -> Result<Samples> {
    let mut times = Samples::default();
    let mut last = f64::NAN;
    let limit = Instant::now() + Duration::from_secs(30);
    while times.len() < passes && Instant::now() < limit {
        let seconds = sample(&agent.metrics()?.body, series);
        if let Some(seconds) = seconds.filter(|seconds| seconds.total_cmp(&last).is_ne()) {
            times.push(seconds * 1e3);
            last = seconds;
        }
        thread::sleep(Duration::from_millis(250));
    }
    Ok(times)
}

#[expect(clippy::cast_precision_loss, reason = "a size shown with two decimals")]
fn mib(bytes: usize) -> f64 {
    bytes as f64 / MIB
}
