//! The steps of `cargo xtask test`, one table: in which lane each runs, what it waits for, which flags leave it out.
//!
//! A lane is what only one step can have at a time: cargo's directory for the host, the network, this machine's kernel
//! and clock. Steps of one lane run one after the other.

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;
use clap::builder::PossibleValuesParser;

use crate::process::{self, cargo, command};
use crate::workspace::Arch;
use crate::{build, dashboards, deploy, dist, draw, e2e, live, setup, tidy, vm};

/// What only one step can have at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Before all others: what fails within seconds.
    First,
    /// cargo, and the processors that it takes.
    Build,
    /// The registries, and what is checked with programs from there.
    Fetch,
    /// This machine's kernel, on which other tests would leave traces, and its clock.
    Machine,
    /// Memory for guests.
    Guests,
}

impl Lane {
    pub(super) const SIDE_BY_SIDE: [Self; 4] = [Self::Build, Self::Fetch, Self::Machine, Self::Guests];

    /// How far its steps give way to those of others: what is measured against the clock of this machine comes first,
    /// and the tests in guests are the most patient.
    const fn nice(self) -> i32 {
        match self {
            Self::First | Self::Machine => 0,
            // The release build is what most others wait for.
            Self::Build => 5,
            Self::Fetch | Self::Guests => 10,
        }
    }
}

/// A flag that leaves steps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    SkipLive,
    SkipGuests,
    Fast,
}

impl Flag {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SkipLive => "--skip-live",
            Self::SkipGuests => "--skip-guests",
            Self::Fast => "--fast",
        }
    }
}

/// One row of the table.
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) lane: Lane,
    /// Steps that must have passed before.
    pub(super) needs: &'static [&'static str],
    left_out_by: &'static [Flag],
    run: fn(&[Flag]) -> Result<()>,
}

const fn step(name: &'static str, lane: Lane, needs: &'static [&'static str], run: fn(&[Flag]) -> Result<()>) -> Step {
    Step { name, lane, needs, left_out_by: &[], run }
}

const LIVE: &[Flag] = &[Flag::SkipLive];
const END_TO_END: &[Flag] = &[Flag::SkipLive, Flag::Fast];
const GUESTS: &[Flag] = &[Flag::SkipGuests, Flag::Fast];

/// All steps; those of a lane in the order in which they run. What others wait for comes first.
pub(super) const STEPS: &[Step] = &[
    step("format", Lane::First, &[], |_| format()),
    step("tidy", Lane::First, &[], |_| tidy::run(&tidy::Opts::default())),
    step("toolchain", Lane::Build, &[], |_| toolchain()),
    step("release-build", Lane::Build, &[], |_| build::guest_parts(Arch::native()?).map(drop)),
    step("debian-packages", Lane::Fetch, &[], debian_packages),
    Step { left_out_by: GUESTS, ..step("kernels", Lane::Fetch, &[], |_| vm::fetch_for_ci()) },
    Step { left_out_by: END_TO_END, ..step("page", Lane::Fetch, &[], |_| draw::build_page().map(drop)) },
    step("dashboards", Lane::Fetch, &[], |_| dashboards::run()),
    step("manifests", Lane::Fetch, &[], |_| deploy::manifests()),
    Step { left_out_by: GUESTS, ..step("prototypes", Lane::Fetch, &[], |_| prototypes()) },
    step("clippy", Lane::Build, &[], |_| clippy()),
    step("unit-tests", Lane::Build, &[], |_| unit()),
    step("integration-tests", Lane::Build, &["debian-packages"], |_| integration()),
    step("clippy-for-ebpf", Lane::Build, &[], |_| clippy_bpf()),
    step("packages", Lane::Fetch, &["release-build"], |_| dist::step()),
    Step { left_out_by: LIVE, ..step("live-tests", Lane::Machine, &["release-build", "debian-packages"], live_tests) },
    Step { left_out_by: LIVE, ..step("container", Lane::Machine, &["manifests"], |_| container()) },
    Step {
        left_out_by: END_TO_END,
        ..step("end-to-end", Lane::Machine, &["page"], |_| e2e::run(&e2e::Opts::default()))
    },
    Step {
        left_out_by: LIVE,
        ..step("namespace-tests", Lane::Machine, &["unit-tests", "debian-packages"], |_| unit_in_namespaces())
    },
    // After what is compiled: beside that emulated processors stand still for so long that an agent takes a minute to
    // start, and both take longer.
    Step {
        left_out_by: GUESTS,
        ..step("guests", Lane::Guests, &["release-build", "kernels", "unit-tests"], |_| vm::run(&vm::Opts::of_ci()?))
    },
];

impl Step {
    pub(super) fn is_left_out_by(&self, flags: &[Flag]) -> bool {
        self.left_out_by.iter().any(|flag| flags.contains(flag))
    }

    /// Whether it is ended when another step fails: a guest leaves nothing behind, and takes longest.
    pub(super) fn may_be_ended(&self) -> bool {
        self.lane == Lane::Guests
    }

    /// What runs it alone, as it would be typed.
    pub(super) fn command(&self, flags: &[Flag]) -> String {
        let words: Vec<_> =
            ["cargo xtask test --only", self.name].into_iter().chain(flags.iter().map(|f| f.name())).collect();
        words.join(" ")
    }

    /// Runs it in this process.
    pub(super) fn run_here(&self, flags: &[Flag]) -> Result<()> {
        (self.run)(flags).context(self.name)
    }

    /// Runs it in this process beside other steps. It ends with the process that started it.
    pub(super) fn run_in_lane(&self, flags: &[Flag]) -> Result<()> {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .context("ending with the process that started this one")?;
        rustix::process::nice(self.lane.nice()).context("giving way to the other steps")?;
        self.run_here(flags)
    }
}

/// The step of that name.
pub(super) fn named(name: &str) -> Option<&'static Step> {
    STEPS.iter().find(|step| step.name == name)
}

/// The names, for the command line.
pub(super) fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(STEPS.iter().map(|step| step.name))
}

fn toolchain() -> Result<()> {
    setup::toolchain()?;
    setup::nightly_clippy()
}

/// Everything from Debian that the steps call, at once: apt works for one at a time.
fn debian_packages(flags: &[Flag]) -> Result<()> {
    let runs = |name| named(name).is_some_and(|step| !step.is_left_out_by(flags));
    setup::tools_of_all_steps(&setup::Steps {
        live: runs("live-tests"),
        end_to_end: runs("end-to-end"),
        lacks_browser: draw::find_browser().is_none(),
        guests: runs("guests"),
    })
}

fn live_tests(flags: &[Flag]) -> Result<()> {
    live::run(if flags.contains(&Flag::Fast) { live::LONGEST } else { &[] })
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

/// Of the whole workspace, so that each test step finds compiled what the one before it has: crates that are compiled
/// for one package alone may have other features.
const UNIT_TESTS: &[&str] = &["test", "--locked", "--workspace", "--lib", "--bins", "--example", "guest_init", "--"];

/// All that change nothing on this machine.
fn unit() -> Result<()> {
    process::run(cargo().args(UNIT_TESTS).args(["--skip", MAKES_NAMESPACES]))
}

/// How names of unit tests begin that make network namespaces: not beside live tests, whose agents see them.
const MAKES_NAMESPACES: &str = "::live_";

fn unit_in_namespaces() -> Result<()> {
    let said = process::capture(cargo().args(UNIT_TESTS).arg(MAKES_NAMESPACES))?;
    println!("{said}");
    ensure!(said.contains(MAKES_NAMESPACES), "no unit test has {MAKES_NAMESPACES} in its name");
    Ok(())
}

fn integration() -> Result<()> {
    process::run(cargo().args(["test", "--locked", "--workspace", "--test", "integration"]))
}

/// The agent of the live tests, in its image.
fn container() -> Result<()> {
    deploy::container(&build::guest_parts(Arch::native()?)?.agent)
}

/// The kernels of the matrix have the functions that the programs are attached to, as they are quoted.
fn prototypes() -> Result<()> {
    tidy::run(&tidy::Opts { kernels: Some(Vec::new()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_waits_for_none_that_is_left_out_when_it_is_not() {
        for flags in [&[][..], &[Flag::SkipLive], &[Flag::SkipGuests], &[Flag::Fast], &[Flag::SkipLive, Flag::Fast]] {
            for step in STEPS.iter().filter(|step| !step.is_left_out_by(flags)) {
                for needed in step.needs {
                    let needed = named(needed).unwrap_or_else(|| panic!("{} waits for {needed}", step.name));
                    assert!(!needed.is_left_out_by(flags), "{} waits for {} with {flags:?}", step.name, needed.name);
                }
            }
        }
    }

    /// Else two lanes would wait for each other.
    #[test]
    fn what_is_waited_for_comes_before() {
        for (place, step) in STEPS.iter().enumerate() {
            for needed in step.needs {
                assert!(STEPS[..place].iter().any(|earlier| earlier.name == *needed), "{}: {needed}", step.name);
            }
        }
    }

    #[test]
    fn fast_means_no_guests_and_no_end_to_end_run() {
        let left_out: Vec<_> =
            STEPS.iter().filter(|step| step.is_left_out_by(&[Flag::Fast])).map(|step| step.name).collect();
        assert_eq!(left_out, ["kernels", "page", "prototypes", "end-to-end", "guests"]);
    }
}
