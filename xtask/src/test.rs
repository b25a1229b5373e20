//! `cargo xtask test`: everything that CI runs.
//!
//! Owns the list of steps. Stops at the first that fails; the error is the command to repeat. Emulated guests take
//! most of the time and all processors that they get, and most of what runs on this kernel waits or links, so after
//! what fails soonest the two go side by side; there a guest that fails is told when the steps beside it are over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum as _};

use crate::process::{self, cargo, command};
use crate::workspace::Arch;
use crate::{build, dashboards, deploy, dist, e2e, live, setup, tidy, vm};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Opts {
    /// Leave out the tests that need root and the running kernel.
    #[arg(long)]
    skip_live: bool,
    /// Leave out the tests in guests with other kernels.
    #[arg(long)]
    skip_guests: bool,
}

struct Step {
    name: &'static str,
    run: fn() -> Result<()>,
    /// The flag that leaves it out.
    skipped_by: Option<&'static str>,
}

const fn step(name: &'static str, run: fn() -> Result<()>) -> Step {
    Step { name, run, skipped_by: None }
}

/// What fails soonest, and what the guests are made of.
const STEPS: &[Step] = &[
    step("setup", set_up),
    step("format", format),
    step("tidy", || tidy::run(&tidy::Opts::default())),
    step("clippy", clippy),
    Step { skipped_by: Some(SKIP_GUESTS), ..step("prototypes", prototypes) },
    Step { skipped_by: Some(SKIP_GUESTS), ..step("release build", || build::guest_parts(Arch::native()?).map(drop)) },
];

/// What runs while the guests run, from quick to slow.
const STEPS_BESIDE_GUESTS: &[Step] = &[
    step("clippy for eBPF", clippy_bpf),
    step("unit tests", unit),
    step("integration tests", integration),
    step("manifests", deploy::manifests),
    step("dashboards", dashboards::run),
    step("packages", dist::step),
    Step { skipped_by: Some(SKIP_LIVE), ..step("container", container) },
    Step { skipped_by: Some(SKIP_LIVE), ..step("live tests", live::run) },
    Step { skipped_by: Some(SKIP_LIVE), ..step("end to end", || e2e::run(&e2e::Opts::default())) },
];

/// The guests make room for what is measured against the clock of this machine: their tests are patient.
const GUESTS_NICE: i32 = 10;

const SKIP_LIVE: &str = "--skip-live";
const SKIP_GUESTS: &str = "--skip-guests";

impl Opts {
    /// The flags that were given.
    fn flags(&self) -> impl Iterator<Item = &'static str> {
        [(self.skip_live, SKIP_LIVE), (self.skip_guests, SKIP_GUESTS)]
            .into_iter()
            .filter_map(|(is, flag)| is.then_some(flag))
    }

    /// Runs the steps that no flag leaves out, one after the other, up to the first that fails.
    fn run_all(&self, steps: &[Step]) -> Result<()> {
        for step in steps {
            if let Some(flag) = self.flags().find(|&flag| step.skipped_by == Some(flag)) {
                println!("\n== {}: left out by {flag}", step.name);
                continue;
            }
            println!("\n== {}", step.name);
            let start = Instant::now();
            (step.run)().context(step.name)?;
            println!("== {}: {:.1} s", step.name, start.elapsed().as_secs_f64());
        }
        Ok(())
    }
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    if !opts.skip_live && !process::is_root() {
        // Said now, not after ten minutes of the other steps.
        bail!(
            "the live tests load eBPF programs and need root: run as root, or leave them out with `cargo xtask test --skip-live`"
        );
    }
    let start = Instant::now();
    opts.run_all(STEPS)?;
    if opts.skip_guests {
        println!("\n== guests: left out by {SKIP_GUESTS}");
        opts.run_all(STEPS_BESIDE_GUESTS)?;
    } else {
        beside_guests(|| opts.run_all(STEPS_BESIDE_GUESTS))?;
    }
    println!("\n== all passed: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Runs the guests and, meanwhile, the steps. If a step fails the guests are ended, since one error is enough; if
/// a guest fails the steps go on, since they need less time than is left of the guests'.
fn beside_guests(steps: impl FnOnce() -> Result<()>) -> Result<()> {
    // Debian's packages are installed by one at a time.
    setup::guest_tools(Arch::native()?)?;
    println!("\n== guests, and beside them:");
    let start = Instant::now();
    let is_over = AtomicBool::new(false);
    let (steps, guests) = thread::scope(|scope| {
        let guests = scope.spawn(|| {
            // Of this thread and what it starts.
            rustix::process::nice(GUESTS_NICE).context("giving way to the other steps")?;
            vm::run_until(&vm::Opts::of_ci(), &is_over)
        });
        let steps = steps();
        is_over.store(steps.is_err() && !guests.is_finished(), Ordering::Relaxed);
        (steps, guests.join().unwrap_or_else(|_| Err(anyhow!("the guests' thread panicked"))))
    });
    println!("== guests: {:.1} s", start.elapsed().as_secs_f64());
    match (steps, guests.context("guests")) {
        (Err(steps), Err(guests)) if !is_over.into_inner() => bail!("{steps:#}; and {guests:#}"),
        (steps, guests) => steps.and(guests),
    }
}

fn set_up() -> Result<()> {
    setup::toolchain()?;
    setup::nightly_clippy()?;
    setup::test_tools()
}

fn format() -> Result<()> {
    process::run(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    process::run(cargo().args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// The host's build leaves out what is compiled for eBPF alone. Where a kprobe finds arguments differs
/// by architecture, so that each has programs of its own.
fn clippy_bpf() -> Result<()> {
    for arch in Arch::value_variants() {
        process::run(
            command("rustup")
                .args(["run", "nightly", "cargo", "clippy", "--locked", "--package", "tracer-ebpf"])
                .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--", "-D", "warnings"])
                .env("RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", arch.name())),
        )?;
    }
    Ok(())
}

fn unit() -> Result<()> {
    process::run(cargo().args(["test", "--locked", "--workspace", "--lib", "--bins", "--example", "guest_init"]))
}

fn integration() -> Result<()> {
    process::run(cargo().args(["test", "--locked", "--package", "tracer", "--test", "integration"]))
}

/// The agent of the live tests, in its image.
fn container() -> Result<()> {
    deploy::container(&build::guest_parts(Arch::native()?)?.agent)
}

/// The kernels of the matrix have the functions that the programs are attached to, as they are quoted.
fn prototypes() -> Result<()> {
    tidy::run(&tidy::Opts { kernels: Some(Vec::new()) })
}
