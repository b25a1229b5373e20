//! Which kernel this is, from the words by which distributions describe theirs.
//!
//! Pure: the words are read elsewhere. Versions decide as little as possible, since distributors
//! port changes back: what BTF or a try can tell is not asked here.

use std::fmt;

/// A release of the kernel, with the patch level of the stable series it is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 in 6.1.106.
    pub major: u16,
    /// 1 in 6.1.106.
    pub minor: u16,
    /// 106 in 6.1.106.
    pub patch: u16,
}

impl KernelVersion {
    /// The version with these parts.
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// Works out the version from `uname -r`, `uname -v` and `/proc/version_signature`.
    ///
    /// Debian's and Ubuntu's releases name an ABI (`6.1.0-25-amd64`) and hide the patch level in one
    /// of the others, as in `#1 SMP Debian 6.1.106-3` and `Ubuntu 5.15.0-130.140-generic 5.15.168`.
    #[must_use]
    pub fn detect(release: &str, version: &str, signature: Option<&str>) -> Option<Self> {
        let release = Self::parse(release)?;
        let of_ubuntu = signature.and_then(|signature| signature.split_whitespace().next_back());
        let of_debian = version.split_once("Debian ").map(|(_, version)| version);
        let hidden = [of_ubuntu, of_debian].into_iter().flatten().filter_map(Self::parse);
        // Words that speak of another series are not about this kernel.
        let same_series = |other: &Self| (other.major, other.minor) == (release.major, release.minor);
        Some(hidden.into_iter().find(same_series).unwrap_or(release))
    }

    /// Reads the number that a text starts with: `6.1.106-3`, `6.12-rc1`.
    fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
        let mut parts = text.get(..end)?.split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        // A fourth part, as WSL has, is the distributor's own.
        let patch = parts.next().map_or(Some(0), |patch| patch.parse().ok())?;
        Some(Self { major, minor, patch })
    }

    /// Whether a SYN queue counts as full *at* its limit, `qlen >= sk_max_ack_backlog`, rather than
    /// above it.
    ///
    /// Commit 3479c7549fb1 of January 2025 ("tcp/dccp: allow a connection when `sk_max_ack_backlog`
    /// is zero") changed it in 6.13 and in the stable series below; those that had ended by then never
    /// got it. BTF does not show it and distributors port fixes on their own, so this is a hint for
    /// classifying drops; what it gets wrong is corrected when the counts are reconciled.
    #[must_use]
    pub fn syn_queue_full_at_limit(self) -> bool {
        let fixed_in = match (self.major, self.minor) {
            (5, 4) => 290,
            (5, 10) => 234,
            (5, 15) => 177,
            (6, 1) => 125,
            (6, 6) => 72,
            (6, 12) => 10,
            series => return series < (6, 13),
        };
        self.patch < fixed_in
    }

    /// What one unit of `mem` in `/proc/net/sockstat` stands for, where a page has `page_bytes`.
    ///
    /// Limits (`tcp_mem`) are always in pages. What is in use was counted in 4096 bytes whatever a page
    /// had, until 6.0 (commit 100fdd1faf50, "net: remove `SK_MEM_QUANTUM` and `SK_MEM_QUANTUM_SHIFT`").
    #[must_use]
    pub fn tcp_memory_unit_bytes(self, page_bytes: u64) -> u64 {
        if (self.major, self.minor) < (6, 0) { 4096 } else { page_bytes }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u16, minor: u16, patch: u16) -> KernelVersion {
        KernelVersion::new(major, minor, patch)
    }

    #[test]
    fn versions_of_distributions() {
        let ubuntu = Some("Ubuntu 5.15.0-130.140-generic 5.15.168\n");
        for (release, text, signature, expected) in [
            ("6.18.44-fc-v657", "#1 SMP PREEMPT_DYNAMIC @0", None, version(6, 18, 44)),
            ("6.1.0-25-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.106-3 (2024-08-26)", None, version(6, 1, 106)),
            ("5.10.0-33-amd64", "#1 SMP Debian 5.10.226-1 (2024-10-03)", None, version(5, 10, 226)),
            (
                "6.12.9+bpo-amd64",
                "#1 SMP PREEMPT_DYNAMIC Debian 6.12.9-1~bpo12+1 (2025-01-19)",
                None,
                version(6, 12, 9),
            ),
            ("5.15.0-130-generic", "#140-Ubuntu SMP Wed Dec 18 17:59:53 UTC 2024", ubuntu, version(5, 15, 168)),
            ("5.15.0-130-generic", "#140-Ubuntu SMP Wed Dec 18 17:59:53 UTC 2024", None, version(5, 15, 0)),
            ("5.14.0-503.el9.x86_64", "#1 SMP PREEMPT_DYNAMIC Tue", None, version(5, 14, 0)),
            ("6.6.87.2-microsoft-standard-WSL2", "#1 SMP", None, version(6, 6, 87)),
            ("6.13-rc7", "#1 SMP", None, version(6, 13, 0)),
            ("6.8.0-49-generic", "built on Debian 12.5-1", Some("Ubuntu 7"), version(6, 8, 0)),
        ] {
            assert_eq!(KernelVersion::detect(release, text, signature), Some(expected), "{release} {text}");
        }
        for release in ["", "6", "6.", "six.one", "6.x", ".1", "99999.1.1", "-6.1"] {
            assert_eq!(KernelVersion::detect(release, "", None), None, "{release}");
        }
    }

    #[test]
    fn memory_was_not_always_counted_in_pages() {
        for (kernel, page_bytes, expected) in [
            (version(5, 10, 226), 65_536, 4096),
            (version(5, 19, 17), 65_536, 4096),
            (version(6, 0, 0), 65_536, 65_536),
            (version(6, 18, 44), 4096, 4096),
            (version(5, 10, 226), 4096, 4096),
        ] {
            assert_eq!(kernel.tcp_memory_unit_bytes(page_bytes), expected, "{kernel}, pages of {page_bytes}");
        }
    }

    #[test]
    fn the_syn_queue_fix_by_series() {
        let at_limit =
            [(5, 10, 233), (5, 15, 176), (6, 1, 124), (6, 6, 71), (6, 12, 9), (6, 11, 11), (5, 19, 17), (4, 19, 325)];
        for (major, minor, patch) in at_limit {
            assert!(version(major, minor, patch).syn_queue_full_at_limit(), "{major}.{minor}.{patch}");
        }
        let above =
            [(5, 10, 234), (5, 15, 177), (6, 1, 125), (6, 6, 72), (6, 12, 10), (6, 13, 0), (6, 18, 44), (7, 0, 0)];
        for (major, minor, patch) in above {
            assert!(!version(major, minor, patch).syn_queue_full_at_limit(), "{major}.{minor}.{patch}");
        }
    }
}
