//! Label names, what their values mean, and the groups that many metrics share.
//!
//! Closed sets of values come from the wire crate where the kernel side counts by them, so that the
//! documentation cannot list a reason that no program reports.

use tracer_ebpf::counter::{ConnectResult, Counter, DropReason, RetransmitCause, Role, TimeoutCause};
use tracer_ebpf::{event, reset, state};

use crate::{export::http::Refused, obstacles, pipeline::sysctls::SETTINGS};

/// A label of a metric.
#[derive(Debug)]
pub struct Label {
    /// Its name in the exposition.
    pub name: &'static str,
    /// What values it takes.
    pub values: Values,
}

/// The values a label takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Any text; this says what it holds.
    Text(&'static str),
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// Makes the array of names of a wire enum, in the order of its numbers.
macro_rules! names {
    ($wire:ty) => {{
        let mut names = [""; <$wire>::COUNT];
        let mut index = 0;
        while index < names.len() {
            names[index] = <$wire>::ALL[index].name();
            index += 1;
        }
        names
    }};
}

const REASONS: [&str; DropReason::COUNT] = names!(DropReason);
const CAUSES: [&str; RetransmitCause::COUNT] = names!(RetransmitCause);
const COUNTERS: [&str; Counter::COUNT] = names!(Counter);
const ROLES: [&str; Role::COUNT] = names!(Role);
const RESULTS: [&str; ConnectResult::COUNT] = names!(ConnectResult);
const TIMEOUT_CAUSES: [&str; TimeoutCause::COUNT] = names!(TimeoutCause);
const DIRECTIONS: [&str; reset::Direction::COUNT] = names!(reset::Direction);

/// Of resets sent: the kernel's own reasons (`enum sk_rst_reason` without its prefixes), which it tells from
/// 6.10 on, `mptcp` for all of Multipath TCP, `other` for names that are newer than the agent, and `unknown`
/// for what only the kernel's counter knows. Of resets received: what they put an end to, by the
/// state of the socket, from `refused` on.
const RESET_REASONS: [&str; reset::Reason::COUNT] = names!(reset::Reason);

/// Kinds of ring records that an agent asks for, all but the last, and what a record of no known kind counts under.
const EVENTS: [&str; event::Kind::COUNT] = {
    assert!(event::Kind::State as usize == event::Kind::COUNT - 1);
    let known: [&str; event::Kind::COUNT] = names!(event::Kind);
    let mut names = ["unknown"; event::Kind::COUNT];
    let mut index = 0;
    while index < event::Kind::State as usize {
        names[index] = known[index];
        index += 1;
    }
    names
};

/// The states that `inet_sock_set_state` shows: `TIME_WAIT` (6) and `NEW_SYN_RECV` (12) sockets are
/// no full sockets and never pass through it.
const STATES: [&str; 10] = {
    let numbers = [1, 2, 3, 4, 5, 7, 8, 9, 10, 11];
    let mut names = [""; 10];
    let mut index = 0;
    while index < names.len() {
        names[index] = state::name(numbers[index]);
        index += 1;
    }
    names
};

/// Where a transition came from: one of the states, or unknown where the kernel counted it and no hook saw it.
const FROM_STATES: [&str; STATES.len() + 1] = {
    let mut names = ["unknown"; STATES.len() + 1];
    let mut index = 0;
    while index < STATES.len() {
        names[index] = STATES[index];
        index += 1;
    }
    names
};

/// `error` of a failed connect takes the results after the first, which is success.
const ERRORS: &[&str] = {
    assert!(ConnectResult::Established as usize == 0);
    RESULTS.split_at(1).1
};

/// What becomes of SYN cookies.
pub const COOKIE_RESULTS: [&str; 3] = ["sent", "received", "failed"];
/// What ends a connection at once.
pub const ABORT_REASONS: [&str; 6] = ["data", "close", "memory", "timeout", "linger", "failed"];
/// Which way a window went to zero or away from it, and whose: `peer_probe` is about the other side's.
pub const ZERO_WINDOWS: [&str; 4] = ["to_zero", "from_zero", "want_zero", "peer_probe"];
/// Whether a process is known that holds a socket.
pub const HOLDERS: [&str; 2] = ["known", "unknown"];
/// Limits of TCP's memory, in the order of `tcp_mem`.
pub const MEMORY_LEVELS: [&str; 3] = ["min", "pressure", "max"];

const fn text(name: &'static str, meaning: &'static str) -> Label {
    Label { name, values: Values::Text(meaning) }
}

const fn one_of(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values: Values::OneOf(values) }
}

pub(super) const NETNS: Label =
    text("netns", "network namespace: `host` for that of PID 1, else its inode number as `/proc/PID/ns/net` shows it");
pub(super) const POD_NAMESPACE: Label = text("namespace", "Kubernetes namespace of the pod, empty where there is none");
pub(super) const POD: Label = text("pod", "pod name, empty where there is none");
const CONTAINER: Label = text("container", "container name or id, empty outside containers");
const UNIT: Label =
    text("unit", "systemd unit, empty where there is none; `_other` collects what found no room of its own");
const PROCESS: Label = text("process", "name of the thread-group leader that holds the listener");
const ADDRESS: Label = text("address", "address the listener is bound to");

pub(super) const PORT: Label = text("port", "the server's port, never an ephemeral one; empty where it cannot be told");
pub(super) const REASON: Label = one_of("reason", &REASONS);
pub(super) const DIRECTION: Label = one_of("direction", &DIRECTIONS);
pub(super) const RESET_REASON: Label = one_of("reason", &RESET_REASONS);
pub(super) const ROLE: Label = one_of("role", &ROLES);
pub(super) const CAUSE: Label = one_of("cause", &CAUSES);
pub(super) const TIMEOUT_CAUSE: Label = one_of("cause", &TIMEOUT_CAUSES);
pub(super) const RESULT: Label = one_of("result", &RESULTS);
pub(super) const ERROR: Label = one_of("error", ERRORS);
pub(super) const FROM: Label = one_of("from", &FROM_STATES);
pub(super) const TO: Label = one_of("to", &STATES);
pub(super) const STATE: Label = one_of("state", &STATES);
pub(super) const NAME: Label = text(
    "name",
    "name of the network namespace in `/run/netns` or of its runtime, of several the one that was found first; empty where there is none",
);
pub(super) const SIGNAL: Label = text("signal", "what is counted, as `/status` and `tracer doctor` list it");
pub(super) const HOOK: Label = text("hook", "the kernel hook, as `tracer doctor` lists it");
pub(super) const EVENT: Label = one_of("kind", &EVENTS);
pub(super) const STAGE: Label = one_of("stage", &["ring", "rate", "decode"]);
pub(super) const COUNTER: Label = one_of("counter", &COUNTERS);
pub(super) const MAP: Label = text("map", "name of the BPF map");
pub(super) const CACHE: Label = one_of("cache", &["cgroups", "owners", "workloads", "container_names", "pod_names"]);
pub(super) const METRIC: Label = text("metric", "name of a metric on this page");
pub(super) const PROGRAM: Label = text("program", "name of the BPF program");
pub(super) const PASS: Label = text("pass", "what the pass reads, as `/status` lists it");
pub(super) const OBSTACLE: Label = one_of("reason", &obstacles::NAMES);
pub(super) const COOKIE_RESULT: Label = one_of("result", &COOKIE_RESULTS);
pub(super) const ABORT_REASON: Label = one_of("reason", &ABORT_REASONS);
pub(super) const REFUSAL: Label = one_of("reason", &Refused::NAMES);
pub(super) const ZERO_WINDOW: Label = one_of("direction", &ZERO_WINDOWS);
pub(super) const MEMORY_LEVEL: Label = one_of("level", &MEMORY_LEVELS);
pub(super) const HOLDER: Label = one_of("holder", &HOLDERS);
pub(super) const CPU: Label = text("cpu", "number of the processor");
pub(super) const SETTING: Label = one_of("name", &SETTINGS);
pub(super) const INDEX: Label =
    text("index", "place of the number in a setting of several, counted from 0; empty for a setting of one");
pub(super) const VERSION: Label = text("version", "the agent's version");
pub(super) const REVISION: Label = text("revision", "the commit it was built from");

/// Labels of what is counted for a network namespace.
pub const NAMESPACE: &[Label] = &[NETNS, POD_NAMESPACE, POD];
/// Labels of what is counted for a workload: `<O>` in the design.
pub const OWNER: &[Label] = &[NETNS, POD_NAMESPACE, POD, CONTAINER, UNIT];
/// Labels of what is counted for a listener: `<L>` in the design, which begins with `<O>`.
pub const LISTENER: &[Label] = &[NETNS, POD_NAMESPACE, POD, CONTAINER, UNIT, PROCESS, ADDRESS, PORT];
