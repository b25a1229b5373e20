//! The rate of short connections with and without the agent, and with `tcpstates`, which watches
//! the same tracepoint.

use std::time::Duration;

use anyhow::Result;

use super::Plan;
use super::load::Load;
use super::pairs::{Arm, find_tcpstates, ratio, take_turns};
use super::table::{Table, Target};

/// How long before ports come from TIME_WAIT sockets that have aged: connects find theirs faster
/// before.
const WARM_UP: Duration = Duration::from_secs(3);

/// A loop, and how its rows are called.
type Loop = (&'static str, fn(&mut Load, Duration) -> Result<f64>);

const LOOPS: &[Loop] = &[("between threads", Load::connect_between_threads), ("in one thread", Load::connect)];

pub(super) fn measure(plan: &Plan, table: &mut Table) -> Result<()> {
    for (name, connect) in LOOPS {
        measure_loop(plan, name, *connect, table)?;
    }
    Ok(())
}

fn measure_loop(
    plan: &Plan,
    name: &str,
    connect: fn(&mut Load, Duration) -> Result<f64>,
    table: &mut Table,
) -> Result<()> {
    let tcpstates = find_tcpstates();
    let mut arms = vec![Arm::Alone, Arm::Agent(&plan.agent, &[])];
    arms.extend(tcpstates.as_deref().ok().map(Arm::Tcpstates));
    let mut load = Load::start()?;
    connect(&mut load, WARM_UP)?;
    let rates = take_turns(&arms, plan.pairs, || connect(&mut load, plan.connections_window))?;
    let (percent, figure) = ratio(&rates[1], &rates[0], "a second");
    table.add(format!("connections {name}, agent"), percent, figure, Target::AtLeast(98.0, "%"));
    let measure = format!("connections {name}, tcpstates");
    match (tcpstates, rates.get(2)) {
        (Ok(_), Some(rates_tcpstates)) => {
            let (percent, figure) = ratio(rates_tcpstates, &rates[0], "a second");
            table.add(measure, percent, figure, Target::None);
        }
        (Err(why), _) => table.add_missing(measure, why),
        (Ok(_), None) => {}
    }
    Ok(())
}
