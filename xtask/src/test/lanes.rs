//! Steps side by side: each as a process of its own, whose output is shown whole when it has ended.
//!
//! Owns the order: a step starts when those that it needs have passed and its lane is free. When one fails no other
//! starts; those that run are waited for, since each cleans up after itself, but for those that may be ended.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::SECOND_TRY;
use super::steps::{Flag, Lane, Step};
use crate::{process, workspace};

/// How often a running step is looked at.
const GLANCE: Duration = Duration::from_millis(200);

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// It was ended because another step had failed.
    Ended,
}

impl Outcome {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Ended => "ended, since another had failed",
        }
    }
}

/// A step that ran.
pub(super) struct Trial<'a> {
    pub(super) step: &'a Step,
    /// Since the first step began.
    pub(super) began: Duration,
    pub(super) took: Duration,
    pub(super) outcome: Outcome,
    /// Its lines that begin with [`SECOND_TRY`].
    pub(super) second_tries: Vec<String>,
}

/// Runs one step, and gives what it said. It may ask now and then whether another has failed.
type Runner<'a> = dyn Fn(&Step, &dyn Fn() -> bool) -> (Outcome, String) + Sync + 'a;

/// What the lanes know of each other.
struct Board<'a, 'run> {
    start: Instant,
    run: &'run Runner<'run>,
    say: &'run (dyn Fn(&str) + Sync),
    trials: Mutex<Vec<Trial<'a>>>,
    changed: Condvar,
}

/// Runs the steps as processes, and gives those that ran in the order in which they ended.
pub(super) fn run_all<'a>(steps: &[&'a Step], flags: &[Flag]) -> Result<Vec<Trial<'a>>> {
    let directory = workspace::root().join("target/test");
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let run = |step: &Step, has_failed: &dyn Fn() -> bool| {
        let log = directory.join(format!("{}.log", step.name));
        let outcome = Process { step, flags, log: log.clone() }.run(has_failed);
        let said = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        match outcome {
            Ok(outcome) => (outcome, said),
            Err(error) => (Outcome::Failed, format!("{said}error: {error:#}\n")),
        }
    };
    Ok(run_by(steps, &run, &say))
}

fn run_by<'a>(steps: &[&'a Step], run: &Runner<'_>, say: &(dyn Fn(&str) + Sync)) -> Vec<Trial<'a>> {
    let board = Board { start: Instant::now(), run, say, trials: Mutex::default(), changed: Condvar::default() };
    let of = |lane| steps.iter().copied().filter(move |step| step.lane == lane);
    board.run_lane(of(Lane::First));
    thread::scope(|scope| {
        for lane in Lane::SIDE_BY_SIDE {
            let (board, steps) = (&board, of(lane));
            scope.spawn(move || board.run_lane(steps));
        }
    });
    board.trials.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Board<'a, '_> {
    fn run_lane(&self, steps: impl Iterator<Item = &'a Step>) {
        for step in steps {
            if !self.wait_for(step.needs) {
                return;
            }
            let began = self.start.elapsed();
            (self.say)(&format!("== {} (after {:.1} s)", step.name, began.as_secs_f64()));
            let (outcome, said) = (self.run)(step, &|| has_failed(&self.trials()));
            let took = self.start.elapsed().saturating_sub(began);
            (self.say)(&format!("\n{said}== {}: {}, {:.1} s", step.name, outcome.word(), took.as_secs_f64()));
            let second_tries = said.lines().filter(|line| line.starts_with(SECOND_TRY)).map(str::to_owned).collect();
            self.trials().push(Trial { step, began, took, outcome, second_tries });
            self.changed.notify_all();
        }
    }

    /// Waits until all of them have passed; false once some step has failed.
    fn wait_for(&self, needs: &[&str]) -> bool {
        let waits = |trials: &mut Vec<Trial<'_>>| {
            let have_passed = needs.iter().all(|need| trials.iter().any(|trial| trial.step.name == *need));
            !have_passed && !has_failed(trials)
        };
        let trials = self.changed.wait_while(self.trials(), waits).unwrap_or_else(PoisonError::into_inner);
        !has_failed(&trials)
    }

    fn trials(&self) -> MutexGuard<'_, Vec<Trial<'a>>> {
        self.trials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prints the text. Whoever read the output may have left: the steps go on, and other lanes wait for this one's.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn has_failed(trials: &[Trial<'_>]) -> bool {
    trials.iter().any(|trial| trial.outcome == Outcome::Failed)
}

/// A step as a process of its own, which writes to a file.
struct Process<'a> {
    step: &'a Step,
    flags: &'a [Flag],
    log: PathBuf,
}

impl Process<'_> {
    fn run(&self, has_failed: &dyn Fn() -> bool) -> Result<Outcome> {
        let mut child = self.start(&self.log)?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(if status.success() { Outcome::Passed } else { Outcome::Failed });
            }
            if self.step.may_be_ended() && has_failed() {
                child.kill()?;
                child.wait()?;
                return Ok(Outcome::Ended);
            }
            thread::sleep(GLANCE);
        }
    }

    fn start(&self, log: &Path) -> Result<Child> {
        let output = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        // What cargo builds in some step may replace the file of this program.
        let mut command = Command::new("/proc/self/exe");
        command.args(["test", "--in-lane", "--only", self.step.name]).args(self.flags.iter().map(|flag| flag.name()));
        command.current_dir(workspace::root()).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.spawn().with_context(|| format!("starting `{}`", process::shown(&command)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::steps::STEPS;
    use super::*;

    /// The outcomes by name, in the order in which the steps ended, when this one fails. One of the machine's lane fails
    /// only once the guests run.
    fn ran(failing: Option<&str>) -> Vec<(&'static str, Outcome)> {
        let all: Vec<_> = STEPS.iter().collect();
        let busy = Mutex::new(Vec::new());
        let is_busy = |lane| busy.lock().unwrap().contains(&lane);
        let wait_until = |done: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(5);
            while !done() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        };
        let run = |step: &Step, has_failed: &dyn Fn() -> bool| {
            assert!(!is_busy(step.lane), "{} is not alone in its lane", step.name);
            busy.lock().unwrap().push(step.lane);
            let fails = failing == Some(step.name);
            if fails && step.lane == Lane::Machine {
                wait_until(&|| is_busy(Lane::Guests));
            }
            if failing.is_some() && step.may_be_ended() {
                wait_until(has_failed);
            }
            busy.lock().unwrap().retain(|lane| *lane != step.lane);
            let outcome = match (fails, step.may_be_ended() && has_failed()) {
                (true, _) => Outcome::Failed,
                (false, true) => Outcome::Ended,
                (false, false) => Outcome::Passed,
            };
            (outcome, format!("a line\n{SECOND_TRY}{}\n", step.name))
        };
        let trials = run_by(&all, &run, &|_| ());
        assert!(trials.iter().all(|trial| trial.second_tries == [format!("{SECOND_TRY}{}", trial.step.name)]));
        trials.iter().map(|trial| (trial.step.name, trial.outcome)).collect()
    }

    #[test]
    fn each_step_runs_once_after_those_that_it_needs() {
        let ran = ran(None);
        assert_eq!(ran.len(), STEPS.len());
        let place = |name: &str| ran.iter().position(|(ran, _)| *ran == name).unwrap();
        for step in STEPS {
            assert!(step.needs.iter().all(|need| place(need) < place(step.name)), "{}", step.name);
        }
        assert!(ran.iter().all(|(_, outcome)| *outcome == Outcome::Passed));
    }

    #[test]
    fn nothing_starts_after_a_failure_in_what_comes_first() {
        assert_eq!(ran(Some("format")), [("format", Outcome::Failed)]);
    }

    #[test]
    fn what_waits_for_a_step_that_fails_does_not_run() {
        let ran = ran(Some("release-build"));
        for step in STEPS.iter().filter(|step| step.needs.contains(&"release-build")) {
            assert!(!ran.iter().any(|(name, _)| *name == step.name), "{}", step.name);
        }
    }

    #[test]
    fn guests_are_ended_when_another_step_fails() {
        let ran = ran(Some("container"));
        assert!(ran.contains(&("container", Outcome::Failed)) && ran.contains(&("guests", Outcome::Ended)), "{ran:?}");
        assert!(!ran.iter().any(|(name, _)| *name == "end-to-end"));
    }
}
