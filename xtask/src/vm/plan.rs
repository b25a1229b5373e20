//! The plan of a guest: what its first process, `tracer/examples/guest_init.rs`, is to do.
//!
//! Pure: a rung and the user's wishes in, steps out. The field names are those that the guest reads.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rung::Rung;

/// Where things are in the guest.
pub(super) const AGENT: &str = "/usr/bin/tracer";
pub(super) const SUITE: &str = "/usr/bin/live";
const RESULTS: &str = "/run/results.jsonl";
const UNSHOWN: &str = "/run/unshown";

/// Emulated processors are slower by this factor at most; waiting may take so much longer there.
const PATIENCE: &str = "4";

/// What the agent needs to do everything here, where no directory is closed to root; docs/kernels.md names the same.
pub(crate) const LEAST_CAPABILITIES: &str = "bpf,net_admin,perfmon,sys_admin,sys_ptrace";

#[derive(Debug, Default, Serialize)]
pub(super) struct Plan {
    pub(super) modules: Vec<String>,
    hidden: Vec<String>,
    steps: Vec<Step>,
    results: String,
}

#[derive(Clone, Debug, Serialize)]
struct Step {
    name: String,
    command: Vec<String>,
    environment: BTreeMap<String, String>,
    exit: Vec<i32>,
    says: Vec<String>,
    captured: bool,
    /// How many tests it must run.
    tests: Option<usize>,
    /// Where tests write that they failed for nothing but events that the kernel hid: those get a second try.
    unshown: Option<String>,
    interactive: bool,
}

/// What to do with the guest.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    /// To come up and go down again.
    Nothing,
    /// The live tests: these, so often.
    Tests(Selection, u32),
    /// A shell on the console.
    Shell,
}

/// Which of the live tests run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// All that the rung does not leave out.
    All,
    /// Those whose name contains one of the words between commas.
    Named(String),
    /// These alone, each of them.
    Each(&'static [&'static str]),
}

/// The plan for a rung. Only on emulated processors do tests get more time.
pub(super) fn plan(rung: Rung, wish: &Wish, is_emulated: bool) -> Plan {
    let mut steps = vec![step("loopback", &["ip", "link", "set", "lo", "up"])];
    let mut hidden = Vec::new();
    if rung == Rung::NoBtf {
        hidden.push("/sys/kernel/btf".to_owned());
    }
    match wish {
        Wish::Nothing => {}
        Wish::Shell => steps.push(shell(rung, is_emulated)),
        Wish::Tests(..) if rung == Rung::NoBtf => steps.extend(refusals()),
        Wish::Tests(selection, times) => {
            steps.push(doctor(rung));
            let suite = suite(rung, selection, is_emulated);
            steps.extend(
                (1..=*times).map(|time| Step { name: format!("{} ({time} of {times})", suite.name), ..suite.clone() }),
            );
        }
    }
    Plan { modules: Vec::new(), hidden, steps, results: RESULTS.to_owned() }
}

fn step(name: &str, command: &[&str]) -> Step {
    Step {
        name: name.to_owned(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        environment: BTreeMap::new(),
        exit: vec![0],
        says: Vec::new(),
        captured: false,
        tests: None,
        unshown: None,
        interactive: false,
    }
}

/// What the agent says of the kernel. It may be degraded; what must hold is for the tests.
fn doctor(rung: Rung) -> Step {
    let mut command = vec![AGENT, "doctor", "--output", "json"];
    if !rung.without().is_empty() {
        command.extend(["--disable-hooks", rung.without()]);
    }
    Step { exit: vec![0, 1], captured: true, ..step("doctor", &command) }
}

fn suite(rung: Rung, selection: &Selection, is_emulated: bool) -> Step {
    // One after the other, for the hooks see the whole machine; and also what changes the machine.
    let mut command = vec![SUITE, "--test-threads=1", "--include-ignored"];
    let mut tests = None;
    match selection {
        Selection::All => command.extend(rung.left_out().iter().flat_map(|module| ["--skip", module])),
        // Who names a test gets it.
        Selection::Named(names) => command.extend(names.split(',')),
        Selection::Each(names) => {
            command.push("--exact");
            command.extend(*names);
            tests = Some(names.len());
        }
    }
    let unshown = Some(UNSHOWN.to_owned());
    Step { environment: environment(rung, is_emulated), tests, unshown, ..step("live tests", &command) }
}

fn environment(rung: Rung, is_emulated: bool) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::from([
        ("TRACER_LIVE_AGENT", AGENT),
        ("TRACER_LIVE_RESULTS", RESULTS),
        ("TRACER_LIVE_UNSHOWN", UNSHOWN),
        ("TRACER_LIVE_RUNG", rung.name()),
        ("RUST_BACKTRACE", "1"),
    ]);
    if is_emulated {
        environment.insert("TRACER_LIVE_PATIENCE", PATIENCE);
    }
    if !rung.without().is_empty() {
        environment.insert("TRACER_LIVE_WITHOUT", rung.without());
    }
    if rung == Rung::Capabilities {
        environment.insert("TRACER_LIVE_CAPABILITIES", LEAST_CAPABILITIES);
    }
    environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Without type information: one line with the cause and the remedy, and the documented exit codes.
fn refusals() -> Vec<Step> {
    let says = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let run = step("run without BTF", &[AGENT, "run", "--listen", "127.0.0.1:0"]);
    let doctor = step("doctor without BTF", &[AGENT, "doctor"]);
    let cause = "the kernel has no type information (/sys/kernel/btf/vmlinux)";
    vec![
        Step { exit: vec![69], says: says(&[cause, "CONFIG_DEBUG_INFO_BTF=y"]), ..run },
        Step { exit: vec![2], says: says(&[cause, "verdict: unusable"]), ..doctor },
    ]
}

/// A shell with the suite's environment, so that a test can be repeated by hand.
fn shell(rung: Rung, is_emulated: bool) -> Step {
    Step {
        environment: environment(rung, is_emulated),
        exit: (0..=255).collect(),
        interactive: true,
        ..step("shell; the tests are `live`, the agent is `tracer`, `exit` ends the guest", &["setsid", "--ctty", "sh"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plan: &Plan) -> Vec<&str> {
        plan.steps.iter().map(|step| step.name.as_str()).collect()
    }

    #[test]
    fn the_suite_runs_on_every_rung_but_the_one_that_refuses() {
        for rung in Rung::ALL {
            let plan = plan(rung, &Wish::Tests(Selection::All, 1), true);
            let has_suite = names(&plan).contains(&"live tests (1 of 1)");
            assert_eq!(has_suite, rung != Rung::NoBtf, "{rung:?}");
            assert_eq!(plan.hidden.is_empty(), rung != Rung::NoBtf, "{rung:?}");
        }
    }

    #[test]
    fn the_least_is_what_the_agent_asks_for_but_for_closed_directories() {
        let mut asked: Vec<_> = crate::run::CAPABILITIES.iter().map(|(_, name)| name.to_lowercase()).collect();
        asked.retain(|name| name != "cap_dac_read_search");
        asked.sort_unstable();
        let given: Vec<_> = LEAST_CAPABILITIES.split(',').map(|name| format!("cap_{name}")).collect();
        assert_eq!(given, asked);
    }

    #[test]
    fn what_is_taken_away_is_taken_from_doctor_and_tests_alike() {
        let plan = plan(Rung::Packet, &Wish::Tests(Selection::Named("retransmit".to_owned()), 1), false);
        let [_, doctor, suite] = plan.steps.as_slice() else { panic!("{:?}", names(&plan)) };
        assert!(doctor.command.ends_with(&["--disable-hooks".to_owned(), "fentry,kprobe".to_owned()]));
        assert_eq!(suite.environment["TRACER_LIVE_WITHOUT"], "fentry,kprobe");
        assert_eq!(suite.command.last().map(String::as_str), Some("retransmit"));
        assert!(!suite.command.contains(&"--skip".to_owned()));
        assert!(!suite.environment.contains_key("TRACER_LIVE_PATIENCE"));
        assert_eq!(suite.environment["TRACER_LIVE_RUNG"], "packet");
        assert_eq!(suite.unshown.as_ref(), suite.environment.get("TRACER_LIVE_UNSHOWN"));
    }

    #[test]
    fn tests_that_are_listed_run_by_their_whole_names_and_are_counted() {
        let plan = plan(Rung::Best, &Wish::Tests(Selection::Each(&["a::b", "c::d"]), 2), true);
        let [_, _, first, second] = plan.steps.as_slice() else { panic!("{:?}", names(&plan)) };
        assert!(first.command.ends_with(&["--exact", "a::b", "c::d"].map(str::to_owned)));
        assert_eq!((first.tests, second.name.as_str()), (Some(2), "live tests (2 of 2)"));
    }
}
