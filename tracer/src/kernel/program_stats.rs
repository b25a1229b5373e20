//! What the kernel keeps about each loaded program: runs, their time, and events it was not shown.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use aya::programs::Program;

/// One program's figures since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStats {
    /// Name in the eBPF object.
    pub name: String,
    /// How often it ran; 0 unless the kernel counts (`kernel.bpf_stats_enabled`).
    pub runs: u64,
    /// How long it ran in all; as above.
    pub run_time: Duration,
    /// Events that it was not shown; `None` before Linux 5.12, which does not say.
    pub missed_runs: Option<u64>,
}

impl ProgramStats {
    /// Asks the kernel; `None` if the program is not loaded.
    #[must_use]
    pub fn read(name: &str, program: &Program) -> Option<Self> {
        let info = program.info().ok()?;
        Some(Self {
            name: name.to_owned(),
            runs: info.run_count(),
            run_time: info.run_time(),
            missed_runs: program.fd().ok().and_then(|fd| missed_runs(fd.as_fd())),
        })
    }
}

/// A program does not run while it runs on the same CPU already (fentry from 5.12 on, tracepoints from
/// 6.1), so an interrupt in the middle of one event hides the events that it brings. aya does not hand
/// the number out, but the kernel shows it with the descriptor.
fn missed_runs(program: BorrowedFd<'_>) -> Option<u64> {
    parse(&fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?)
}

fn parse(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_among_the_other_fields() {
        let fdinfo = "pos:\t0\nprog_type:\t26\nrun_cnt:\t9\nrecursion_misses:\t7\nverified_insns:\t12\n";
        assert_eq!(parse(fdinfo), Some(7));
        assert_eq!(parse("pos:\t0\nprog_type:\t26\n"), None);
    }
}
