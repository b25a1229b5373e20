//! The ladder of hooks as one table, and the pure verdicts on what became of it.
//!
//! A signal has rungs, best first; a rung has points in the kernel that must all be hooked; a point
//! has ways of hooking it, best first (fentry, then the kprobe twin), which may be mixed within a
//! rung. Loading and attaching is `load`'s business; this file does no I/O.

mod ladders;
mod verdict;

pub use ladders::{LADDERS, NETNS_IDENTITY};
use serde::Serialize;
pub use verdict::{LadderReport, Refusal, Report, Stage, Verdict, explain, remedy};

/// What a ladder counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// State transitions, listener lifetimes, accepted connections, connect results.
    Connections,
    /// SYNs and handshakes dropped by listeners.
    ListenDrops,
    /// Retransmitted segments.
    Retransmits,
    /// Retransmitted SYN-ACKs.
    SynackRetransmits,
    /// Closes that found the TIME_WAIT table full.
    TimeWaitOverflows,
    /// The walk over all listeners.
    ListenerPass,
    /// The walk over all open sockets.
    SocketPass,
    /// The walk over one namespace's sockets that counts ephemeral ports.
    EphemeralPorts,
    /// Calls that asked for any port and were given none.
    BindFailures,
    /// Errors of connects that the program read before it closed.
    ConnectErrors,
    /// Resets sent and received.
    Resets,
    /// The reading of the maps in which all of these count.
    MapRows,
    /// The telling apart of network namespaces, which all of these are counted by.
    Namespaces,
}

impl Signal {
    /// The signal as a metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ListenDrops => "listen_drops",
            Self::Retransmits => "retransmits",
            Self::SynackRetransmits => "synack_retransmits",
            Self::TimeWaitOverflows => "time_wait_overflows",
            Self::ListenerPass => "listener_pass",
            Self::SocketPass => "socket_pass",
            Self::EphemeralPorts => "ephemeral_ports",
            Self::BindFailures => "bind_failures",
            Self::ConnectErrors => "connect_errors",
            Self::Resets => "resets",
            Self::MapRows => "map_rows",
            Self::Namespaces => "namespaces",
        }
    }
}

/// How a program is attached, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// A raw tracepoint with typed arguments.
    BtfTracepoint(&'static str),
    /// A function's entry, by trampoline.
    Fentry(&'static str),
    /// A function's exit, by trampoline.
    Fexit(&'static str),
    /// A function's entry, by breakpoint.
    Kprobe(&'static str),
    /// A function's exit, by breakpoint.
    Kretprobe(&'static str),
    /// Packets to sockets of the cgroup-v2 root.
    CgroupIngress,
    /// Packets from sockets of the cgroup-v2 root.
    CgroupEgress,
    /// A walk over kernel objects.
    Iterator(&'static str),
    /// The kernel's table of listening sockets. No program: it is read when it is wanted.
    SockDiag,
}

/// Kinds of hooks, as users switch them off and on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum HookKind {
    /// `tp_btf` programs.
    Tracepoint,
    /// `fentry` and `fexit` programs.
    Fentry,
    /// `kprobe` and `kretprobe` programs.
    Kprobe,
    /// `cgroup_skb` programs.
    Packet,
    /// BPF iterators.
    Iterator,
    /// The kernel's table of listening sockets.
    SockDiag,
}

impl HookKind {
    /// The kind's name in logs and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Packet => "packet",
            Self::Iterator => "iterator",
            Self::SockDiag => "sock_diag",
        }
    }
}

impl Attach {
    /// Which kind of hook this is.
    #[must_use]
    pub const fn kind(self) -> HookKind {
        match self {
            Self::BtfTracepoint(_) => HookKind::Tracepoint,
            Self::Fentry(_) | Self::Fexit(_) => HookKind::Fentry,
            Self::Kprobe(_) | Self::Kretprobe(_) => HookKind::Kprobe,
            Self::CgroupIngress | Self::CgroupEgress => HookKind::Packet,
            Self::Iterator(_) => HookKind::Iterator,
            Self::SockDiag => HookKind::SockDiag,
        }
    }

    /// The hook as users read it, for example `fentry/tcp_conn_request`.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::BtfTracepoint(name) => format!("tp_btf/{name}"),
            Self::Fentry(name) => format!("fentry/{name}"),
            Self::Fexit(name) => format!("fexit/{name}"),
            Self::Kprobe(name) => format!("kprobe/{name}"),
            Self::Kretprobe(name) => format!("kretprobe/{name}"),
            Self::CgroupIngress => "cgroup_skb/ingress".into(),
            Self::CgroupEgress => "cgroup_skb/egress".into(),
            Self::Iterator(name) => format!("iter/{name}"),
            Self::SockDiag => "sock_diag/tcp".into(),
        }
    }
}

/// When a hook fits the running kernel at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// On every kernel.
    Always,
    /// The tracepoint has so many arguments.
    TracepointArgs(usize),
    /// The function has so many arguments.
    FunctionArgs(usize),
    /// `enum skb_drop_reason` knows `TCP_LISTEN_OVERFLOW` for a listener (Linux ≥ 6.15).
    ListenOverflowReason,
    /// A SYN that meets a TIME_WAIT socket skips the check of the SYN queue, as it was meant to (Linux ≥ 6.10).
    TimeWaitSkipsSynQueue,
}

/// One program and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Name of the program in the eBPF object.
    pub program: &'static str,
    /// Where it is attached.
    pub attach: Attach,
    /// On which kernels it fits.
    pub when: When,
}

/// A place in the kernel that a rung needs.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Ways to hook it, best first; the hooks of one way belong together.
    pub ways: &'static [&'static [Hook]],
    /// Whether the rung stands without it.
    pub optional: bool,
    /// Whether it is a function of IPv6: without it the rung tells of IPv4 alone.
    pub of_ipv6: bool,
}

/// One rung of a ladder.
#[derive(Clone, Copy, Debug)]
pub struct Rung {
    /// What the rung counts by, for reports.
    pub name: &'static str,
    /// What it cannot do that a better one can; empty for the best.
    pub cost: &'static str,
    /// The places it needs.
    pub points: &'static [Point],
}

/// The ladder of one signal.
#[derive(Clone, Copy, Debug)]
pub struct Ladder {
    /// What it counts.
    pub signal: Signal,
    /// Rungs, best first.
    pub rungs: &'static [Rung],
    /// What is left when no rung holds.
    pub fallback: &'static str,
    /// What is lost with it that `fallback` does not say.
    pub fallback_cost: &'static str,
    /// Whether the agent is of no use without any rung of this ladder.
    pub required: bool,
}
