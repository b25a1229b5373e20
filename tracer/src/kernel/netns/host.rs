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
    let error = match link_inum(&path) {
        Ok(inum) => return Ok(inum),
        Err(error) => error,
    };
    match kernel_thread_inum(&proc.join("2")) {
        Ok(Some(inum)) => Ok(inum),
        // It is there: what it lacks, descriptors or memory, is what is wanting.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io::Error::other(ProcessRefused(error))),
        _ => {
            let path = path.display();
            Err(io::Error::new(
                error.kind(),
                format!(
                    "cannot read {path} ({error}), which tells the host's network namespace: it takes \
                     CAP_SYS_PTRACE and the host's PID namespace (hostPID: true in Kubernetes)"
                ),
            ))
        }
    }
}

/// The first kernel thread cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot read /proc/2, which tells the host's network namespace: {0}")]
struct ProcessRefused(#[source] io::Error);

/// The namespace of the process with this directory, if it is a kernel thread.
fn kernel_thread_inum(process: &Path) -> io::Result<Option<u32>> {
    let stat = fs::read_to_string(process.join("stat"))?;
    // The name in parentheses may itself hold any character, so count from the last one on:
    // state, ppid, pgrp, session, tty_nr, tpgid, flags.
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok());
    if flags.is_none_or(|flags| flags & PF_KTHREAD == 0) {
        return Ok(None);
    }
    link_inum(&process.join("ns/net")).map(Some)
}
