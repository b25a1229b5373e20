//! The rate of short connections with and without the agent, and with `tcpstates`, which watches
//! the same tracepoint.

use anyhow::Result;

use super::Plan;
use super::load::Load;
use super::pairs::{Arm, RATE_KEPT, find_tcpstates, ratio, take_turns};
use super::table::{Table, Target};

const TCPSTATES: &str = "connections with libbpf-tools' tcpstates";

pub(super) fn measure(plan: &Plan, table: &mut Table) -> Result<()> {
    let tcpstates = find_tcpstates();
    let mut arms = vec![Arm::Alone, Arm::Agent(&plan.agent, &[])];
    arms.extend(tcpstates.as_deref().ok().map(Arm::Tcpstates));
    let mut load = Load::start()?;
    // Until its TIME_WAIT sockets have aged, connects find their port faster than later on.
    load.connect(plan.connections_window.max(std::time::Duration::from_secs(3)))?;
    let rates = take_turns(&arms, plan.pairs, || load.connect(plan.connections_window))?;
    let (percent, figure) = ratio(&rates[1], &rates[0], "a second");
    table.add("connections with the agent", percent, figure, RATE_KEPT);
    match (tcpstates, rates.get(2)) {
        (Ok(_), Some(rates_tcpstates)) => {
            let (percent, figure) = ratio(rates_tcpstates, &rates[0], "a second");
            table.add(TCPSTATES, percent, figure, Target::None);
        }
        (Err(why), _) => table.add_missing(TCPSTATES, why),
        (Ok(_), None) => {}
    }
    Ok(())
}
