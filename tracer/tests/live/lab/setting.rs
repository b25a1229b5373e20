//! Where the tests run, as environment variables say: the same tests run natively, in guests of
//! other kernels, with fewer hooks and with fewer rights. Each variable is read here and nowhere
//! else; without any, the tests run natively with all hooks and rights.
//!
//! | Variable | Meaning |
//! |---|---|
//! | `TRACER_LIVE_AGENT` | path of the agent under test; that of this build by default |
//! | `TRACER_LIVE_WITHOUT` | kinds of hooks to take from every agent, as `--disable-hooks` has them: `fentry,kprobe` |
//! | `TRACER_LIVE_CAPABILITIES` | capabilities that agents have and no others, as setpriv has them: `bpf,perfmon,sys_admin,sys_ptrace` |
//! | `TRACER_LIVE_PATIENCE` | factor on every upper limit of waiting, for slow machines: `10` |
//! | `TRACER_LIVE_RUNG` | the guest's rung, as `cargo xtask vm --rung` names it; unset natively |
//! | `TRACER_LIVE_UNSHOWN` | file to which a test that fails for nothing but events that the kernel hid adds a line |
//! | `TRACER_LIVE_RESULTS` | file to which each passing test adds a line of JSON, see [`super::results`] |

use std::collections::BTreeSet;
use std::env::{var, var_os};
use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

/// The agent under test.
pub(crate) fn agent_binary() -> OsString {
    var_os("TRACER_LIVE_AGENT").unwrap_or_else(|| env!("CARGO_BIN_EXE_tracer").into())
}

/// Kinds of hooks that every agent has to do without.
pub(crate) fn without() -> BTreeSet<String> {
    list("TRACER_LIVE_WITHOUT").into_iter().collect()
}

/// Whether agents have this capability.
pub(crate) fn capable(capability: &str) -> bool {
    let capabilities = list("TRACER_LIVE_CAPABILITIES");
    capabilities.is_empty() || capabilities.iter().any(|held| held == capability)
}

/// What was done to the guest, if this is one.
pub(crate) fn guest_rung() -> Option<String> {
    var("TRACER_LIVE_RUNG").ok()
}

/// Where the results of passing tests go, if they are wanted.
pub(crate) fn results_file() -> Option<OsString> {
    var_os("TRACER_LIVE_RESULTS")
}

/// Where a test says that it failed for nothing but events that the kernel hid, if that is wanted.
pub(crate) fn unshown_file() -> Option<OsString> {
    var_os("TRACER_LIVE_UNSHOWN")
}

/// Starts the agent with the rights that it is to have. The process that is spawned becomes the
/// agent: its id, pipes and exit status are the agent's.
pub(crate) fn agent_command() -> Command {
    let capabilities = list("TRACER_LIVE_CAPABILITIES");
    if capabilities.is_empty() {
        return Command::new(agent_binary());
    }
    let bounding_set = capabilities.iter().fold("-all".to_owned(), |set, capability| format!("{set},+{capability}"));
    // Who grants single capabilities sets it as well (LimitMEMLOCK=), since the right to lift it is not among them.
    lift_memlock_limit();
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set", &bounding_set]);
    command.arg(agent_binary());
    command
}

/// Before 5.11 maps are charged to the limit on locked memory, those of all processes of a user together. Where this
/// process may not lift it, whoever makes the map says what it is short of.
pub(crate) fn lift_memlock_limit() {
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
}

/// An upper limit of waiting, as long as this machine needs.
pub(crate) fn patient(limit: Duration) -> Duration {
    limit.mul_f64(patience())
}

/// Whether this machine was said to be a slow one.
pub(crate) fn is_slow() -> bool {
    patience() > 1.0
}

fn patience() -> f64 {
    let factor = match var("TRACER_LIVE_PATIENCE") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("TRACER_LIVE_PATIENCE is no number: {text:?}")),
        Err(_) => 1.0,
    };
    assert!(factor >= 1.0, "TRACER_LIVE_PATIENCE is below 1: {factor}");
    factor
}

/// The words between commas; none if the variable is unset or empty.
fn list(name: &str) -> Vec<String> {
    let text = var(name).unwrap_or_default();
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}
