//! A system call that the kernel refuses: one line names the step, the errno and the remedy for that errno. Each case
//! is an errno for a command of bpf(2); a seccomp filter of the agent's own makes the kernel answer so.

use std::process::{Command, Output};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::machine::machine;
use crate::lab::seccomp::{Bpf, agent_refused};
use crate::lab::setting::agent_binary;
use crate::lab::wait::until;

const UNAVAILABLE: i32 = 69;
const DEGRADED: i32 = 1;
const UNUSABLE: i32 = 2;
const LOG_LIMIT: Duration = Duration::from_secs(10);

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

fn refused(command: Bpf, errno: i32, args: &[&str]) -> Output {
    agent_refused(command, errno).args(args).output().unwrap()
}

/// The errno of each case, its name, and a word of what helps against it.
const ERRNOS: [(i32, &str, &str); 6] = [
    (libc::EPERM, "EPERM", "seccomp"),
    (libc::EACCES, "EACCES", "seccomp"),
    (libc::EINVAL, "EINVAL", "seccomp"),
    (libc::E2BIG, "E2BIG", "seccomp"),
    (libc::ENOMEM, "ENOMEM", "memory"),
    (libc::EMFILE, "EMFILE", "ulimit -n"),
];

#[test]
fn maps_and_programs_that_are_refused_name_the_step_and_the_errno() {
    let _lab = Lab::enter(&[]);
    for (command, step) in [(Bpf::MapCreate, "BPF_MAP_CREATE"), (Bpf::ProgLoad, "BPF_PROG_LOAD")] {
        for (errno, name, remedy) in ERRNOS {
            let output = refused(command, errno, &["run", "--listen", "127.0.0.1:0"]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(UNAVAILABLE), "{step} {name}: {said}");
            assert!(said.starts_with("tracer: ") && said.lines().count() == 1, "{step} {name}: {said}");
            let expected = format!("{step} of the smallest");
            assert!(said.contains(&expected) && said.contains(name) && said.contains(remedy), "{step} {name}: {said}");
            assert!(!said.contains("section") && !said.contains("RLIMIT_MEMLOCK"), "{step} {name}: {said}");
        }
    }
}

/// Before Linux 5.11 maps are charged to a limit that only CAP_SYS_RESOURCE may lift.
#[test]
fn lockable_memory_that_is_short_is_named_where_maps_are_charged_to_it() {
    let _lab = Lab::enter(&[]);
    let script = "ulimit -l 256 && exec setpriv --bounding-set -sys_resource \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(agent_binary()).args(["doctor", "--output", "json"]);
    let output = command.output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    if machine().kernel >= (5, 11, 0) {
        assert!(found["obstacle"].is_null(), "{found}");
        return;
    }
    let obstacle = found["obstacle"].as_str().unwrap_or_else(|| panic!("no obstacle: {found}"));
    assert!(obstacle.starts_with("BPF_MAP_CREATE of ") && obstacle.contains(" failed with EPERM"), "{obstacle}");
    assert!(obstacle.contains("RLIMIT_MEMLOCK"), "{obstacle}");
}

/// Each signal is judged, though all fall for one cause.
#[test]
fn doctor_judges_each_signal_where_no_program_loads() {
    let _lab = Lab::enter(&[]);
    let output = refused(Bpf::ProgLoad, libc::ENOMEM, &["doctor", "--output", "json"]);
    assert_eq!(output.status.code(), Some(UNUSABLE), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let signals = found["signals"].as_array().unwrap();
    assert!(signals.iter().any(|signal| signal["signal"] == "listen_drops"), "{found}");
    for signal in signals {
        assert!(signal["rung"].is_null() && signal["in_force"] == "nothing", "{signal}");
    }
    assert!(found["obstacle"].as_str().unwrap().contains("ENOMEM"), "{found}");
    let output = refused(Bpf::ProgLoad, libc::ENOMEM, &["doctor"]);
    let said = text(&output.stdout);
    assert!(said.contains("\nlisten drops         unusable  nothing\n"), "{said}");
}

/// A walk that the kernel does not let begin takes its rung away before the first pass, and says why.
#[test]
fn iterators_that_are_refused_take_their_rungs_away() {
    let _lab = Lab::enter(&[]);
    for (command, step) in [(Bpf::LinkCreate, "bpf_link_create"), (Bpf::IterCreate, "bpf_iter_create")] {
        for (errno, name) in [(libc::EPERM, "EPERM"), (libc::EINVAL, "EINVAL"), (libc::ENOMEM, "ENOMEM")] {
            let output = refused(command, errno, &["doctor"]);
            let said = text(&output.stdout);
            assert_eq!(output.status.code(), Some(DEGRADED), "{said}");
            assert!(said.contains("\nlistener pass        degraded  no queue lengths\n"), "{said}");
            let line = said.lines().find(|line| line.contains("not iter/tcp: ")).unwrap();
            assert!(line.contains(&format!("`{step}` failed: ")) && line.ends_with(&format!("({name})")), "{line}");
            assert!(said.contains("ephemeral ports      degraded  "), "{said}");
        }
    }
}

/// The type information of the object serves the verifier's words alone.
#[test]
fn without_type_information_of_the_object_hooks_are_in_force() {
    let _lab = Lab::enter(&[]);
    let output = refused(Bpf::BtfLoad, libc::EPERM, &["doctor", "--output", "json"]);
    assert_ne!(output.status.code(), Some(UNUSABLE), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["signals"].as_array().unwrap().iter().any(|signal| signal["rung"] == 0), "{found}");
}

/// What fails in each pass is said once, and its end.
#[test]
fn passes_that_fail_say_so_once_and_when_they_end_well_again() {
    let _lab = Lab::enter(&[]);
    let agent = Agent::start();
    let limit = |files: Rlimit| prlimit(Some(agent.pid()), Resource::Nofile, files).unwrap();
    // Inherited from this process.
    let usual = getrlimit(Resource::Nofile);
    limit(Rlimit { current: Some(0), ..usual });
    until("a failed pass in the log", LOG_LIMIT, || said(&agent, "a pass failed"));
    // Time for several more.
    sleep(8 * agent.pass_interval);
    limit(usual);
    until("the end of that in the log", LOG_LIMIT, || said(&agent, "passes end well again"));
    agent.await_two_passes();
    let log = agent.log();
    // Of some ten passes: the one that was under way fails at another step than those that follow.
    let causes: Vec<_> =
        log.lines().filter_map(|line| line.split_once("a pass failed")).map(|(_, rest)| rest).collect();
    assert!(causes.len() <= 2 && causes.first() != causes.get(1), "{log}");
    assert!(causes.iter().all(|cause| cause.contains("EMFILE") && cause.contains(": ")), "{log}");
    assert_eq!(log.matches("passes end well again").count(), 1, "{log}");
}

fn said(agent: &Agent, words: &str) -> Result<(), String> {
    let log = agent.log();
    if log.contains(words) { Ok(()) } else { Err(log) }
}
