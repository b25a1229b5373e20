//! What `/proc` tells of the node as a whole: packets that its processors dropped before TCP saw them, and
//! its open files.
//!
//! Owns the parsers of `softnet_stat` and `file-nr` and the reader, which the worker calls once a pass. What
//! cannot be read, or not be told, is absent, never zero. Keeps no state, logs nothing.

use std::fs;
use std::path::PathBuf;

/// The column of `softnet_stat` that holds the number of the processor (from Linux 5.10). Lines cannot be
/// counted instead: processors that are offline have none.
const SOFTNET_CPU: usize = 12;

/// Where the node's figures are read.
#[derive(Clone, Debug)]
pub struct Reader {
    proc: PathBuf,
    tcp_memory_unit_bytes: u64,
}

/// The node at the last pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Every processor that is online.
    pub softnet: Vec<Softnet>,
    /// Open files.
    pub files: Option<Files>,
    /// What one unit of `mem` in `sockstat` stands for; 0 before the first pass.
    pub tcp_memory_unit_bytes: u64,
}

/// What one processor did with packets from devices, since the node booted. The kernel's counters have 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Softnet {
    /// The processor's number.
    pub cpu: u32,
    /// Packets dropped because `netdev_max_backlog` (or a flow's share of it) was reached.
    pub dropped: u32,
    /// Times that `netdev_budget` or its time was used up with packets left to do.
    pub squeezed: u32,
}

/// The open files of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    /// Handles in use.
    pub open: u64,
    /// `fs.file-max`.
    pub limit: u64,
}

impl Reader {
    /// Reads below `proc`, which is `/proc` outside tests. The unit of TCP's memory is the kernel's.
    #[must_use]
    pub fn new(proc: impl Into<PathBuf>, tcp_memory_unit_bytes: u64) -> Self {
        Self { proc: proc.into(), tcp_memory_unit_bytes }
    }

    /// The node as it is now.
    #[must_use]
    pub fn read(&self) -> Node {
        let text = |file: &str| fs::read_to_string(self.proc.join(file)).ok();
        Node {
            softnet: text("net/softnet_stat").map_or_else(Vec::new, |text| softnet(&text)),
            files: text("sys/fs/file-nr").and_then(|text| files(&text)),
            tcp_memory_unit_bytes: self.tcp_memory_unit_bytes,
        }
    }
}

/// The lines of `softnet_stat`: hexadecimal columns, of which each kernel has some more than those before it.
fn softnet(text: &str) -> Vec<Softnet> {
    let line = |line: &str| {
        let mut columns = line.split_ascii_whitespace().map(|column| u32::from_str_radix(column, 16).ok());
        let [_, dropped, squeezed] = [columns.next()??, columns.next()??, columns.next()??];
        Some(Softnet { cpu: columns.nth(SOFTNET_CPU - 3)??, dropped, squeezed })
    };
    text.lines().filter_map(line).collect()
}

/// The three numbers of `file-nr`: handles in use, none (once: handles free), limit.
fn files(text: &str) -> Option<Files> {
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse().ok());
    let [open, _, limit] = [numbers.next()??, numbers.next()??, numbers.next()??];
    Some(Files { open, limit })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Linux 5.10: thirteen columns; processor 1 is offline.
    const SOFTNET_5_10: &str = "\
00006fe3 00000002 00000003 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
ffffffff 0000000a 0000001f 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000004 00000002
";
    /// Linux 6.18: fifteen.
    const SOFTNET_6_18: &str = "\
06d786e7 00000000 00000004 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 0000001f 00000000 00000000
";
    /// Linux 5.9: no processor's number.
    const SOFTNET_5_9: &str = "\
06d786e7 00000000 00000004 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
";

    #[test]
    fn processors_are_told_by_their_number() {
        assert_eq!(
            softnet(SOFTNET_5_10),
            [Softnet { cpu: 0, dropped: 2, squeezed: 3 }, Softnet { cpu: 2, dropped: 10, squeezed: 31 }]
        );
        assert_eq!(softnet(SOFTNET_6_18), [Softnet { cpu: 31, dropped: 0, squeezed: 4 }]);
        assert_eq!(softnet(SOFTNET_5_9), [], "without their number they cannot be told apart");
        assert_eq!(softnet(&SOFTNET_6_18.replace("00000004", "x")), []);
    }

    #[test]
    fn files_are_the_first_and_the_last_number() {
        assert_eq!(files("805\t0\t9223372036854775807\n"), Some(Files { open: 805, limit: i64::MAX.unsigned_abs() }));
        for odd in ["", "805\t0\n", "-1\t0\t5\n", "a b c"] {
            assert_eq!(files(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        let proc = tempfile::tempdir().unwrap();
        let reader = Reader::new(proc.path(), 4096);
        assert_eq!(reader.read(), Node { tcp_memory_unit_bytes: 4096, ..Node::default() });
        fs::create_dir_all(proc.path().join("sys/fs")).unwrap();
        fs::create_dir(proc.path().join("net")).unwrap();
        fs::write(proc.path().join("sys/fs/file-nr"), "5\t0\t9\n").unwrap();
        fs::write(proc.path().join("net/softnet_stat"), SOFTNET_6_18).unwrap();
        let node = reader.read();
        assert_eq!((node.files, node.softnet.len()), (Some(Files { open: 5, limit: 9 }), 1));
    }

    #[test]
    fn the_running_kernel_tells_of_itself() {
        let node = Reader::new("/proc", 4096).read();
        assert!(node.files.is_some_and(|files| files.open > 0 && files.limit > 0), "{node:?}");
        assert!(!node.softnet.is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "([0-9a-f]{8}|[ \n]|\\PC){0,60}") {
            let _ = (softnet(&text), files(&text));
        }

        #[test]
        fn columns_may_be_added(cpu: u32, dropped: u32, squeezed: u32, more in prop::collection::vec(any::<u32>(), 0..9)) {
            let mut columns = vec![7, dropped, squeezed, 0, 0, 0, 0, 0, 0, 0, 0, 0, cpu];
            columns.extend(more);
            let line: Vec<String> = columns.iter().map(|column| format!("{column:08x}")).collect();
            prop_assert_eq!(softnet(&line.join(" ")), [Softnet { cpu, dropped, squeezed }]);
        }
    }
}
