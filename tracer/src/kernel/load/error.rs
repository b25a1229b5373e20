//! Why the eBPF object cannot be used at all, with what to do about it. Pure; what merely takes a
//! hook away is a [`Refusal`](super::super::hooks::Refusal).

use std::io;

use thiserror::Error;

/// Why nothing could be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A field that every program needs is not in the kernel's BTF.
    #[error("the kernel's BTF has no {0}, so this kernel cannot be read; please report its version")]
    Offset(&'static str),
    /// The kernel refused the maps or the object's BTF.
    #[error("the kernel refused the tracer's maps: {cause}; {remedy}")]
    Maps {
        /// What the kernel said, and of which map.
        cause: String,
        /// What to do about it.
        remedy: &'static str,
    },
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

/// What to do depends on whether memory, descriptors or rights are wanting.
pub(super) fn maps_refused(error: &(dyn std::error::Error + 'static)) -> LoadError {
    let remedy = match errno(error) {
        Some(libc::ENOMEM | libc::E2BIG) => {
            "give the agent more memory, or lower --ring-bytes, --max-listeners or --max-workloads"
        }
        Some(libc::EMFILE | libc::ENFILE) => "allow more open files (ulimit -n, LimitNOFILE=)",
        _ => "give the agent CAP_BPF, and before Linux 5.11 a higher RLIMIT_MEMLOCK (ulimit -l)",
    };
    LoadError::Maps { cause: chain(error), remedy }
}

/// The errno at the root of an error.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let own = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    own.or_else(|| error.source().and_then(errno))
}

/// An error with all its causes on one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
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
    fn refused_maps_name_what_is_wanting() {
        for (errno, remedy) in [
            (libc::ENOMEM, "--ring-bytes"),
            (libc::E2BIG, "--max-listeners"),
            (libc::EMFILE, "ulimit -n"),
            (libc::EPERM, "CAP_BPF"),
        ] {
            let line = maps_refused(&io::Error::from_raw_os_error(errno)).to_string();
            assert!(line.contains("maps") && line.contains(remedy) && !line.contains('\n'), "{line}");
        }
    }
}
