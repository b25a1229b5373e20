//! `cargo xtask bench`: what the agent costs on this machine, beside what it is to cost at most.
//!
//! Owns the order of the measurements and how long each takes. Prints and never fails on a figure:
//! a shared machine is no judge. Touches nothing outside the processes and network namespaces that
//! it starts, and those end with it.

mod agent;
mod connections;
mod crowd;
mod events;
mod load;
mod pairs;
mod programs;
mod resident;
mod scale;
mod table;
mod transitions;
mod web;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use self::table::Table;
use crate::process::{self, cargo};
use crate::{build, setup, workspace};

/// Puts the agent on the packet rung on any kernel.
const PACKET_RUNG: &[&str] = &["--disable-hooks", "fentry,kprobe"];

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Opts {
    /// Shorter windows and fewer sockets: under 4 minutes instead of under 12.
    #[arg(long)]
    quick: bool,
    /// Only these measurements.
    #[arg(value_enum, value_name = "NAME")]
    named: Vec<Measurement>,
    /// The same, in one word.
    #[arg(long, value_delimiter = ',', value_enum, value_name = "NAME,…")]
    only: Vec<Measurement>,
    /// Transitions a second that `events` is to see.
    #[arg(long, value_name = "NUMBER", default_value_t = 250_000, value_parser = clap::value_parser!(u64).range(1000..=10_000_000))]
    transitions: u64,
    /// Be the load generator of a measurement.
    #[arg(long, hide = true)]
    generate_load: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measurement {
    Idle,
    Scrape,
    Passes,
    Programs,
    Connections,
    Web,
    Events,
}

/// What is measured, and for how long.
struct Plan<'a> {
    agent: PathBuf,
    /// For files of the programs that are started.
    scratch: &'a Path,
    idle_window: Duration,
    passes: usize,
    program_windows: usize,
    program_window: Duration,
    pairs: usize,
    connections_window: Duration,
    /// Transitions a second that are asked for.
    transitions: u64,
    transitions_window: Duration,
    web_pairs: usize,
    web_window: Duration,
    is_quick: bool,
    walks: usize,
    /// Sockets of the one namespace, and how many of them are to be established.
    crowd: u64,
    crowd_established: u64,
    /// Sockets of many namespaces together.
    fleet_sockets: u64,
    fleet_window: Duration,
}

impl<'a> Plan<'a> {
    fn new(agent: PathBuf, scratch: &'a Path, opts: &Opts) -> Self {
        let quick = opts.quick;
        let full_or = |full, short| Duration::from_millis(if quick { short } else { full });
        Self {
            agent,
            scratch,
            idle_window: full_or(30_000, 10_000),
            passes: if quick { 5 } else { 10 },
            program_windows: if quick { 6 } else { 16 },
            program_window: full_or(1_500, 500),
            pairs: if quick { 7 } else { 9 },
            connections_window: full_or(4_000, 500),
            transitions: opts.transitions,
            transitions_window: full_or(10_000, 1_000),
            web_pairs: if quick { 5 } else { 7 },
            web_window: full_or(3_000, 1_000),
            is_quick: quick,
            walks: if quick { 3 } else { 7 },
            crowd: if quick { 100_000 } else { 500_000 },
            crowd_established: if quick { 20_000 } else { 100_000 },
            fleet_sockets: if quick { 200_000 } else { 1_000_000 },
            fleet_window: full_or(40_000, 30_000),
        }
    }
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    if opts.generate_load {
        return load::serve();
    }
    if !process::is_root() {
        bail!("the benchmarks load eBPF programs and make network namespaces: run them as root");
    }
    setup::bench_tools()?;
    let agent = build::agent()?;
    let reader = build_reader()?;
    let scratch = Scratch::make()?;
    let plan = Plan::new(agent, &scratch.0, opts);
    let start = Instant::now();
    println!("{}\n", machine()?);
    let only = [opts.named.as_slice(), &opts.only].concat();
    let table = measure(&plan, &reader, &only)?;
    println!("\n{table}\n{METHOD}");
    println!("load average now {}; {:.0} s in all", load_average()?, start.elapsed().as_secs_f64());
    Ok(())
}

const METHOD: &str = "\
programs     ns a run of the kernel's own statistics (BPF_ENABLE_STATS), less those of an empty
             program on the same hook for the same events; medians over windows, half of them with
             the agent attached first and half with the empty programs first
connections  connect, accept and close in lock step over loopback in a network namespace of its
             own: by one thread, a second of its processor time, or by a client and a server that
             wake each other, a second of the clock, which whoever else uses the machine disturbs;
             the rate alone, with the agent and with tcpstates (its output to /dev/null) taken in
             turns, in another order each round; ratio of the medians, and the extremes of the
             rounds' own ratios
wrk          one thread, 32 connections kept open, one nginx process; in turns as above
idle         user and system time of /proc/PID/stat; VmRSS and VmHWM of /proc/PID/status
scrape       GET /metrics from connect to the last byte, median
passes       tracer_pass_duration_seconds, median
walk         the same of the port pass, over the TIME_WAIT and established sockets of one network
             namespace; in turns with `ss -tan | wc -l` inside it and a whole read of its
             /proc/net/tcp, none of which overlap; medians
events       tracer events --kind state to /dev/null while one thread connects, accepts and closes, or
             while a socket tries to connect by addresses and ports that a connection has already
             (CLOSE, SYN_SENT, CLOSE), at a pace or without one and counted by who makes them; its
             processor time from the load's start until the ring is read; the replay by the clock, as
             it does nothing else
namespaces   an agent as shipped; half of the sockets are in one namespace of twenty, which are near
             their port range and so are walked; processor time of the thread that makes the passes";

fn measure(plan: &Plan<'_>, reader: &Path, only: &[Measurement]) -> Result<Table> {
    let mut table = Table::default();
    for measurement in Measurement::value_variants() {
        if !only.is_empty() && !only.contains(measurement) {
            continue;
        }
        let start = Instant::now();
        match measurement {
            Measurement::Idle => resident::idle(plan, &mut table),
            Measurement::Scrape => resident::scrape(plan, &mut table),
            Measurement::Passes => resident::passes(plan, &mut table)
                .and_then(|()| scale::whole_table(plan, &mut table))
                .and_then(|()| scale::fleet(plan, &mut table)),
            Measurement::Programs => programs::measure(plan, reader, &mut table),
            Measurement::Connections => connections::measure(plan, &mut table),
            Measurement::Web => web::measure(plan, &mut table),
            Measurement::Events => events::measure(plan, &mut table),
        }
        .with_context(|| format!("measuring {measurement:?}"))?;
        println!("{measurement:?}: {:.0} s", start.elapsed().as_secs_f64());
        // What was attached is freed after the process that attached it.
        thread::sleep(Duration::from_millis(500));
    }
    Ok(table)
}

/// Builds what reads the programs' statistics, beside the agent, whose dependencies it shares.
fn build_reader() -> Result<PathBuf> {
    let target = workspace::Arch::native()?.static_target();
    let target_dir = workspace::root().join("target");
    process::run(
        cargo()
            .args(["build", "--locked", "--release", "--package", "tracer", "--example", "program_cost"])
            .args(["--target", target, "--target-dir"])
            .arg(&target_dir),
    )?;
    Ok(target_dir.join(target).join("release/examples/program_cost"))
}

/// A directory that ends with the run.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self> {
        let path = workspace::root().join("target/bench").join(std::process::id().to_string());
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Under target/, so that what cannot be removed is in nobody's way.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn machine() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = thread::available_parallelism()?;
    let model = model.map_or("unknown processor", |(_, name)| name);
    Ok(format!("Linux {}, {cores} cores of {model}, load average {}", kernel.trim(), load_average()?))
}

fn load_average() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(2).collect::<Vec<_>>().join(" "))
}
