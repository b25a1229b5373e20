//! Each exit code that help and manual pages document really comes. Belongs here: the table of ways to get them, held
//! against the agent's own table; what needs root is in the live tests, and named here.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::process::Command;

use tracer::exit_codes::{GENERAL, OF_COMMANDS};

use crate::advise::{SOUND, clamped};
use crate::binary::{run_without_rights, tracer};

/// Codes of what only root can do: `agent_life::sigterm…` and `output::…` in the live tests.
const BY_ROOT: &[(&str, u8)] = &[("run", 0), ("doctor", 0)];

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings/experiments.rec");

/// A way to a code: the command, and what the process gave.
type Way = (&'static str, Option<i32>);

fn code(mut command: Command) -> Option<i32> {
    command.output().unwrap().status.code()
}

fn without_rights(args: &[&str]) -> Option<i32> {
    run_without_rights(args, |_| ()).status.code()
}

fn into_full(args: &[&str]) -> Option<i32> {
    let full = File::options().write(true).open("/dev/full").unwrap();
    run_without_rights(args, |command| {
        command.stdout(full);
    })
    .status
    .code()
}

fn replay_into_full() -> Option<i32> {
    let mut command = tracer(&["replay", RECORDING]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    code(command)
}

/// What `give` gives with a file that holds this text.
fn with_file(text: &str, give: impl FnOnce(&str) -> Option<i32>) -> Option<i32> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("metrics.txt");
    std::fs::write(&file, text).unwrap();
    give(file.to_str().unwrap())
}

fn advice(text: &str) -> Option<i32> {
    with_file(text, |file| code(tracer(&["advise", "--from", file])))
}

fn ways() -> Vec<Way> {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let nobody = {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", closed.local_addr().unwrap())
    };
    vec![
        ("tracer", code(tracer(&["--version"]))),
        ("tracer", into_full(&["metrics-doc"])),
        ("tracer", code(tracer(&["--nonsense"]))),
        ("tracer", without_rights(&["run", "--listen", "127.0.0.1:0"])),
        ("run", without_rights(&["run", "--listen", &address])),
        ("run", code(tracer(&["run", "--listen", "nonsense"]))),
        ("run", without_rights(&["run", "--listen", "127.0.0.1:0"])),
        ("doctor", into_full(&["doctor"])),
        ("doctor", without_rights(&["doctor"])),
        ("doctor", code(tracer(&["doctor", "--output", "nonsense"]))),
        ("advise", advice(SOUND)),
        ("advise", advice(&clamped(0))),
        ("advise", advice(&clamped(312))),
        ("advise", advice("nonsense")),
        ("advise", code(tracer(&["advise", "--from", &nobody]))),
        ("top", with_file(SOUND, |file| code(tracer(&["top", "--once", "--from", file])))),
        ("top", with_file(SOUND, |file| into_full(&["top", "--once", "--from", file]))),
        ("top", with_file("nonsense", |file| code(tracer(&["top", "--once", "--from", file])))),
        ("top", code(tracer(&["top", "--once", "--from", &nobody]))),
        ("replay", code(tracer(&["replay", RECORDING]))),
        ("replay", replay_into_full()),
        ("replay", code(tracer(&["replay", "/dev/null"]))),
        ("completions", code(tracer(&["completions", "fish"]))),
        ("completions", into_full(&["completions", "fish"])),
        ("completions", code(tracer(&["completions", "csh"]))),
    ]
}

#[test]
fn every_documented_code_comes_and_no_other() {
    let found: BTreeSet<(&str, u8)> = ways()
        .into_iter()
        .map(|(command, code)| (command, u8::try_from(code.expect("no signal ends it")).unwrap()))
        .chain(BY_ROOT.iter().copied())
        .collect();
    let rows = OF_COMMANDS.iter().copied().chain([("tracer", GENERAL)]);
    let documented: BTreeSet<(&str, u8)> =
        rows.flat_map(|(command, codes)| codes.iter().map(move |(code, _)| (command, *code))).collect();
    assert_eq!(found, documented);
}
