//! Rates with and without something attached, taken in turns: the machine may be shared and its
//! speed drift, so what is compared is measured seconds apart, round after round, each round in
//! another order.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::agent::Agent;
use super::table::Samples;
use crate::child::Guarded;
use crate::process;

/// How long the kernel may take to free what a process that was killed had attached, and a program
/// without a sign of readiness to attach.
const SETTLE: Duration = Duration::from_millis(300);

/// What is attached while a rate is taken.
pub(super) enum Arm<'a> {
    /// Nothing: what the others are compared with.
    Alone,
    /// The agent, started with these arguments.
    Agent(&'a Path, &'a [&'a str]),
    /// `tcpstates` of libbpf-tools.
    Tcpstates(&'a Path),
}

/// Takes `rounds` rates of each arm; gives back the rates in the order of the arms.
pub(super) fn take_turns(
    arms: &[Arm<'_>],
    rounds: usize,
    mut rate: impl FnMut() -> Result<f64>,
) -> Result<Vec<Samples>> {
    let mut rates: Vec<_> = arms.iter().map(|_| Samples::default()).collect();
    for round in 0..rounds {
        for turn in 0..arms.len() {
            let index = (turn + round) % arms.len();
            rates[index].push(arms[index].attached(&mut rate)?);
            thread::sleep(SETTLE);
        }
    }
    Ok(rates)
}

impl Arm<'_> {
    /// Calls `rate` while the arm's program is attached.
    fn attached(&self, rate: impl FnOnce() -> Result<f64>) -> Result<f64> {
        match self {
            Self::Alone => rate(),
            Self::Agent(binary, args) => {
                let _agent = Agent::start(binary, args)?;
                rate()
            }
            Self::Tcpstates(binary) => {
                let mut tcpstates = tcpstates(binary)?;
                let rate = rate()?;
                tcpstates.check_runs()?;
                Ok(rate)
            }
        }
    }
}

/// Its classic tracepoint needs tracefs, mounted in a namespace of its own. Its lines go nowhere, nor
/// do its complaints about those that it loses.
fn tcpstates(binary: &Path) -> Result<Guarded> {
    let script = "mount -t tracefs tracefs /sys/kernel/tracing && exec \"$0\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(binary).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Guarded::start(&mut command)?;
    thread::sleep(SETTLE * 3);
    Ok(process)
}

/// Where `tcpstates` is, or why not.
pub(super) fn find_tcpstates() -> Result<PathBuf, &'static str> {
    process::find("tcpstates").ok_or("no tcpstates; it is in Debian's package libbpf-tools")
}

/// The ratio of the medians in per cent, and how it reads.
pub(super) fn ratio(with: &Samples, without: &Samples, unit: &str) -> (f64, String) {
    let percent = 100.0 * with.median() / without.median();
    let by_round: Samples = with.iter().zip(without.iter()).map(|(with, without)| 100.0 * with / without).collect();
    let (least, most) = by_round.range();
    let figure = format!(
        "{percent:.1} % ({:.0} against {:.0} {unit}; {least:.1} to {most:.1} % in {} pairs)",
        with.median(),
        without.median(),
        with.len(),
    );
    (percent, figure)
}
