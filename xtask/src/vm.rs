//! `cargo xtask vm`: the live tests on real kernels of every generation, each booted in QEMU.
//!
//! Owns the order: fetch kernels and programs, build agent and tests, pack, boot, collect. A run is a
//! kernel and a rung (what is taken away from it); runs that fit into memory go side by side. What the
//! tests found is left in `target/vm/` for the table in docs/kernels.md.

mod ci;
mod initramfs;
mod modules;
mod options;
mod plan;
mod qemu;
mod results;
mod rung;
mod tables;
mod userland;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::initramfs::Initramfs;
pub(crate) use self::options::Opts;
use self::plan::{Selection, Wish};
use self::qemu::{Accelerator, Guest, Qemu, Said, StrayBreakpoint};
use self::results::Found;
use self::rung::Rung;
use self::userland::Userland;
use crate::debian::Archive;
use crate::kernels::{self, Package};
use crate::test::SECOND_TRY;
use crate::workspace::Arch;
use crate::{build, setup, workspace};

/// A guest with KVM comes up within two seconds.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Last lines of a guest that failed: its tests' messages, with the agents' logs.
const SHOWN_OF_FAILED: usize = 300;

/// A guest to boot and what is taken away from it.
#[derive(Clone)]
struct Run {
    kernel: Package,
    rung: Rung,
}

/// What all guests share.
struct Ground {
    qemu: Qemu,
    userland: Userland,
    built: build::GuestParts,
    /// What was built.
    code: String,
    directory: PathBuf,
    wish: Wish,
    time_limit: Duration,
    /// Nothing of a guest is shown but its end.
    quiet: bool,
    /// Which tests were run once more, for the end.
    second_tries: Mutex<Vec<String>>,
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    let (series, rungs) = (opts.series(), opts.rungs());
    if opts.shell && (series.len() != 1 || rungs.len() != 1) {
        bail!("a shell is of one guest: name one kernel, and at most one rung, as in `--kernel 6.1 --shell`");
    }
    setup::guest_tools(opts.arch)?;
    let archive = Archive::open(opts.arch)?;
    let kernels =
        series.iter().map(|&series| kernels::fetch(&archive, series, opts.arch)).collect::<Result<Vec<_>>>()?;
    let mut ground = Ground {
        qemu: Qemu::new(opts.arch),
        userland: Userland::fetch(&archive)?,
        code: results::code_under_test()?,
        built: build::guest_parts(opts.arch)?,
        directory: directory(),
        wish: opts.wish(),
        time_limit: Duration::from_mins(opts.time_limit),
        quiet: opts.quiet,
        second_tries: Mutex::default(),
    };
    fs::create_dir_all(&ground.directory)?;
    if let Some(kernel) = kernels.first() {
        ground.choose_accelerator(kernel)?;
    }
    let runs = rungs.iter().flat_map(|&rung| kernels.iter().map(move |kernel| Run { kernel: kernel.clone(), rung }));
    if opts.shell {
        return runs.take(1).try_for_each(|run| ground.shell(&run));
    }
    ground.run_all(runs.collect(), jobs(opts.jobs)?)
}

/// Fetches what the guests of CI are made of besides the agent.
pub(crate) fn fetch_for_ci() -> Result<()> {
    let arch = Arch::native()?;
    setup::guest_tools(arch)?;
    let archive = Archive::open(arch)?;
    for series in ci::KERNELS {
        kernels::fetch(&archive, series, arch)?;
    }
    Userland::fetch(&archive).map(drop)
}

/// Options of `cargo xtask kernels-doc`.
#[derive(Args)]
pub(crate) struct TablesOpts {
    /// Write what there is, with the guests that have not run by name, instead of refusing half a matrix.
    #[arg(long)]
    unfinished: bool,
}

/// Writes the tables of docs/kernels.md from what the last runs found.
pub(crate) fn write_tables(opts: &TablesOpts) -> Result<()> {
    tables::write(&Found::read_all(&directory())?, opts.unfinished)
}

fn directory() -> PathBuf {
    workspace::root().join("target/vm")
}

impl Ground {
    /// Runs all guests, so many at a time, and fails if one did.
    fn run_all(&self, runs: VecDeque<Run>, jobs: usize) -> Result<()> {
        let count = runs.len();
        let jobs = jobs.min(count);
        println!("vm: {count} guests, {jobs} at a time");
        let (open, failed) = (Mutex::new(runs), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    // The lock is held for the taking alone.
                    while let Some(run) = open.lock().ok().and_then(|mut open| open.pop_front()) {
                        let start = Instant::now();
                        let outcome = self.test(&run, jobs > 1);
                        let seconds = start.elapsed().as_secs();
                        match outcome {
                            Ok(()) => println!("vm: {}: passed in {seconds} s", run.name()),
                            Err(error) => {
                                eprintln!("vm: {}: failed after {seconds} s: {error:#}", run.name());
                                self.explain(&run);
                                failed.lock().map(|mut failed| failed.push(run.name())).unwrap_or_default();
                            }
                        }
                    }
                });
            }
        });
        for line in self.second_tries.lock().iter().flat_map(|all| all.iter()) {
            println!("{line}");
        }
        let failed = failed.into_inner().unwrap_or_default();
        if !failed.is_empty() {
            bail!("{} of {count} guests failed: {}", failed.len(), failed.join(", "));
        }
        Ok(())
    }

    /// Says what is left of a guest that failed, and how to boot it again.
    fn explain(&self, run: &Run) {
        let log = run.log(&self.directory);
        if self.quiet {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(SHOWN_OF_FAILED)..].join("\n"));
        }
        eprintln!("vm: all that it said is in {}; to repeat it: `{}`", log.display(), run.command());
    }

    /// Boots the guest with the tests and keeps what they found.
    fn test(&self, run: &Run, is_one_of_many: bool) -> Result<()> {
        let is_whole = matches!(self.wish, Wish::Tests(Selection::All, 1));
        if is_whole {
            Found::forget(&self.directory, &run.kernel, run.rung.name())?;
        }
        let initramfs = self.pack(run, &self.wish)?;
        let label = match (self.quiet, is_one_of_many) {
            (true, _) => None,
            (false, true) => Some(format!("[{}] ", run.name())),
            (false, false) => Some(String::new()),
        };
        let guest = self.guest(run, label, &initramfs);
        let mut said = self.qemu.boot(&guest);
        let booted_again = said.as_ref().is_err_and(|error| self.may_boot_again(error));
        if booted_again {
            eprintln!("vm: {}: boots once more, since {:?}", run.name(), said.err());
            let why = format!(
                "{SECOND_TRY}{}: its kernel stopped at a breakpoint of its own, and it booted again",
                run.name()
            );
            self.second_tries.lock().map(|mut all| all.push(why)).unwrap_or_default();
            said = self.qemu.boot(&guest);
        }
        fs::remove_file(initramfs)?;
        let said = said?;
        let again = said.of("again").map(|line| format!("{SECOND_TRY}{}: {line}", run.name()));
        self.second_tries.lock().map(|mut all| all.extend(again)).unwrap_or_default();
        if is_whole {
            self.keep(run, &said, booted_again)?;
        }
        if !said.success() {
            bail!("{}", said.of("error").last().unwrap_or("the guest does not say why"));
        }
        Ok(())
    }

    /// An emulated processor may see a breakpoint late that another one has already taken back; none of the
    /// programs under test writes code.
    fn may_boot_again(&self, error: &anyhow::Error) -> bool {
        self.qemu.accelerator == Accelerator::Tcg && error.is::<StrayBreakpoint>()
    }

    fn shell(&self, run: &Run) -> Result<()> {
        let initramfs = self.pack(run, &self.wish)?;
        self.qemu.interactive(&self.guest(run, None, &initramfs))
    }

    /// Tries KVM and says what became of it.
    fn choose_accelerator(&mut self, kernel: &Package) -> Result<()> {
        let run = Run { kernel: kernel.clone(), rung: Rung::Best };
        let initramfs = self.pack(&run, &Wish::Nothing)?;
        let guest = Guest { time_limit: PROBE_LIMIT, ..self.guest(&run, None, &initramfs) };
        self.qemu.try_kvm(&guest);
        if self.qemu.accelerator == Accelerator::Tcg {
            println!("vm: KVM does not work here, so processors are emulated");
        }
        Ok(fs::remove_file(initramfs)?)
    }

    fn guest<'a>(&self, run: &'a Run, label: Option<String>, initramfs: &'a Path) -> Guest<'a> {
        Guest {
            label,
            log: run.log(&self.directory),
            kernel: &run.kernel.vmlinuz,
            initramfs,
            command_line: run.rung.command_line(),
            time_limit: self.time_limit,
        }
    }

    /// Writes the file system of the guest.
    fn pack(&self, run: &Run, wish: &Wish) -> Result<PathBuf> {
        let file = self.directory.join(format!("{}.cpio", run.name()));
        let mut archive = Initramfs::create(&file)?;
        archive.tree(&self.userland.root, Userland::is_needed)?;
        archive.copy(&self.built.init, "init")?;
        archive.copy(&self.built.agent, plan::AGENT.trim_start_matches('/'))?;
        archive.copy(&self.built.live_tests, plan::SUITE.trim_start_matches('/'))?;
        let mut plan = plan::plan(run.rung, wish, self.qemu.accelerator == Accelerator::Tcg);
        for module in modules::in_load_order(&run.kernel.modules)? {
            let place = format!("modules/{}.ko", module.name);
            archive.file(&place, &module.bytes, 0o644)?;
            plan.modules.push(format!("/{place}"));
        }
        archive.file("plan.json", &serde_json::to_vec(&plan)?, 0o644)?;
        archive.finish()?;
        Ok(file)
    }

    /// Leaves what the guest found where the tables are made from.
    fn keep(&self, run: &Run, said: &Said, booted_again: bool) -> Result<()> {
        let found = Found {
            series: run.kernel.series.name().to_owned(),
            version: run.kernel.version.clone(),
            code: self.code.clone(),
            arch: run.kernel.arch.name().to_owned(),
            rung: run.rung.name().to_owned(),
            is_whole: true,
            has_passed: said.success(),
            booted_again,
            tried_again: said.of("again").map(str::to_owned).collect(),
            doctor: serde_json::from_str(&said.captured("doctor")).unwrap_or_default(),
            tests: said.of("result").map(serde_json::from_str).collect::<Result<_, _>>().context("reading results")?,
        };
        found.write(&self.directory)
    }
}

impl Run {
    /// Where what the guest says is kept.
    fn log(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.log", self.name()))
    }

    fn command(&self) -> String {
        let (kernel, rung, arch) = (self.kernel.series.name(), self.rung.name(), self.kernel.arch.name());
        format!("cargo xtask vm --kernel {kernel} --rung {rung} --arch {arch}")
    }

    fn name(&self) -> String {
        format!("{}-{}-{}", self.kernel.version, self.kernel.arch.debian(), self.rung.name())
    }
}

/// How many guests run at the same time: as many as processors can feed and memory can hold.
fn jobs(wish: Option<u64>) -> Result<usize> {
    let available = available_memory_mib().context("reading /proc/meminfo")?;
    let fit = usize::try_from(available / qemu::RESIDENT_MIB)?;
    if fit == 0 {
        bail!("a guest takes {} MiB, and {available} MiB are available", qemu::RESIDENT_MIB);
    }
    let processors = thread::available_parallelism()?.get();
    // The tests wait for a third of their time.
    let wish = wish.map_or(Ok((processors + 1).min(4)), usize::try_from)?;
    Ok(wish.min(fit))
}

fn available_memory_mib() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<u64>().ok()? / 1024)
}
