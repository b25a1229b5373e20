//! `cargo xtask test`: everything that CI runs.
//!
//! Owns the flags and the end: which step failed, what was given a second try, how long each step took. The steps are
//! a table in `steps`; `lanes` runs them side by side.

mod lanes;
mod steps;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use self::lanes::{Outcome, Trial};
use self::steps::{Flag, STEPS, Step};
use crate::process;

/// Before a line that says which test was run once more, and why. Such lines are repeated at the end.
pub(crate) const SECOND_TRY: &str = "second try: ";

/// Options of `cargo xtask test`.
#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags that are independent of each other")]
pub(crate) struct Opts {
    /// Leave out the tests that need root and the running kernel.
    #[arg(long)]
    skip_live: bool,
    /// Leave out the tests in guests with other kernels, and what is compared with these kernels.
    #[arg(long)]
    skip_guests: bool,
    /// Leave out the guests, what is compared with their kernels, the end-to-end run, and the longest live tests:
    /// for use while you work.
    #[arg(long)]
    fast: bool,
    /// Run this step alone.
    #[arg(long, value_name = "STEP", value_parser = steps::names())]
    only: Option<String>,
    /// The step is one of many that another process runs, and ends with that.
    #[arg(long, hide = true, requires = "only")]
    in_lane: bool,
}

impl Opts {
    /// The flags that were given, as a step of its own process is to be given them.
    fn flags(&self) -> Vec<Flag> {
        let given = [(self.skip_live, Flag::SkipLive), (self.skip_guests, Flag::SkipGuests), (self.fast, Flag::Fast)];
        given.into_iter().filter_map(|(is, flag)| is.then_some(flag)).collect()
    }
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    let flags = opts.flags();
    if let Some(step) = opts.only.as_deref().and_then(steps::named) {
        return if opts.in_lane { step.run_in_lane(&flags) } else { step.run_here(&flags) };
    }
    if !opts.skip_live && !process::is_root() {
        // Said now, not after minutes of the other steps.
        bail!(
            "the live tests load eBPF programs and need root: run as root, or leave them out with `cargo xtask test --skip-live`"
        );
    }
    let start = Instant::now();
    let (chosen, left_out): (Vec<_>, Vec<_>) = STEPS.iter().partition(|step| !step.is_left_out_by(&flags));
    let trials = lanes::run_all(&chosen, &flags)?;
    let taken = start.elapsed().as_secs();
    println!("\n{}", table(&trials, &chosen, &left_out));
    for line in trials.iter().flat_map(|trial| &trial.second_tries) {
        println!("{line}");
    }
    let failed: Vec<_> = trials.iter().filter(|trial| trial.outcome == Outcome::Failed).collect();
    if failed.is_empty() {
        println!("== all passed: {taken} s");
        return Ok(());
    }
    let commands: Vec<_> = failed.iter().map(|trial| format!("`{}`", trial.step.command(&flags))).collect();
    bail!("failed after {taken} s; to repeat it: {}", commands.join(", "))
}

/// When each step began and how long it took.
fn table(trials: &[Trial], chosen: &[&Step], left_out: &[&Step]) -> String {
    let mut lines = vec![format!("{:<20} {:>8} {:>8}  outcome", "step", "began", "took")];
    for trial in trials {
        let seconds = |time: std::time::Duration| format!("{:.1} s", time.as_secs_f64());
        lines.push(format!(
            "{:<20} {:>8} {:>8}  {}",
            trial.step.name,
            seconds(trial.began),
            seconds(trial.took),
            trial.outcome.word()
        ));
    }
    let ran = |step: &Step| trials.iter().any(|trial| trial.step.name == step.name);
    let not_started = chosen.iter().filter(|step| !ran(step));
    lines.extend(not_started.map(|step| format!("{:<20} {:>8} {:>8}  not started", step.name, "", "")));
    lines.extend(left_out.iter().map(|step| format!("{:<20} {:>8} {:>8}  left out", step.name, "", "")));
    lines.join("\n")
}
