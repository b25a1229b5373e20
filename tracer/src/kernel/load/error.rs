//! Why the eBPF object cannot be used at all, with what to do about it. Pure; what merely takes a
//! hook away is a [`Refusal`](super::super::hooks::Refusal).

use std::io;

use aya::{EbpfError, maps::MapError};
use thiserror::Error;

use crate::{errno, kernel::hooks::remedy};

/// Why nothing could be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A field that every program needs is not in the kernel's BTF.
    #[error("the kernel's BTF has no {0}, so this kernel cannot be read; please report its version")]
    Offset(&'static str),
    /// The kernel refused a step of the load.
    #[error("{step} failed with {}; {remedy}", errno::named(*errno))]
    Refused {
        /// The system call, and of what.
        step: String,
        /// What the kernel answered.
        errno: i32,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The object is not one that this agent can load.
    #[error("the eBPF object cannot be loaded: {0}; please report it with the kernel's version")]
    Object(String),
    /// The kernel's BTF could not be read a second time.
    #[error("the kernel's BTF cannot be read for program load: {}; mount the host's /sys, and allow more open files (ulimit -n)", chain(.0))]
    Btf(#[from] aya::BtfError),
    /// A map of the object is not there: the object and the agent are from different builds.
    #[error("the eBPF object has no map {0}; rebuild with `cargo xtask build`")]
    MissingMap(&'static str),
    /// A map could not be opened.
    #[error("a map cannot be opened: {0}; allow more open files (ulimit -n, LimitNOFILE=)")]
    Io(#[from] io::Error),
}

/// Names the map, and what to do about the errno.
pub(super) fn object_refused(error: &EbpfError) -> LoadError {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            refused(format!("BPF_MAP_CREATE of map `{name}`"), io_error.raw_os_error(), error)
        }
        other => refused("the load of the eBPF object".to_owned(), errno(other), other),
    }
}

/// The ring is mapped into the agent's memory.
pub(super) fn ring_refused(error: &MapError) -> LoadError {
    refused("the mapping of map `EVENTS`".to_owned(), errno(error), error)
}

fn refused(step: String, errno: Option<i32>, error: &(dyn std::error::Error + 'static)) -> LoadError {
    let Some(errno) = errno else { return LoadError::Object(chain(error)) };
    LoadError::Refused { step, errno, remedy: remedy_for_maps(errno) }
}

fn remedy_for_maps(errno: i32) -> &'static str {
    match errno {
        libc::ENOMEM | libc::E2BIG => {
            "give the agent more memory, or lower --ring-bytes, --max-listeners or --max-workloads"
        }
        // The smallest map was not refused.
        libc::EPERM => "before Linux 5.11 raise RLIMIT_MEMLOCK (ulimit -l); later look for a denial in `dmesg`",
        other => remedy(other),
    }
}

/// The errno at the root of an error.
pub(in crate::kernel) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let own = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    own.or_else(|| error.source().and_then(errno))
}

/// An error with all its causes on one line, the errno by its name.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    if let Some(errno) = errno(error) {
        text = text.replace(&format!("os error {errno}"), &errno::named(errno));
    }
    text.replace('\n', " ")
}

/// The verifier's reason: the log's last line but for the statistics that end it.
pub(super) fn verifier_reason(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 3] = ["verification time ", "stack depth ", "processed "];
    let says = |line: &&str| !line.trim().is_empty() && !STATISTICS.iter().any(|word| line.starts_with(word));
    log.lines().rev().find(says)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_reason_stands_before_its_statistics() {
        let log = "1062: (db) lock *(u64 *)(r2 +0) += r1\nR2 max value is outside of the allowed memory range\n\
                   verification time 52080 usec\nstack depth 208+144+0\nprocessed 9 insns (limit 1000000)\n\n";
        assert_eq!(verifier_reason(log), Some("R2 max value is outside of the allowed memory range"));
        assert_eq!(verifier_reason("processed 0 insns\n"), None);
    }

    #[test]
    fn a_refused_map_is_named_with_its_errno_and_the_remedy_for_that() {
        for (errno, name, remedy) in [
            (libc::ENOMEM, "ENOMEM", "--ring-bytes"),
            (libc::E2BIG, "E2BIG", "--max-listeners"),
            (libc::EMFILE, "EMFILE", "ulimit -n"),
            (libc::EPERM, "EPERM", "RLIMIT_MEMLOCK"),
            (libc::EINVAL, "EINVAL", "report"),
        ] {
            let io_error = io::Error::from_raw_os_error(errno);
            let error = EbpfError::MapError(MapError::CreateError { name: "LISTENERS".into(), io_error });
            let line = object_refused(&error).to_string();
            let begin = format!("BPF_MAP_CREATE of map `LISTENERS` failed with {name}; ");
            assert!(line.starts_with(&begin) && line.contains(remedy) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn an_object_that_fails_without_an_errno_is_reported() {
        let line = object_refused(&EbpfError::NoBTF).to_string();
        assert!(line.starts_with("the eBPF object cannot be loaded: ") && line.contains("report"), "{line}");
    }

    #[test]
    fn a_chain_names_the_errno() {
        let error = io::Error::from_raw_os_error(libc::EACCES);
        assert!(chain(&error).ends_with("(EACCES)"), "{}", chain(&error));
    }
}
