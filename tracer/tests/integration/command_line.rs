//! The command line and the configuration file as a user gets them wrong, and what can be asked of
//! the binary without running the agent. Belongs here: what is decided before anything is opened.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;

use assert_cmd::assert::OutputAssertExt;

use crate::binary::{refusal, tracer};

/// Wrong flags or configuration.
const USAGE: i32 = 64;

fn refused(args: &[&str]) -> String {
    refusal(tracer(args).output().unwrap(), USAGE)
}

#[test]
fn wrong_flags_are_refused_with_cause_and_remedy() {
    for (args, cause, remedy) in [
        (&["--lisen"][..], "unexpected argument '--lisen'", "see tracer --help"),
        (&["run", "--lisen", "x"], "unexpected argument '--lisen'", "'--listen'"),
        (&["doctor", "--outpt", "json"], "unexpected argument '--outpt'", "'--output'"),
        (&["run", "here"], "unexpected argument 'here'", "see tracer --help"),
        (&["ru"], "unrecognized subcommand 'ru'", "'run'"),
        (&["run", "--config"], "a value is required for '--config <FILE>'", "see tracer --help"),
        (&["run", "--listen", "9795"], "invalid value '9795' for '--listen <ADDRESS:PORT>'", "[::]:9795"),
        (&["run", "--listen", "localhost:9795"], "invalid value 'localhost:9795'", "127.0.0.1:9795"),
        (&["run", "--pass-interval", "5"], "invalid value '5' for '--pass-interval <TIME>'", "5s"),
        (&["run", "--pass-interval", "1ms"], "pass_interval = 1ms", "choose at least 50ms"),
        (&["run", "--ring-bytes", "5000"], "ring_bytes = 5000", "choose a power of two"),
        (&["run", "--ring-bytes", "-1"], "unexpected argument '-1'", "see tracer --help"),
        (&["run", "--max-listeners", "0"], "max_listeners = 0", "choose 1 to 1000000"),
        (&["run", "--max-workloads", "100001"], "max_workloads = 100001", "choose 1 to 100000"),
        (&["run", "--rate-limit", "many"], "invalid value 'many' for '--rate-limit <N>'", "see tracer --help"),
        (&["run", "--disable-hooks", "kprobe,usdt"], "invalid value 'usdt'", "fentry, kprobe, packet"),
        (&["run", "--log-level", "loud"], "invalid value 'loud'", "info, debug"),
        (&["doctor", "--output", "yaml"], "invalid value 'yaml'", "text, json"),
    ] {
        let line = refused(args);
        assert!(line.contains(cause) && line.contains(remedy), "{args:?}: {line}");
    }
}

#[test]
fn an_argument_that_is_no_text_is_refused() {
    let mut command = tracer(&["run"]);
    let line = refusal(command.arg(OsStr::from_bytes(b"\xff\n")).output().unwrap(), USAGE);
    assert!(line.contains("unexpected argument"), "{line}");
}

#[test]
fn a_wrong_configuration_file_is_refused_with_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tracer.toml");
    let path = file.to_str().unwrap();
    for (text, at, cause) in [
        (&b"rate_limit = 5\n\nrate_limt = 6\n"[..], ":3: ", "unknown field `rate_limt`"),
        (b"listen = \n", ":1: ", "string values must be quoted"),
        (b"# where\nlisten = \"9795\"\n", ":2: ", "invalid socket address"),
        (b"ring_bytes = -1\n", ":1: ", "integer `-1`"),
        (b"pass_interval = 5\n", ":1: ", "expected a duration"),
        (b"disable_hooks = [\"usdt\"]\n", ":1: ", "unknown variant `usdt`"),
        (b"[run]\nlisten = \"[::]:9795\"\n", ":1: ", "unknown field `run`"),
        (b"retain = \"2m\"\nretain = \"3m\"\n", ":2: ", "duplicate key"),
    ] {
        fs::write(&file, text).unwrap();
        let line = refused(&["run", "--config", path]);
        assert!(line.starts_with(&format!("{path}{at}")) && line.contains(cause), "{line}");
        assert!(line.ends_with("; tracer run --help lists the keys as flags"), "{line}");
    }
}

#[test]
fn a_configuration_file_is_read_by_every_command_before_the_kernel_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tracer.toml");
    let path = file.to_str().unwrap();
    for (text, cause) in
        [(&b"ring_bytes = 5000\n"[..], "ring_bytes = 5000 is not possible"), (b"\xff\n", "did not contain valid UTF-8")]
    {
        fs::write(&file, text).unwrap();
        for command in ["run", "doctor"] {
            let line = refused(&[command, "--config", path]);
            assert!(line.contains(cause), "{line}");
        }
    }
    let absent = directory.path().join("absent.toml");
    let line = refused(&["run", "--config", absent.to_str().unwrap()]);
    assert!(line.contains("absent.toml: No such file") && line.contains("check --config"), "{line}");
    let line = refused(&["run", "--config", directory.path().to_str().unwrap()]);
    assert!(line.contains("Is a directory"), "{line}");
}

#[test]
fn help_is_plain_text_on_stdout() {
    for (args, parts) in [
        (
            &["--help"][..],
            &[
                "run",
                "doctor",
                "completions",
                "tracer top ",
                "tracer replay ",
                "Exit codes: 0 done; 1 failed; 64",
                "69",
            ][..],
        ),
        (&["run", "--help"], &["--listen <ADDRESS:PORT>", "--no-packet-hook", "tracer run --config /etc/tracer.toml"]),
        (&["doctor", "--help"], &["--output <OUTPUT>", "Exit codes: 0 everything counts at its best"]),
    ] {
        let assert = tracer(args).assert().success().stderr("");
        let text = String::from_utf8_lossy(&assert.get_output().stdout);
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\x1b'), "{text:?}");
    }
}

#[test]
fn no_command_gets_the_help_and_the_code_for_wrong_usage() {
    let assert = tracer(&[]).assert().code(USAGE).stdout("");
    assert!(String::from_utf8_lossy(&assert.get_output().stderr).contains("Usage: tracer <COMMAND>"));
}

#[test]
fn the_version_names_the_revision() {
    let assert = tracer(&["--version"]).assert().success().stderr("");
    let text = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
    let revision = text.strip_prefix(concat!("tracer ", env!("CARGO_PKG_VERSION"), " (")).unwrap();
    let revision = revision.strip_suffix(")\n").unwrap();
    let is_commit = revision.len() == 12 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(is_commit || revision == "unknown", "{text}");
}

#[test]
fn a_reader_that_left_is_no_reason_to_panic() {
    for args in [&["--help"][..], &["--version"], &["run", "--lisen"]] {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let status = tracer(args).stdout(full()).stderr(full()).status().unwrap();
        assert!(matches!(status.code(), Some(0 | USAGE)), "{args:?}: {status}");
    }
}

#[test]
fn the_page_of_metrics_is_up_to_date() {
    let page = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
    let assert = tracer(&["metrics-doc"]).assert().success().stderr("");
    assert!(assert.get_output().stdout == page, "docs/metrics.md is stale: run cargo xtask metrics-doc");
}
