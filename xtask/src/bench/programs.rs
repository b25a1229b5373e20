//! Nanoseconds a run of the agent's eBPF programs, beside empty programs that are attached to the
//! same hook and run for the same events.
//!
//! The kernel's own run-time statistics are the source; `program_cost`, an example of the agent's
//! crate, reads them. Which of the two programs runs first makes a difference (caches), so half of
//! the windows are taken in either order.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::agent::Agent;
use super::load::Load;
use super::table::{Samples, Table, Target};
use super::{PACKET_RUNG, Plan};
use crate::child::Dialogue;

/// A program and the empty one beside it, as the kernel names them: 15 characters.
struct Pair {
    measure: &'static str,
    program: &'static str,
    empty: &'static str,
    load: Traffic,
    target: Target,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Traffic {
    Connections,
    Established,
}

const PAIRS: &[Pair] = &[
    Pair {
        measure: "set_state above an empty tp_btf program",
        program: "inet_sock_set_s",
        empty: "empty_set_state",
        load: Traffic::Connections,
        target: Target::AtMost(25.0, "ns"),
    },
    Pair {
        measure: "packet rung, ingress, established connections' packets",
        program: "listener_ingres",
        empty: "empty_ingress",
        load: Traffic::Established,
        target: Target::None,
    },
    Pair {
        measure: "packet rung, egress, established connections' packets",
        program: "listener_egress",
        empty: "empty_egress",
        load: Traffic::Established,
        target: Target::None,
    },
    Pair {
        measure: "packet rung, ingress, short connections' packets",
        program: "listener_ingres",
        empty: "empty_ingress",
        load: Traffic::Connections,
        target: Target::None,
    },
    Pair {
        measure: "packet rung, egress, short connections' packets",
        program: "listener_egress",
        empty: "empty_egress",
        load: Traffic::Connections,
        target: Target::None,
    },
];

/// Costs of a program and of the empty one beside it, by window.
#[derive(Default)]
struct Costs {
    own: Samples,
    empty: Samples,
    above: Samples,
}

pub(super) fn measure(plan: &Plan, reader: &Path, table: &mut Table) -> Result<()> {
    let mut costs: Vec<_> = PAIRS.iter().map(|_| Costs::default()).collect();
    for agent_first in [true, false] {
        let early = if agent_first { Some(start(plan)?) } else { None };
        let mut reader = Reader::start(reader)?;
        let agent = early.map_or_else(|| start(plan), Ok)?;
        let mut load = Load::start()?;
        for _ in 0..plan.program_windows.div_ceil(2) {
            for traffic in [Traffic::Connections, Traffic::Established] {
                let counts = window(&mut reader, &agent, || run(&mut load, traffic, plan.program_window))?;
                for (pair, costs) in PAIRS.iter().zip(&mut costs).filter(|(pair, _)| pair.load == traffic) {
                    costs.add(&counts, pair);
                }
            }
        }
    }
    for (pair, costs) in PAIRS.iter().zip(&costs) {
        costs.report(pair, table);
    }
    Ok(())
}

fn start(plan: &Plan) -> Result<Agent> {
    Agent::start(&plan.agent, PACKET_RUNG)
}

fn run(load: &mut Load, traffic: Traffic, time: Duration) -> Result<f64> {
    match traffic {
        Traffic::Connections => load.connect(time),
        Traffic::Established => load.echo(time),
    }
}

impl Costs {
    fn add(&mut self, counts: &Counts, pair: &Pair) {
        let cost = |name| counts.get(name).and_then(|count: &Count| count.nanoseconds_a_run());
        if let (Some(own), Some(empty)) = (cost(pair.program), cost(pair.empty)) {
            self.own.push(own);
            self.empty.push(empty);
            self.above.push(own - empty);
        }
    }

    fn report(&self, pair: &Pair, table: &mut Table) {
        if self.above.len() == 0 {
            table.add_missing(pair.measure, format!("{} is not in force on this kernel", pair.program));
            return;
        }
        let above = self.above.median();
        let (least, most) = self.above.range();
        let figure = format!(
            "{above:.1} ns ({:.1} against {:.1} ns a run; {least:.1} to {most:.1} in {} windows)",
            self.own.median(),
            self.empty.median(),
            self.above.len(),
        );
        table.add(pair.measure, above, figure, pair.target);
    }
}

/// Runs of one program and the time they took.
#[derive(Clone, Copy, Default)]
struct Count {
    runs: f64,
    nanoseconds: f64,
}

impl Count {
    fn nanoseconds_a_run(self) -> Option<f64> {
        // A program that ran a few times only has nothing to say about its cost.
        (self.runs > 1000.0).then(|| self.nanoseconds / self.runs)
    }
}

type Counts = HashMap<String, Count>;

/// What was counted while `load` ran.
fn window(reader: &mut Reader, agent: &Agent, load: impl FnOnce() -> Result<f64>) -> Result<Counts> {
    let before = reader.read(agent.pid())?;
    load()?;
    let mut counts = reader.read(agent.pid())?;
    for (name, count) in &mut counts {
        let before = before.get(name).copied().unwrap_or_default();
        count.runs -= before.runs;
        count.nanoseconds -= before.nanoseconds;
    }
    Ok(counts)
}

/// The process that keeps the statistics on and reads them.
struct Reader(Dialogue);

impl Reader {
    fn start(binary: &Path) -> Result<Self> {
        let mut process = Dialogue::start(&mut Command::new(binary))?;
        match process.hear()?.as_str() {
            "ready" => Ok(Self(process)),
            other => bail!("{} said `{other}`", binary.display()),
        }
    }

    fn read(&mut self, pid: u32) -> Result<Counts> {
        self.0.say(&pid.to_string())?;
        let mut counts = Counts::new();
        loop {
            let line = self.0.hear()?;
            if line.is_empty() {
                return Ok(counts);
            }
            let (name, count) = parse(&line).with_context(|| format!("not a count: `{line}`"))?;
            counts.insert(name.to_owned(), count);
        }
    }
}

fn parse(line: &str) -> Option<(&str, Count)> {
    let mut fields = line.split(' ');
    let name = fields.next()?;
    Some((name, Count { runs: fields.next()?.parse().ok()?, nanoseconds: fields.next()?.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_read_and_divided() {
        let (name, count) = parse("listener_ingres 2000 130000").unwrap();
        assert_eq!(name, "listener_ingres");
        assert_eq!(count.nanoseconds_a_run(), Some(65.0));
        assert_eq!(Count { runs: 10.0, nanoseconds: 650.0 }.nanoseconds_a_run(), None);
        assert!(parse("listener_ingres 2000").is_none());
    }

    #[test]
    fn names_are_as_long_as_the_kernel_keeps_them() {
        assert!(PAIRS.iter().all(|pair| pair.program.len() <= 15 && pair.empty.len() <= 15));
    }
}
