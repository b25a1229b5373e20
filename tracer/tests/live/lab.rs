//! The laboratory that every live test works in: it hands out namespaces and agents, one test at
//! a time, and keeps what each of them proved.
//!
//! It must not know any experiment. The tests take turns even when libtest runs them on several
//! threads: an agent sees every namespace of the machine, so a neighbour's dying namespaces would
//! show in `tracer_retired_total`, and its load would stretch the passes.

pub(crate) mod agent;
pub(crate) mod cgroup;
pub(crate) mod closing;
pub(crate) mod counters;
pub(crate) mod descriptors;
pub(crate) mod drops;
pub(crate) mod equations;
pub(crate) mod firewall;
pub(crate) mod foreign;
pub(crate) mod gate;
pub(crate) mod greedy;
pub(crate) mod herd;
pub(crate) mod holders;
pub(crate) mod load;
pub(crate) mod locked;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod multiplier;
pub(crate) mod netns;
pub(crate) mod pod;
pub(crate) mod proc;
pub(crate) mod raw;
pub(crate) mod results;
pub(crate) mod rungs;
pub(crate) mod scrape;
pub(crate) mod script;
pub(crate) mod seccomp;
pub(crate) mod setting;
pub(crate) mod settled;
pub(crate) mod sockets;
pub(crate) mod unknown;
pub(crate) mod uring;
pub(crate) mod wait;
pub(crate) mod watch;

use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use self::rungs::Signal;

static TURN: Mutex<()> = Mutex::new(());

/// One test's turn. Make it first, so that it is dropped last.
pub(crate) struct Lab {
    _turn: MutexGuard<'static, ()>,
}

/// Programs that the tests call, how to ask them for their version, and Debian's packages of them.
const PROGRAMS: [(&str, &str, &str); 7] = [
    ("ip", "-V", "iproute2"),
    ("nft", "-v", "nftables"),
    ("ethtool", "--version", "ethtool"),
    ("perl", "-v", "perl-base"),
    ("unshare", "--version", "util-linux"),
    ("setpriv", "--version", "util-linux"),
    ("mount", "--version", "mount"),
];

/// The first program that cannot be started, with its package. Asked once: on an emulated machine
/// each takes its time.
static MISSING: LazyLock<Option<(&str, &str)>> = LazyLock::new(|| {
    let found = |program: &str, version: &str| {
        Command::new(program).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    let missing = PROGRAMS.iter().find(|(program, version, _)| !found(program, version));
    missing.map(|(program, _, package)| (*program, *package))
});

impl Lab {
    /// Waits for the turn and fails, with the reason, where the experiments cannot run. `signals` is
    /// what the test is about.
    pub(crate) fn enter(signals: &[Signal]) -> Self {
        // A test that failed while it held the turn says nothing about the next one.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(
            rustix::process::geteuid().is_root(),
            "live tests need root: they create network namespaces and load BPF programs"
        );
        if let Some((program, package)) = *MISSING {
            panic!("live tests need `{program}`: apt-get install {package}");
        }
        results::open(signals);
        Self { _turn: turn }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            results::write();
        }
    }
}

/// What `process` must say for the test's own listeners: the name of the thread-group leader. (Before
/// 5.11 the hook sees the calling thread's, and the agent asks for the process's.)
pub(crate) fn own_process_name() -> String {
    std::fs::read_to_string("/proc/self/comm").unwrap().trim_end_matches('\n').to_owned()
}
