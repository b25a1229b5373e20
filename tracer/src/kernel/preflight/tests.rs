//! What can be had on made-up machines, and what each obstacle is said to need.

use super::*;

fn version(major: u16, minor: u16, patch: u16) -> KernelVersion {
    KernelVersion::new(major, minor, patch)
}

/// A machine on which everything is as it should be.
fn able() -> Preflight {
    Preflight {
        euid: 0,
        capabilities: (1 << 41) - 1,
        release: "6.1.0-25-amd64".to_owned(),
        version: Some(version(6, 1, 106)),
        btf: true,
        lockdown: Lockdown::None,
        unprivileged_bpf_disabled: Some(2),
        seccomp: false,
        initial_user_namespace: true,
        proc_unreadable: None,
        bpf_refused: None,
    }
}

fn verdict(change: impl FnOnce(&mut Preflight)) -> Option<PreflightError> {
    let mut preflight = able();
    change(&mut preflight);
    preflight.verdict().err()
}

fn bits(capabilities: &[Capability]) -> u64 {
    capabilities.iter().fold(0, |bits, &capability| bits | 1 << (capability as u8))
}

#[test]
fn each_obstacle_has_its_verdict() {
    use PreflightError as E;
    assert_eq!(verdict(|_| ()), None);
    for (errno, reason, part) in [(libc::ENOENT, "ENOENT", "mount proc"), (libc::EMFILE, "EMFILE", "ulimit -n")] {
        let found = verdict(|p| p.proc_unreadable = Some(("/proc/self/status", errno))).unwrap().to_string();
        assert!(found.contains(reason) && found.contains(part), "{found}");
    }
    assert_eq!(
        verdict(|p| (p.version, p.release) = (None, "six".to_owned())),
        Some(E::UnknownRelease("six".to_owned()))
    );
    assert_eq!(verdict(|p| p.version = Some(version(5, 9, 16))), Some(E::KernelTooOld(version(5, 9, 16))));
    assert_eq!(verdict(|p| p.version = Some(OLDEST)), None);
    assert_eq!(verdict(|p| p.btf = false), Some(E::NoBtf));
    let refused = |errno, change: fn(&mut Preflight)| {
        verdict(|p| {
            p.bpf_refused = Some(BpfRefused { step: "BPF_PROG_LOAD", errno });
            change(p);
        })
        .map(|error| match error {
            E::Refused(_, refuser) => refuser,
            other => panic!("{other}"),
        })
    };
    assert_eq!(refused(libc::ENOSYS, |_| ()), Some(Refuser::NoBpf));
    assert_eq!(refused(libc::EPERM, |p| p.initial_user_namespace = false), Some(Refuser::UserNamespace));
    assert_eq!(refused(libc::EPERM, |p| p.version = Some(version(5, 10, 226))), Some(Refuser::Memlock));
    // Root of a user namespace there, whom no limit would help; want of memory has nothing to do with rights.
    for (errno, refuser) in [(libc::EPERM, Refuser::UserNamespace), (libc::ENOMEM, Refuser::Memlock)] {
        let found = refused(errno, |p| (p.version, p.initial_user_namespace) = (Some(version(5, 10, 226)), false));
        assert_eq!(found, Some(refuser), "{}", errno::named(errno));
    }
    for errno in [libc::EPERM, libc::EACCES] {
        assert_eq!(refused(errno, |_| ()), Some(Refuser::SecurityModule));
    }
    for errno in [libc::EPERM, libc::EACCES, libc::EINVAL, libc::E2BIG, libc::ENOSYS] {
        assert_eq!(refused(errno, |p| p.seccomp = true), Some(Refuser::Seccomp));
    }
    // Want of memory or descriptors is what it says, behind a filter too.
    for errno in [libc::ENOMEM, libc::EMFILE] {
        assert_eq!(refused(errno, |p| p.seccomp = true), Some(Refuser::Other(remedy(errno))));
    }
    assert_eq!(refused(libc::EINVAL, |_| ()), Some(Refuser::Other(remedy(libc::EINVAL))));
}

#[test]
fn missing_capabilities_are_named() {
    use Capability::{Bpf, Perfmon, SysAdmin, SysPtrace};
    let missing = |held: &[Capability]| match verdict(|p| p.capabilities = bits(held)) {
        None => Vec::new(),
        Some(PreflightError::Capabilities(missing)) => missing,
        Some(other) => panic!("{other}"),
    };
    assert_eq!(missing(&[]), [Bpf, Perfmon, SysAdmin, SysPtrace]);
    assert_eq!(missing(&[Bpf, Perfmon]), [SysAdmin, SysPtrace]);
    assert_eq!(missing(&[SysAdmin]), [SysPtrace]);
    assert_eq!(missing(&[SysAdmin, SysPtrace]), []);
    assert_eq!(missing(&[Bpf, SysPtrace]), [Perfmon, SysAdmin]);
    let before_cap_bpf = Preflight { capabilities: 0, version: Some(version(5, 4, 0)), ..able() };
    assert_eq!(before_cap_bpf.missing_capabilities(), [SysAdmin, SysPtrace]);
}

#[test]
fn every_error_is_one_line_with_a_remedy() {
    let step = "BPF_PROG_LOAD of the smallest program";
    let refused = |errno, refuser| PreflightError::Refused(BpfRefused { step, errno }, refuser);
    for (error, cause, remedy) in [
        (
            PreflightError::Proc { path: "/proc/self/status", reason: "ENOENT".into(), remedy: "mount proc" },
            "/proc/self/status",
            "mount proc",
        ),
        (PreflightError::UnknownRelease("x".into()), "\"x\"", "report"),
        (PreflightError::KernelTooOld(version(4, 19, 1)), "4.19.1", "5.10.0 or later"),
        (PreflightError::Capabilities(vec![Capability::Bpf, Capability::Perfmon]), "CAP_BPF, CAP_PERFMON", "sudo"),
        (PreflightError::NoBtf, "type information", "CONFIG_DEBUG_INFO_BTF=y"),
        (refused(libc::ENOSYS, Refuser::NoBpf), "ENOSYS", "CONFIG_BPF_SYSCALL=y"),
        (refused(libc::EPERM, Refuser::UserNamespace), "user namespace", "outside"),
        (refused(libc::EINVAL, Refuser::Seccomp), "EINVAL: a seccomp filter", "Unconfined"),
        (refused(libc::EPERM, Refuser::Memlock), "lockable memory", "RLIMIT_MEMLOCK"),
        (refused(libc::EACCES, Refuser::SecurityModule), "BPF_PROG_LOAD of the smallest program", "dmesg"),
    ] {
        let line = error.to_string();
        assert!(line.contains(cause) && line.contains(remedy), "{line}");
        assert!(!line.contains('\n') && !line.contains("  ") && line.len() < 160, "{line}");
    }
}

#[test]
fn kernel_files_are_read_as_they_are() {
    let status = "Name:\ttracer\nCapPrm:\t0\nCapEff:\t000001ffffffffff\nSeccomp:\t2\nSeccomp_filters:\t1\n";
    assert_eq!(Status::parse(status), Status { capabilities: 0x1ff_ffff_ffff, seccomp: true });
    assert_eq!(Status::parse("Seccomp:\t0\n"), Status { capabilities: 0, seccomp: false });
    assert_eq!(Lockdown::parse("none [integrity] confidentiality\n"), Lockdown::Integrity);
    assert_eq!(Lockdown::parse("none integrity [confidentiality]\n"), Lockdown::Confidentiality);
    assert_eq!(Lockdown::parse("[none] integrity confidentiality\n"), Lockdown::None);
    assert_eq!(Lockdown::parse(""), Lockdown::None);
    assert!(maps_every_id("         0          0 4294967295\n"));
    assert!(!maps_every_id("         0       1000          1\n"));
    assert!(!maps_every_id(""));
}

#[test]
fn a_realtime_kernel_names_itself() {
    assert!(is_realtime("#1 SMP PREEMPT_RT Debian 6.12.117-1 (2026-10-30)"));
    for other in ["#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1", "#1 SMP PREEMPT Debian 7.3.4-1", ""] {
        assert!(!is_realtime(other), "{other}");
    }
}

#[test]
fn this_machine_is_seen_as_it_is() {
    let found = Preflight::collect();
    let expected = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(found.release, expected.trim());
    assert!(found.version.is_some_and(|version| version >= OLDEST), "{found:?}");
    assert_eq!(found.proc_unreadable, None);
    assert_eq!(found.euid == 0, rustix::process::geteuid().is_root());
    assert_eq!(found.btf, fs::metadata("/sys/kernel/btf/vmlinux").is_ok());
}
