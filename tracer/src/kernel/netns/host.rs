//! Which network namespace is the host's.
//!
//! Owns that one answer. Reads links and one status line below `/proc`; keeps nothing.

use std::path::Path;
use std::{fs, io};

use super::link_inum;

/// `PF_KTHREAD` in the flags of `/proc/<pid>/stat`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The inode number of the host's network namespace: PID 1's.
///
/// Hosts may shield PID 1 even from root with `CAP_SYS_PTRACE`. Kernel threads never leave the initial
/// namespace, so PID 2 answers instead when it is one; in a container's PID namespace it is not.
pub(super) fn inum(proc: &Path) -> io::Result<u32> {
    let path = proc.join("1/ns/net");
    link_inum(&path).or_else(|error| {
        kernel_thread_inum(&proc.join("2")).ok_or_else(|| {
            let path = path.display();
            io::Error::new(
                error.kind(),
                format!(
                    "cannot read {path} ({error}), which tells the host's network namespace: it takes \
                     CAP_SYS_PTRACE and the host's PID namespace (hostPID: true in Kubernetes)"
                ),
            )
        })
    })
}

/// The namespace of the process with this directory, if it is a kernel thread.
fn kernel_thread_inum(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name in parentheses may itself hold any character, so count from the last one on:
    // state, ppid, pgrp, session, tty_nr, tpgid, flags.
    let (_, rest) = stat.rsplit_once(')')?;
    let flags: u64 = rest.split_ascii_whitespace().nth(6)?.parse().ok()?;
    if flags & PF_KTHREAD == 0 {
        return None;
    }
    link_inum(&process.join("ns/net")).ok()
}
