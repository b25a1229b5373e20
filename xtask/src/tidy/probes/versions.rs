//! The versions that a prototype is quoted for.
//!
//! A list of spans, ascending, without blanks: `5.10-6.1.96,6.2-6.5`. A span is one release
//! (`6.12.117`), one series with all its stable releases (`6.1`), from one to the other with both
//! included (`5.10-6.1`), or open (`5.10-`). A series at the end of a span stands for its last
//! release, so that `6.1.97-6.1` is what was changed by a stable release of 6.1 and by it alone.

/// A release of the kernel: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl Version {
    /// Later than all.
    const END: Self = Self(u32::MAX, u32::MAX, u32::MAX);

    /// A release as in `6.1.192`; `6.1` is the series' first.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Named::parse(text).map(Named::first)
    }
}

/// A release or a series, as it is written.
#[derive(Clone, Copy)]
struct Named {
    major: u32,
    minor: u32,
    patch: Option<u32>,
}

impl Named {
    fn parse(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<u32>> = text.split('.').map(number).collect();
        match numbers.as_deref() {
            Some(&[major, minor]) => Ok(Self { major, minor, patch: None }),
            Some(&[major, minor, patch]) => Ok(Self { major, minor, patch: Some(patch) }),
            _ => Err(format!("`{text}` is no version, as are `6.1` and `6.1.192`")),
        }
    }

    fn first(self) -> Version {
        Version(self.major, self.minor, self.patch.unwrap_or(0))
    }

    fn last(self) -> Version {
        Version(self.major, self.minor, self.patch.unwrap_or(u32::MAX))
    }
}

fn number(text: &str) -> Option<u32> {
    text.chars().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Some versions of the kernel: spans in ascending order, the ends included.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Versions(Vec<(Version, Version)>);

impl Versions {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut spans: Vec<(Version, Version)> = Vec::new();
        for span in text.split(',') {
            let (from, to) = ends(span)?;
            if to < from {
                return Err(format!("`{span}` ends before it begins"));
            }
            if spans.last().is_some_and(|&(_, before)| from <= before) {
                return Err(format!("`{span}` does not come after what stands before it"));
            }
            spans.push((from, to));
        }
        Ok(Self(spans))
    }

    pub(super) fn cover(&self, version: Version) -> bool {
        self.0.iter().any(|&(from, to)| from <= version && version <= to)
    }

    pub(super) fn overlap(&self, other: &Self) -> bool {
        let meet = |a: &(Version, Version), b: &(Version, Version)| a.0 <= b.1 && b.0 <= a.1;
        self.0.iter().any(|a| other.0.iter().any(|b| meet(a, b)))
    }
}

fn ends(span: &str) -> Result<(Version, Version), String> {
    match span.split_once('-') {
        None => Named::parse(span).map(|named| (named.first(), named.last())),
        Some((from, "")) => Ok((Named::parse(from)?.first(), Version::END)),
        Some((from, to)) => Ok((Named::parse(from)?.first(), Named::parse(to)?.last())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(versions: &str, version: &str) -> bool {
        Versions::parse(versions).unwrap().cover(Version::parse(version).unwrap())
    }

    #[test]
    fn both_ends_of_a_span_are_included_with_their_stable_releases() {
        for version in ["5.10.0", "5.10.262", "5.15.1", "6.1.0", "6.1.192"] {
            assert!(covers("5.10-6.1", version), "{version}");
        }
        for version in ["5.9.16", "6.2.0", "6.10.1"] {
            assert!(!covers("5.10-6.1", version), "{version}");
        }
    }

    #[test]
    fn a_span_may_be_one_release_one_series_or_open() {
        assert!(covers("6.12.117", "6.12.117") && !covers("6.12.117", "6.12.118"));
        assert!(covers("6.1", "6.1.192") && !covers("6.1", "6.12.1"));
        assert!(covers("5.10-", "7.2.13") && !covers("5.10-", "5.4.290"));
    }

    #[test]
    fn a_stable_release_splits_its_series() {
        let (before, since) = ("5.10-6.1.96,6.2-6.5", "6.1.97-6.1,6.9.8-");
        assert!(covers(before, "6.1.96") && !covers(since, "6.1.96"));
        assert!(covers(since, "6.1.97") && !covers(before, "6.1.97"));
        assert!(!covers(since, "6.9.7") && covers(since, "6.9.8"));
    }

    #[test]
    fn overlap_is_a_version_in_both() {
        let overlap = |a: &str, b: &str| Versions::parse(a).unwrap().overlap(&Versions::parse(b).unwrap());
        assert!(overlap("5.10-6.1", "6.1-"));
        assert!(overlap("6.1.97-6.1", "6.1.192"));
        assert!(overlap("5.10,6.1", "6.0-6.2"));
        assert!(!overlap("5.10-6.1.96,6.2-6.5", "6.1.97-6.1,6.6-"));
    }

    #[test]
    fn what_is_not_of_the_grammar_is_refused() {
        for text in
            ["", "6", "6.1.2.3", "v6.1", "6.x", "+6.1", "6.1,", ",6.1", "-6.1", "5.10--6.1", "6.1 ", "5.10-6.1-"]
        {
            assert!(Versions::parse(text).is_err(), "`{text}`");
        }
    }

    #[test]
    fn spans_ascend_and_do_not_meet() {
        for text in ["6.1-5.10", "6.1.97-6.1.96", "6.1-6.2,6.2-", "6.1,5.10", "5.10-,6.1"] {
            assert!(Versions::parse(text).is_err(), "`{text}`");
        }
    }
}
