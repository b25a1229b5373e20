//! Manual pages and completions as the binary writes them. Belongs here: that there are files and what is in them;
//! that formatters and shells take them is tried where packages are, by `cargo xtask test`.

use std::fs;

use assert_cmd::assert::OutputAssertExt;

use crate::binary::{refusal, tracer};

#[test]
fn pages_are_written_for_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("pages");
    tracer(&["manual", pages.to_str().unwrap(), "--date", "2026-01-02"]).assert().success().stdout("").stderr("");
    for name in ["tracer.1", "tracer-run.1", "tracer-doctor.1", "tracer-advise.1", "tracer-completions.1"] {
        let page = fs::read_to_string(pages.join(name)).unwrap();
        assert!(page.contains(" 2026\\-01\\-02 ") || page.contains(" 2026-01-02 "), "{name}: {page}");
    }
    assert!(!pages.join("tracer-metrics-doc.1").exists());
    let events = fs::read_to_string(pages.join("tracer-events.1")).unwrap();
    assert!(events.contains("8388608") && !events.contains("1048576") && !events.contains("retain"), "{events}");
}

#[test]
fn pages_that_cannot_be_written_are_a_failure() {
    let line = refusal(tracer(&["manual", "/dev/null/pages"]).output().unwrap(), 1);
    assert!(line.starts_with("cannot write pages to /dev/null/pages: "), "{line}");
}

#[test]
fn completions_know_flags_and_values_and_no_hidden_command() {
    for shell in ["bash", "zsh", "fish"] {
        let assert = tracer(&["completions", shell]).assert().success().stderr("");
        let script = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
        assert!(script.contains("doctor") && script.contains("lb-idle") && script.contains("json"), "{shell}");
        assert!(!script.contains("metrics-doc"), "{shell}");
    }
    let line = refusal(tracer(&["completions", "csh"]).output().unwrap(), 64);
    assert!(line.contains("bash, zsh, fish"), "{line}");
}
