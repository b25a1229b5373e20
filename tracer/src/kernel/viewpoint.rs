//! From where the agent looks: whether the numbers that `/proc` gives to processes, and the agent's clock, are those of
//! the kernel's programs. In a PID namespace and in a time namespace of its own they are not.

use std::{fs, path::Path, sync::LazyLock, time::Duration};

use crate::obstacles::{Obstacle, Obstacles};

/// `PROC_PID_INIT_INO`, the initial PID namespace.
const INITIAL_PID: &str = "pid:[4026531836]";
/// `PROC_TIME_INIT_INO`, the initial time namespace.
const INITIAL_TIME: &str = "time:[4026531834]";

/// What the agent's own clock is ahead of the programs', nanoseconds; `None` if nothing tells.
static CLOCK_AHEAD_NS: LazyLock<Option<i128>> = LazyLock::new(|| clock_ahead_ns(Path::new("/proc/self")));
static HAS_HOSTS_NUMBERS: LazyLock<bool> = LazyLock::new(|| has_hosts_numbers(Path::new("/proc")));

/// Whether `/proc` numbers processes as the programs do, so that a number of theirs leads to the process that they mean.
#[must_use]
pub fn proc_has_hosts_numbers() -> bool {
    *HAS_HOSTS_NUMBERS
}

/// The programs' clock, CLOCK_MONOTONIC of the initial time namespace, nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let own = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(own - CLOCK_AHEAD_NS.unwrap_or(0)).unwrap_or(0)
}

/// Notes what cannot be seen from here.
pub fn note(met: &mut Obstacles) {
    if !proc_has_hosts_numbers() {
        met.note(Obstacle::ProcessNumbers, "/proc/1/ns/pid is another than the initial one");
    }
    if CLOCK_AHEAD_NS.is_none() {
        met.note(Obstacle::Clock, "/proc/self/timens_offsets is another one's");
    }
}

/// What is worth a line in the log though nothing is missing.
#[must_use]
pub fn remark() -> Option<String> {
    let ahead = CLOCK_AHEAD_NS.filter(|ahead| *ahead != 0)?;
    let whole = Duration::from_nanos(u64::try_from(ahead.abs()).unwrap_or(u64::MAX));
    let sign = if ahead < 0 { "behind" } else { "ahead of" };
    Some(format!(
        "the agent is in a time namespace, its clock {whole:?} {sign} the kernel's: times are put right by that"
    ))
}

/// Process 1 of a proc file system is in the PID namespace by which that numbers processes.
fn has_hosts_numbers(proc: &Path) -> bool {
    let of = |process: &str| fs::read_link(proc.join(process).join("ns/pid"));
    // Hosts may shield process 1 even from root: then the agent's own namespace tells.
    of("1").or_else(|_| of("self")).is_ok_and(|namespace| namespace == Path::new(INITIAL_PID))
}

/// Its `timens_offsets` are those of the processes that it starts, which are its own unless it has left their namespace.
fn clock_ahead_ns(process: &Path) -> Option<i128> {
    let Ok(own) = fs::read_link(process.join("ns/time")) else {
        // A kernel without time namespaces.
        return Some(0);
    };
    if own == Path::new(INITIAL_TIME) {
        return Some(0);
    }
    let is_told = fs::read_link(process.join("ns/time_for_children")).is_ok_and(|children| children == own);
    let offsets = is_told.then(|| fs::read_to_string(process.join("timens_offsets")).ok()).flatten()?;
    offset_ns(&offsets)
}

/// The offset in the line `monotonic  <seconds>  <nanoseconds>`.
fn offset_ns(offsets: &str) -> Option<i128> {
    let line = offsets.lines().find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<i128>);
    let (seconds, nanoseconds) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(seconds * 1_000_000_000 + nanoseconds)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn link(proc: &Path, process: &str, name: &str, target: &str) {
        let dir = proc.join(process).join("ns");
        fs::create_dir_all(&dir).unwrap();
        symlink(target, dir.join(name)).unwrap();
    }

    #[test]
    fn process_1_tells_whose_numbers_they_are() {
        for (first, own, expected) in [
            (Some(INITIAL_PID), "pid:[1]", true),
            (Some("pid:[1]"), INITIAL_PID, false),
            (None, INITIAL_PID, true),
            (None, "pid:[1]", false),
        ] {
            let proc = tempfile::tempdir().unwrap();
            link(proc.path(), "self", "pid", own);
            if let Some(first) = first {
                link(proc.path(), "1", "pid", first);
            }
            assert_eq!(has_hosts_numbers(proc.path()), expected, "{first:?} {own}");
        }
    }

    #[test]
    fn the_clocks_offset_is_its_namespaces() {
        let offsets = "monotonic       8640000  -5\nboottime        1 0\n";
        for (own, children, expected) in [
            (INITIAL_TIME, "time:[1]", Some(0)),
            ("time:[1]", "time:[1]", Some(8_639_999_999_999_995)),
            ("time:[1]", "time:[2]", None),
        ] {
            let proc = tempfile::tempdir().unwrap();
            link(proc.path(), "self", "time", own);
            link(proc.path(), "self", "time_for_children", children);
            fs::write(proc.path().join("self/timens_offsets"), offsets).unwrap();
            assert_eq!(clock_ahead_ns(&proc.path().join("self")), expected, "{own}");
        }
        assert_eq!(clock_ahead_ns(Path::new("/nonexistent")), Some(0));
        assert_eq!(offset_ns("monotonic -1 250"), Some(-999_999_750));
        assert_eq!(offset_ns("boottime 1 2"), None);
    }
}
