//! The first process of a test guest: prepares an ordinary small system, takes the steps of its plan,
//! says how they ended and powers the guest off.
//!
//! `cargo xtask vm` packs it as `/init` beside `/plan.json`. It talks to the host over the console
//! alone: lines that start with `guest:` are for xtask, everything else is for people. It must not know
//! any test. Run anywhere but as process 1 it refuses.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::{RebootCommand, reboot};
use serde::Deserialize;

/// What the guest is to do.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    /// Kernel modules, each after those that it needs.
    modules: Vec<String>,
    /// Directories that an empty one is mounted over.
    hidden: Vec<String>,
    steps: Vec<Step>,
    /// A file that steps write; its lines are sent to the host at the end.
    results: String,
}

/// The exit code of a test runner that saw tests fail.
const FAILED_TESTS: i32 = 101;

/// Events that the kernel hides are rare.
const SECOND_TRIES_MAX: usize = 3;

/// One command.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    name: String,
    command: Vec<String>,
    environment: BTreeMap<String, String>,
    /// Exit codes that are as they should be.
    exit: Vec<i32>,
    /// What its output must contain.
    says: Vec<String>,
    /// Its output is for the host as well.
    captured: bool,
    /// How many tests it must run.
    tests: Option<usize>,
    /// A file to which a test adds a line, its name and what was hidden, if it fails for nothing but events that the
    /// kernel hid: such a test is given a second try.
    unshown: Option<PathBuf>,
    /// It talks to whoever sits at the console.
    interactive: bool,
}

/// What every Linux system has mounted: type, place.
const MOUNTS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tracefs", "/sys/kernel/tracing"),
    ("securityfs", "/sys/kernel/security"),
];

/// What systemd gives to services; the kernel's own default for its first process is larger.
const OPEN_FILES: Rlimit = Rlimit { current: Some(1024), maximum: Some(524_288) };

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("this is the first process of a test guest; `cargo xtask vm` boots one");
        return ExitCode::FAILURE;
    }
    let ended_well = match run() {
        Ok(()) => true,
        Err(error) => {
            println!("guest:error:{error:#}");
            false
        }
    };
    println!("guest:end:{}", if ended_well { "success" } else { "failure" });
    // Returns on failure alone; process 1 ending is a panic, which ends the guest as well.
    let refused = reboot(RebootCommand::PowerOff);
    eprintln!("{refused:?}");
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    prepare()?;
    let plan: Plan = serde_json::from_reader(File::open("/plan.json")?).context("reading /plan.json")?;
    for module in &plan.modules {
        load(module).with_context(|| format!("loading {module}"))?;
    }
    for directory in &plan.hidden {
        mount_at("tmpfs", directory)?;
    }
    let mut failed = Vec::new();
    for step in &plan.steps {
        if let Err(error) = step.take() {
            println!("guest:error:{}: {error:#}", step.name);
            failed.push(step.name.as_str());
        }
    }
    if Path::new(&plan.results).exists() {
        for line in BufReader::new(File::open(&plan.results)?).lines() {
            println!("guest:result:{}", line?);
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn prepare() -> Result<()> {
    for (kind, place) in MOUNTS {
        // A kernel without one of the last says so by its absence.
        if Path::new(place).is_dir() || fs::create_dir_all(place).is_ok() {
            mount_at(kind, place)?;
        }
    }
    setrlimit(Resource::Nofile, OPEN_FILES).context("setting the limit of open files")?;
    Ok(())
}

fn mount_at(kind: &str, place: &str) -> Result<()> {
    match mount(kind, place, kind, MountFlags::empty(), None) {
        // devtmpfs: the kernel may have done it.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("mounting {kind} at {place}")),
    }
}

fn load(module: &str) -> Result<()> {
    let file = rustix::fs::openat(CWD, module, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The names below the runner's last heading `failures:`. The lines of the tests themselves may be torn by what
/// their children say.
fn listed_failures(said: &str) -> Vec<&str> {
    let (_, list) = said.rsplit_once("\nfailures:\n").unwrap_or_default();
    list.lines().map_while(|line| line.strip_prefix("    ")).collect()
}

/// Whether a line of the file of hidden events is this test's.
fn is_about(line: &str, test: &str) -> bool {
    line.split_once(": ").is_some_and(|(name, _)| name == test)
}

/// Whether the test runner says that it runs so many tests.
fn has_run(tests: Option<usize>, said: &str) -> bool {
    tests.is_none_or(|tests| said.lines().any(|line| line == format!("running {tests} tests")))
}

/// The tests to try again: those that the test runner listed, if it ended as one that saw failures, and if each of
/// them says that it failed for nothing but events that the kernel hid. If more than [`SECOND_TRIES_MAX`] failed, none is
/// tried again.
fn failed_for_unshown_events<'a>(status: ExitStatus, said: &'a str, unshown: &str) -> Vec<&'a str> {
    if status.code() != Some(FAILED_TESTS) {
        return Vec::new();
    }
    let failed = listed_failures(said);
    let are_all = said.contains(&format!(" {} failed;", failed.len()));
    let is_unshown = |test: &&str| unshown.lines().any(|line| is_about(line, test));
    if are_all && failed.len() <= SECOND_TRIES_MAX && failed.iter().all(is_unshown) { failed } else { Vec::new() }
}

impl Step {
    fn take(&self) -> Result<()> {
        println!("== {}", self.name);
        if let Some(unshown) = self.unshown.as_deref().filter(|unshown| unshown.exists()) {
            fs::remove_file(unshown).context("removing what an earlier step said")?;
        }
        let (status, said) = if self.interactive { (self.command().status()?, String::new()) } else { self.listen()? };
        ensure!(has_run(self.tests, &said), "of the tests that are listed not all are there");
        let unshown = self.unshown.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let (status, said) = match failed_for_unshown_events(status, &said, &unshown) {
            failed if failed.is_empty() => (status, said),
            failed => self.try_again(&failed, &unshown)?,
        };
        let Some(code) = status.code() else {
            bail!("ended by signal {}", status.signal().unwrap_or_default());
        };
        ensure!(self.exit.contains(&code), "exit status {code}, expected {:?}", self.exit);
        for words in &self.says {
            ensure!(said.contains(words.as_str()), "its output lacks {words:?}");
        }
        Ok(())
    }

    fn try_again(&self, failed: &[&str], unshown: &str) -> Result<(ExitStatus, String)> {
        for line in unshown.lines().filter(|line| failed.iter().any(|test| is_about(line, test))) {
            println!("guest:again:{line}");
        }
        println!("== once more: {}", failed.join(" "));
        let options = self.command.iter().map(String::as_str).take_while(|word| *word != "--exact");
        let words = options.chain(["--exact"]).chain(failed.iter().copied());
        let again = Self { command: words.map(str::to_owned).collect(), ..self.clone() };
        let (status, said) = again.listen()?;
        // A runner that finds none of the names is content.
        ensure!(
            !status.success() || said.contains(&format!("test result: ok. {} passed", failed.len())),
            "the second try ran other tests than those that failed"
        );
        Ok((status, said))
    }

    /// Runs the command, shows what it says as it comes, and gives it back.
    fn listen(&self) -> Result<(ExitStatus, String)> {
        let (reader, writer) = std::io::pipe()?;
        let mut command = self.command();
        let mut child = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn()?;
        // The command holds the other end of the pipe, which must close with the child.
        drop(command);
        let mut said = String::new();
        for line in BufReader::new(reader).lines() {
            let line = line?;
            println!("{}{line}", if self.captured { format!("guest:{}:", self.name) } else { String::new() });
            said.push_str(&line);
            said.push('\n');
        }
        Ok((child.wait()?, said))
    }

    fn command(&self) -> Command {
        let mut words = self.command.iter();
        let mut command = Command::new(words.next().map_or("", String::as_str));
        command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin").env("HOME", "/").env("TERM", "linux");
        command.envs(&self.environment);
        command
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn tried_again(said: &str, unshown: &str) -> Vec<String> {
        let status = ExitStatus::from_raw(FAILED_TESTS << 8);
        failed_for_unshown_events(status, said, unshown).into_iter().map(str::to_owned).collect()
    }

    const SAID: &str = "test a::b ... a child says\nFAILED\ntest c::d ... FAILED\n\nfailures:\n\n---- a::b stdout ----\nfailures:\n\n\
                        failures:\n    a::b\n    c::d\n\ntest result: FAILED. 5 passed; 2 failed; 0 ignored\n";

    #[test]
    fn failures_are_read_from_the_list_and_not_from_torn_lines() {
        let unshown = "a::b: 3 drops\nc::d: 1 drops\n";
        assert_eq!(tried_again(SAID, unshown), ["a::b", "c::d"]);
        assert!(tried_again(&SAID.replace("2 failed", "3 failed"), unshown).is_empty());
    }

    #[test]
    fn a_test_that_fails_for_anything_else_fails() {
        for unshown in ["", "a::b: 3 drops\n", "a::b: 3 drops\nc: 1 drops\nc::d\n"] {
            assert!(tried_again(SAID, unshown).is_empty(), "{unshown}");
        }
    }

    #[test]
    fn a_runner_that_does_not_know_a_listed_test_is_noticed() {
        let said = "\nrunning 39 tests\ntest a::b ... ok\n";
        assert!(has_run(Some(39), said) && has_run(None, said));
        assert!(!has_run(Some(40), said) && !has_run(Some(3), said));
    }

    #[test]
    fn many_failures_are_no_accident() {
        let lines = |end: &str| (0..=SECOND_TRIES_MAX).map(|number| format!("t{number}{end}\n")).collect::<String>();
        let list = lines("").lines().map(|name| format!("    {name}\n")).collect::<String>();
        let said = format!("\nfailures:\n{list}\ntest result: FAILED. 5 passed; {} failed;\n", SECOND_TRIES_MAX + 1);
        assert!(tried_again(&said, &lines(": 1 drops")).is_empty());
    }
}
