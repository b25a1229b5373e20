//! Faults at the start: what the agent needs is missing, in a mount or user namespace of its own.
//! Each is one line on stderr with cause and remedy, and an exit code that says whose fault it is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::Lab;
use crate::lab::seccomp::agent_without_ipv6;
use crate::lab::setting::agent_binary;

const UNAVAILABLE: i32 = 69;
const DEGRADED: i32 = 1;
const UNUSABLE: i32 = 2;
const RUN: [&str; 3] = ["run", "--listen", "127.0.0.1:0"];

/// Runs `tracer` after `preparation` (shell commands), in a mount namespace of its own.
fn tracer_after(preparation: &str, args: &[&str]) -> Output {
    let script = format!("{preparation} && exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).arg(agent_binary()).args(args);
    command.output().unwrap()
}

/// The one line with which `tracer run` refuses to start, with the code for an unusable kernel or rights.
fn refusal(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(UNAVAILABLE), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let line = said.strip_prefix("tracer: ").and_then(|said| said.strip_suffix('\n')).unwrap();
    assert!(!line.contains('\n'), "{said}");
    line.to_owned()
}

fn refused_after(preparation: &str) -> String {
    refusal(&tracer_after(preparation, &RUN))
}

#[test]
fn without_type_information() {
    let _lab = Lab::enter(&[]);
    let line = refused_after("mount -t tmpfs none /sys");
    assert!(line.starts_with("the kernel has no type information (/sys/kernel/btf/vmlinux): "), "{line}");
    assert!(line.contains("CONFIG_DEBUG_INFO_BTF=y") && line.contains("mount the host's /sys"), "{line}");
}

#[test]
fn with_corrupt_type_information() {
    let _lab = Lab::enter(&[]);
    let line = refused_after("mount --bind /proc/version /sys/kernel/btf/vmlinux");
    assert!(line.starts_with("the kernel's type information cannot be used: not BTF"), "{line}");
    assert!(line.ends_with("please report it with the kernel's version"), "{line}");
}

#[test]
fn with_unreadable_proc() {
    let _lab = Lab::enter(&[]);
    let line = refused_after("mount -t tmpfs none /proc");
    assert!(line.starts_with("cannot read /proc/self/status ("), "{line}");
    assert!(line.contains("mount proc at /proc"), "{line}");
}

#[test]
fn with_too_few_descriptors_for_the_maps() {
    let _lab = Lab::enter(&[]);
    let line = refused_after("ulimit -n 20");
    assert!(line.starts_with("BPF_MAP_CREATE of map `"), "{line}");
    assert!(line.contains("` failed with EMFILE; ") && line.contains("ulimit -n"), "{line}");
}

/// Wherever descriptors run out, that is what is said, and how to allow more. With enough of them it runs.
#[test]
fn with_any_number_of_descriptors() {
    let _lab = Lab::enter(&[]);
    for descriptors in (12..=132).step_by(8) {
        let output = tracer_after(&format!("ulimit -n {descriptors}"), &["advise", "--watch", "1s"]);
        let said = String::from_utf8(output.stderr).unwrap();
        let has_run = !output.stdout.is_empty();
        assert!(has_run || said.contains("ulimit -n"), "{descriptors}: {:?} {said}", output.status);
        assert!(!said.contains("mount "), "{descriptors}: {said}");
    }
}

/// Every address is every one of IPv4 there, and one line says so; a single address of IPv6 is refused.
#[test]
fn without_ipv6() {
    let _lab = Lab::enter(&[]);
    let run = |address| {
        let mut command = agent_without_ipv6();
        command.args(["run", "--listen", address]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let mut agent = run("[::]:0").spawn().unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines().map_while(Result::ok);
    let said = lines.find(|line| line.starts_with("metrics: ")).unwrap_or_default();
    let served = said.strip_prefix("metrics: http://0.0.0.0:").and_then(|rest| rest.strip_suffix("/metrics"));
    let answer = served.map(|port| {
        let mut stream = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    kill_process(Pid::from_child(&agent), Signal::TERM).unwrap();
    let log = String::from_utf8(agent.wait_with_output().unwrap().stderr).unwrap();
    assert!(answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200 ")), "{said:?} {log}");
    assert!(log.contains("this host has no IPv6: the agent listens on 0.0.0.0:0 instead of [::]:0"), "{log}");

    let output = run("[::1]:0").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cannot listen on [::1]:0: ") && said.contains("--listen"), "{said}");
}

#[test]
fn with_some_capabilities_only() {
    let _lab = Lab::enter(&[]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-all,+bpf,+perfmon"]).arg(agent_binary()).args(RUN);
    let line = refusal(&command.output().unwrap());
    assert!(line.starts_with("missing CAP_SYS_ADMIN, CAP_SYS_PTRACE: run as root"), "{line}");
}

#[test]
fn as_root_of_a_user_namespace() {
    let _lab = Lab::enter(&[]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user"]).arg(agent_binary()).args(RUN);
    let line = refusal(&command.output().unwrap());
    assert!(
        line.starts_with("BPF_MAP_CREATE of the smallest map failed with EPERM: root here is root of a "),
        "{line}"
    );
}

#[test]
fn doctor_says_the_same_with_its_own_code() {
    let _lab = Lab::enter(&[]);
    let output = tracer_after("mount -t tmpfs none /sys", &["doctor", "--output", "json"]);
    assert_eq!(output.status.code(), Some(UNUSABLE));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["verdict"], "unusable");
    assert!(found["obstacle"].as_str().unwrap().starts_with("the kernel has no type information"), "{found}");
}

/// The packet rung alone needs cgroup v2, so its absence degrades.
#[test]
fn without_cgroups_the_packet_rung_says_so() {
    let _lab = Lab::enter(&[]);
    let args = ["doctor", "--disable-hooks", "fentry,kprobe"];
    let output = tracer_after("mount -t tmpfs none /sys/fs/cgroup", &args);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(DEGRADED), "{text}");
    assert!(text.contains("not cgroup_skb/ingress: the program cannot be attached to the cgroup-v2 root"), "{text}");
    assert!(text.contains("remedy: mount the host's cgroup v2"), "{text}");
    assert!(text.contains("\nlisten drops         degraded  the namespace's totals"), "{text}");
}
