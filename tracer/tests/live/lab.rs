//! The laboratory that every live test works in: it hands out namespaces and agents, one test at
//! a time.
//!
//! It must not know any experiment. The tests take turns even when libtest runs them on several
//! threads: an agent sees every namespace of the machine, so a neighbour's dying namespaces would
//! show in `tracer_retired_total`, and its load would stretch the passes.

pub(crate) mod agent;
pub(crate) mod closing;
pub(crate) mod counters;
pub(crate) mod firewall;
pub(crate) mod foreign;
pub(crate) mod load;
pub(crate) mod netns;
pub(crate) mod raw;
pub(crate) mod scrape;
pub(crate) mod setting;
pub(crate) mod sockets;
pub(crate) mod wait;

use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

/// One test's turn. Make it first, so that it is dropped last.
pub(crate) struct Lab {
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// Waits for the turn and fails, with the reason, where the experiments cannot run.
    pub(crate) fn enter() -> Self {
        // A test that failed while it held the turn says nothing about the next one.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(
            rustix::process::geteuid().is_root(),
            "live tests need root: they create network namespaces and load BPF programs"
        );
        for (program, version, package) in [
            ("ip", "-V", "iproute2"),
            ("nft", "-v", "nftables"),
            ("ethtool", "--version", "ethtool"),
            ("perl", "-v", "perl-base"),
        ] {
            let found = Command::new(program).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
            assert!(found.is_ok(), "live tests need `{program}`: apt-get install {package}");
        }
        Self { _turn: turn }
    }
}

/// `comm` of this test binary's thread-group leader: what `process` must say for its listeners.
pub(crate) fn own_process_name() -> String {
    std::fs::read_to_string("/proc/self/comm").unwrap().trim_end_matches('\n').to_owned()
}
