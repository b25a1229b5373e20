//! What this machine is, found without the agent: the kernel's version, and what its own files say
//! of the hooks that it can have. [`super::rungs`] works out from this what the agent must come to.
//!
//! Nothing is changed: file systems that are needed and not mounted are mounted where nobody else
//! sees them.

use std::process::Command;
use std::sync::OnceLock;

use btf_rs::{Btf, Type};

use super::setting::guest_rung;

/// A version of the kernel: 6, 1, 192.
pub(crate) type Version = (u16, u16, u16);

/// Facts that decide which hooks there are.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that are independent of each other")]
pub(crate) struct Machine {
    pub(crate) kernel: Version,
    /// As Rust names it.
    pub(crate) architecture: &'static str,
    /// Whether functions can be made to call BPF programs.
    pub(crate) trampolines: bool,
    pub(crate) kprobes: bool,
    /// lockdown=confidentiality: no program may read the kernel's memory by a helper.
    pub(crate) confidential: bool,
    /// How many arguments `tcp_v4_syn_recv_sock` has.
    pub(crate) syn_recv_sock_arguments: usize,
    pub(crate) cgroup2: bool,
    /// Whether the kernel runs a program while PID 1 is current only if PID 1 owns the program: docs/kernels.md.
    pub(crate) hides_pid_1: bool,
}

/// The machine that the tests run on.
pub(crate) fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let confidential = lockdown().contains("[confidentiality]");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        Machine {
            kernel: kernel(),
            architecture: std::env::consts::ARCH,
            trampolines: functions_can_be_patched(confidential),
            kprobes: std::fs::exists("/sys/bus/event_source/devices/kprobe").unwrap(),
            confidential,
            syn_recv_sock_arguments: arguments("tcp_v4_syn_recv_sock"),
            hides_pid_1: has_member("bpf_prog_aux", "init_owned"),
            cgroup2: mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2")),
        }
    })
}

impl Machine {
    /// How many requests the SYN queue of a listener with this backlog holds: one more than that since a
    /// correction of January 2025, which went into the stable series as well.
    pub(crate) fn syn_queue_room(&self, backlog: u16) -> u16 {
        let (major, minor, patch) = self.kernel;
        let corrected_by = match (major, minor) {
            (5, 10) => 234,
            (5, 15) => 177,
            (6, 1) => 125,
            (6, 6) => 72,
            (6, 12) => 10,
            newer if newer >= (6, 13) => 0,
            _ => u16::MAX,
        };
        backlog + u16::from(patch >= corrected_by)
    }
}

fn kernel() -> Version {
    let uname = rustix::system::uname();
    version(&uname.release().to_string_lossy(), &uname.version().to_string_lossy())
}

/// Debian's release names an ABI (`6.1.0-56-cloud-amd64`); the patch level is in the other text
/// (`#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)`).
fn version(release: &str, text: &str) -> Version {
    let number = text.split_once("Debian ").map_or(release, |(_, debian)| debian);
    let end = number.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(number.len());
    let mut parts = number[..end].split('.').map(|part| part.parse().unwrap());
    (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap_or(0))
}

/// A trampoline is entered by a direct call of ftrace, which an architecture must have (arm64 has it
/// from 6.4 on). Some distributors refuse tracing of functions as a whole; then ftrace does not even
/// tell which functions it could trace. The kernel as published refuses that list only in lockdown's
/// mode `confidentiality`, which takes nothing from trampolines.
fn functions_can_be_patched(confidential: bool) -> bool {
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let direct_calls = symbols.lines().any(|line| line.split_whitespace().nth(2) == Some("register_ftrace_direct"));
    direct_calls && (confidential || first_byte_of_a_private_mount("tracefs", TRACEABLE_FUNCTIONS).is_some())
}

const TRACEABLE_FUNCTIONS: &str = "/sys/kernel/tracing/available_filter_functions";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// The modes with that in force in brackets; empty if the kernel has none.
fn lockdown() -> String {
    read_private_mount("securityfs", LOCKDOWN, "cat")
}

fn first_byte_of_a_private_mount(kind: &str, file: &str) -> Option<char> {
    read_private_mount(kind, file, "head -c 1").chars().next()
}

/// What `program` shows of a file in a file system that may not be mounted here; empty if it cannot.
fn read_private_mount(kind: &str, file: &str, program: &str) -> String {
    let (directory, _) = file.rsplit_once('/').unwrap();
    // Mounting fails where it is mounted already, which is as good.
    let script = format!("mount -t {kind} none {directory}; {program} {file}");
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn has_member(name: &str, member: &str) -> bool {
    let btf = Btf::from_file("/sys/kernel/btf/vmlinux").unwrap();
    let types = btf.resolve_types_by_name(name).unwrap();
    types.into_iter().any(|found| {
        let Type::Struct(found) = found else { return false };
        found.members.iter().any(|found| btf.resolve_name(found).is_ok_and(|name| name == member))
    })
}

/// How many arguments a function of the kernel has.
fn arguments(function: &str) -> usize {
    let btf = Btf::from_file("/sys/kernel/btf/vmlinux").unwrap();
    let types = btf.resolve_types_by_name(function).unwrap();
    let mut counts = types.into_iter().filter_map(|found| {
        let Type::Func(found) = found else { return None };
        match btf.resolve_chained_type(&found).unwrap() {
            Type::FuncProto(prototype) => Some(prototype.parameters.len()),
            _ => None,
        }
    });
    counts.next().unwrap_or_else(|| panic!("the kernel has no function {function}"))
}

#[test]
fn versions_are_read_as_distributions_write_them() {
    for (release, text, expected) in [
        ("6.1.0-56-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)", (6, 1, 192)),
        ("5.10.0-46-cloud-amd64", "#1 SMP Debian 5.10.262-1 (2026-07-31)", (5, 10, 262)),
        ("7.2.13+deb14-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 7.2.13-1 (2026-10-28)", (7, 2, 13)),
        ("6.18.44-fc-v657", "#1 SMP PREEMPT_DYNAMIC @0", (6, 18, 44)),
        ("6.13-rc7", "#1 SMP", (6, 13, 0)),
    ] {
        assert_eq!(version(release, text), expected, "{release} {text}");
    }
}

/// What the tests expect follows the machine that they find, so a guest that is not what it was meant to be would
/// pass as something else.
#[test]
fn a_guest_is_what_its_rung_says() {
    let Some(rung) = guest_rung() else { return };
    let machine = machine();
    assert_eq!(machine.confidential, rung == "lockdown", "{machine:?}");
    // arm64 has trampolines from 6.4 on.
    let has_trampolines = machine.architecture == "x86_64" || machine.kernel >= (6, 4, 0);
    assert!(machine.kprobes && machine.cgroup2 && (machine.trampolines || !has_trampolines), "{machine:?}");
}
