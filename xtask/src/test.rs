//! `cargo xtask test`: everything that CI runs, in the order from quick to slow.
//!
//! Owns the list of steps. Stops at the first that fails; the error is the command to repeat.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum as _};

use crate::process::{self, cargo, command};
use crate::workspace::Arch;
use crate::{setup, tidy};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Opts {
    /// Leave out the tests that need root and the running kernel.
    #[arg(long)]
    skip_live: bool,
}

struct Step {
    name: &'static str,
    run: fn() -> Result<()>,
}

const STEPS: &[Step] = &[
    Step { name: "setup", run: set_up },
    Step { name: "format", run: format },
    Step { name: "tidy", run: || tidy::run(&tidy::Opts::default()) },
    Step { name: "clippy", run: clippy },
    Step { name: "clippy for eBPF", run: clippy_bpf },
    Step { name: "unit tests", run: unit },
    Step { name: "integration tests", run: integration },
    Step { name: LIVE, run: live },
];

/// The step that `--skip-live` leaves out.
const LIVE: &str = "live tests";

pub(crate) fn run(opts: &Opts) -> Result<()> {
    if !opts.skip_live && !process::is_root() {
        // Said now, not after ten minutes of the other steps.
        bail!(
            "the live tests load eBPF programs and need root: run as root, or leave them out with `cargo xtask test --skip-live`"
        );
    }
    let start = Instant::now();
    for step in STEPS {
        if opts.skip_live && step.name == LIVE {
            println!("\n== {}: left out by --skip-live", step.name);
            continue;
        }
        println!("\n== {}", step.name);
        let start = Instant::now();
        (step.run)().context(step.name)?;
        println!("== {}: {:.1} s", step.name, start.elapsed().as_secs_f64());
    }
    println!("\n== all passed: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
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
    process::run(cargo().args(["test", "--locked", "--workspace", "--lib", "--bins"]))
}

fn integration() -> Result<()> {
    process::run(cargo().args(["test", "--locked", "--package", "tracer", "--test", "integration"]))
}

/// One after the other: each compares counts of namespaces it owns, but the hooks are machine-wide.
fn live() -> Result<()> {
    process::run(cargo().args(["test", "--locked", "--package", "tracer", "--test", "live", "--", "--test-threads=1"]))
}
