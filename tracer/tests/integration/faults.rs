//! What the agent meets when it starts: an address that is taken, rights that are missing, output
//! that goes nowhere. Belongs here: faults that need no root. Faults of the kernel's files, and
//! partial rights, are in the live tests.

use std::fs::File;
use std::net::TcpListener;

use assert_cmd::assert::OutputAssertExt;
use serde_json::Value;

use crate::binary::{refusal, run_without_rights};

const FAILED: i32 = 1;
const UNAVAILABLE: i32 = 69;
const UNUSABLE: i32 = 2;

#[test]
fn without_rights_the_missing_capabilities_are_named() {
    let line = refusal(run_without_rights(&["run", "--listen", "127.0.0.1:0"], |_| ()), UNAVAILABLE);
    assert!(line.starts_with("missing CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE: "), "{line}");
    assert!(line.contains("sudo tracer") && line.contains("AmbientCapabilities="), "{line}");
}

/// Run without rights, which would be refused next: so a taken port is met before anything is
/// loaded or attached.
#[test]
fn a_port_in_use_is_met_before_the_kernel_is_touched() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let line = refusal(run_without_rights(&["run", "--listen", &address], |_| ()), FAILED);
    assert!(line.starts_with(&format!("{address} is in use")), "{line}");
    assert!(line.ends_with("choose another with --listen ADDRESS:PORT"), "{line}");
}

#[test]
fn an_address_of_another_host_is_refused() {
    // 192.0.2.0/24 is for documentation: no host has it.
    let line = refusal(run_without_rights(&["run", "--listen", "192.0.2.1:9795"], |_| ()), FAILED);
    assert!(line.starts_with("this host has no address 192.0.2.1; choose another"), "{line}");
}

#[test]
fn doctor_without_rights_names_the_obstacle() {
    let assert = run_without_rights(&["doctor"], |_| ()).assert().code(UNUSABLE).stderr("");
    let text = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
    let lines: Vec<_> = text.lines().collect();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(lines[0], format!("kernel {}", release.trim()));
    let (last, signals) = lines[1..].split_last_chunk::<2>().map(|(signals, last)| (last, signals)).unwrap();
    assert!(!signals.is_empty() && signals.iter().all(|line| line.ends_with(" unusable  nothing")), "{text}");
    assert!(last[0].starts_with("obstacle: missing CAP_BPF, "), "{text}");
    assert_eq!(last[1], "verdict: unusable: the agent cannot run here");
}

#[test]
fn doctor_without_rights_is_valid_json_on_demand() {
    let assert = run_without_rights(&["doctor", "--output", "json"], |_| ()).assert().code(UNUSABLE).stderr("");
    let found: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    assert_eq!(found["verdict"], "unusable");
    let signals = found["signals"].as_array().unwrap();
    assert!(!signals.is_empty() && signals.iter().all(|signal| signal["in_force"] == "nothing"), "{found}");
    assert!(found["obstacle"].as_str().unwrap().contains("CAP_BPF"), "{found}");
}

#[test]
fn findings_that_cannot_be_written_are_a_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = run_without_rights(&["doctor"], |command| {
        command.stdout(full);
    });
    let line = refusal(output, FAILED);
    assert!(line.starts_with("cannot write the findings: No space left on device"), "{line}");
}
