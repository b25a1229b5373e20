//! The ladder of hooks as one table, and the pure verdicts on what became of it.
//!
//! A signal has rungs, best first; a rung has points in the kernel that must all be hooked; a point
//! has ways of hooking it, best first (fentry, then the kprobe twin), which may be mixed within a
//! rung. Loading and attaching is `load`'s business; this file does no I/O.

use serde::Serialize;

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
    /// Whether the agent is of no use without any rung of this ladder.
    pub required: bool,
}

const fn hook(program: &'static str, attach: Attach) -> Hook {
    Hook { program, attach, when: When::Always }
}

const fn hook_when(program: &'static str, attach: Attach, when: When) -> Hook {
    Hook { program, attach, when }
}

const fn point(ways: &'static [&'static [Hook]]) -> Point {
    Point { ways, optional: false }
}

const fn optional(ways: &'static [&'static [Hook]]) -> Point {
    Point { ways, optional: true }
}

/// Fentry and kprobe twins that do the same at one function's entry.
macro_rules! entry_twins {
    ($function:literal, $fentry:literal, $kprobe:literal) => {
        &[&[hook($fentry, Attach::Fentry($function))], &[hook($kprobe, Attach::Kprobe($function))]]
    };
}

/// Exit of a `*_syn_recv_sock`, which has six or seven arguments; the kprobe twin takes either.
macro_rules! syn_recv_sock {
    ($function:literal, $exit6:literal, $exit7:literal, $kprobe:literal, $kretprobe:literal) => {
        &[
            &[hook_when($exit6, Attach::Fexit($function), When::FunctionArgs(6))],
            &[hook_when($exit7, Attach::Fexit($function), When::FunctionArgs(7))],
            &[hook($kprobe, Attach::Kprobe($function)), hook($kretprobe, Attach::Kretprobe($function))],
        ]
    };
}

/// Outcomes of the kernel's own functions. IPv6 functions are optional: a kernel may be without.
const LISTEN_OUTCOMES: &[Point] = &[
    point(entry_twins!("tcp_conn_request", "tcp_conn_request_entry", "tcp_conn_request_kprobe")),
    point(&[
        &[hook("tcp_conn_request_exit", Attach::Fexit("tcp_conn_request"))],
        &[hook("tcp_conn_request_kretprobe", Attach::Kretprobe("tcp_conn_request"))],
    ]),
    point(entry_twins!("inet_csk_reqsk_queue_hash_add", "reqsk_queue_hash_add_entry", "reqsk_queue_hash_add_kprobe")),
    point(entry_twins!("cookie_v4_init_sequence", "cookie_v4_init_sequence_entry", "cookie_v4_init_sequence_kprobe")),
    optional(entry_twins!(
        "cookie_v6_init_sequence",
        "cookie_v6_init_sequence_entry",
        "cookie_v6_init_sequence_kprobe"
    )),
    point(entry_twins!("tcp_v4_route_req", "tcp_v4_route_req_entry", "tcp_v4_route_req_kprobe")),
    optional(entry_twins!("tcp_v6_route_req", "tcp_v6_route_req_entry", "tcp_v6_route_req_kprobe")),
    point(&[
        &[hook("tcp_try_fastopen_exit", Attach::Fexit("tcp_try_fastopen"))],
        &[hook("tcp_try_fastopen_kretprobe", Attach::Kretprobe("tcp_try_fastopen"))],
    ]),
    point(syn_recv_sock!(
        "tcp_v4_syn_recv_sock",
        "tcp_v4_syn_recv_sock_exit6",
        "tcp_v4_syn_recv_sock_exit7",
        "tcp_v4_syn_recv_sock_kprobe",
        "tcp_v4_syn_recv_sock_kretprobe"
    )),
    optional(syn_recv_sock!(
        "tcp_v6_syn_recv_sock",
        "tcp_v6_syn_recv_sock_exit6",
        "tcp_v6_syn_recv_sock_exit7",
        "tcp_v6_syn_recv_sock_kprobe",
        "tcp_v6_syn_recv_sock_kretprobe"
    )),
    point(entry_twins!("tcp_req_err", "tcp_req_err_entry", "tcp_req_err_kprobe")),
];

/// Packets and the transitions that answer them.
const LISTEN_PACKETS: &[Point] = &[
    point(&[&[hook("listener_ingress", Attach::CgroupIngress)]]),
    point(&[&[hook("listener_egress", Attach::CgroupEgress)]]),
    optional(&[&[hook_when("kfree_skb", Attach::BtfTracepoint("kfree_skb"), When::ListenOverflowReason)]]),
];

/// All ladders, in the order in which they are attached: what later ones build on comes first.
pub const LADDERS: &[Ladder] = &[
    Ladder {
        signal: Signal::Connections,
        rungs: &[Rung {
            name: "transitions",
            cost: "",
            points: &[point(&[&[hook("inet_sock_set_state", Attach::BtfTracepoint("inet_sock_set_state"))]])],
        }],
        fallback: "nothing",
        required: true,
    },
    Ladder {
        signal: Signal::ListenDrops,
        rungs: &[
            Rung { name: "outcomes", cost: "", points: LISTEN_OUTCOMES },
            Rung {
                name: "packets",
                cost: "with SYN cookies in play the accept queue's length decides, which can be off by some \
                       hundredths of a percent while accept() runs at the queue's edge; drops by ICMP are not attributed",
                points: LISTEN_PACKETS,
            },
        ],
        fallback: "the namespace's totals; a drop is attributed only where one listener alone discarded packets",
        required: false,
    },
    Ladder {
        signal: Signal::Retransmits,
        rungs: &[Rung {
            name: "tracepoint",
            cost: "",
            points: &[point(&[
                &[hook_when(
                    "tcp_retransmit_skb_err",
                    Attach::BtfTracepoint("tcp_retransmit_skb"),
                    When::TracepointArgs(3),
                )],
                &[hook_when(
                    "tcp_retransmit_skb",
                    Attach::BtfTracepoint("tcp_retransmit_skb"),
                    When::TracepointArgs(2),
                )],
            ])],
        }],
        fallback: "the namespace's totals",
        required: false,
    },
    Ladder {
        signal: Signal::SynackRetransmits,
        rungs: &[Rung {
            name: "tracepoint",
            cost: "",
            points: &[point(&[&[hook("tcp_retransmit_synack", Attach::BtfTracepoint("tcp_retransmit_synack"))]])],
        }],
        fallback: "the namespace's totals",
        required: false,
    },
    Ladder {
        signal: Signal::TimeWaitOverflows,
        rungs: &[
            Rung {
                name: "outcomes",
                cost: "",
                points: &[point(&[
                    &[hook("inet_twsk_alloc_exit", Attach::Fexit("inet_twsk_alloc"))],
                    &[
                        hook("inet_twsk_alloc_kprobe", Attach::Kprobe("inet_twsk_alloc")),
                        hook("inet_twsk_alloc_kretprobe", Attach::Kretprobe("inet_twsk_alloc")),
                    ],
                ])],
            },
            Rung {
                name: "candidates",
                cost: "the number is the kernel's; when several workloads of one namespace close at the limit, \
                       the split between them is by the order in which they came",
                // Carried by the state hook, which is required: nothing further to attach.
                points: &[],
            },
        ],
        fallback: "the namespace's totals",
        required: false,
    },
    Ladder {
        signal: Signal::ListenerPass,
        rungs: &[
            Rung {
                name: "task_file",
                cost: "",
                points: &[point(&[&[hook("listeners_by_task", Attach::Iterator("task_file"))]])],
            },
            Rung {
                name: "tcp",
                cost: "one walk for each namespace; a listener older than the agent has no process name",
                points: &[point(&[&[hook("listeners_by_netns", Attach::Iterator("tcp"))]])],
            },
        ],
        fallback: "no queue lengths",
        required: false,
    },
];

/// Where a hook failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The user switched its kind off.
    SwitchedOff,
    /// The kernel lacks the function or tracepoint, or it has another number of arguments.
    Missing,
    /// `BPF_PROG_LOAD` failed.
    Load,
    /// Attaching failed.
    Attach,
}

/// Why a hook is not in force, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The hook, as [`Attach::describe`] has it.
    pub hook: String,
    /// Where it failed.
    pub stage: Stage,
    /// What the kernel said, in words.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENOTSUPP: i32 = 524;

/// Explains a failed hook. `detail` is the error's own text (for a load the verifier's last line).
#[must_use]
pub fn explain(attach: Attach, stage: Stage, errno: Option<i32>, detail: &str) -> Refusal {
    let (cause, remedy) = match (stage, errno, attach.kind()) {
        (Stage::SwitchedOff, _, kind) => {
            (format!("{} hooks are switched off", kind.name()), "drop --disable-hooks or --no-packet-hook".to_owned())
        }
        (Stage::Missing, _, _) => (
            format!("the kernel has no {} of the known form ({detail})", attach.describe()),
            "none on this kernel; please report its version".to_owned(),
        ),
        (Stage::Load, Some(EPERM), HookKind::Fentry) => (
            "the kernel refuses to load fentry programs (EPERM)".to_owned(),
            "allow BPF trampolines (CONFIG_FUNCTION_TRACER, CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS; no lockdown by policy)"
                .to_owned(),
        ),
        (Stage::Load, Some(EPERM), kind) => (
            format!("the kernel refuses to load {} programs (EPERM)", kind.name()),
            "run as root, or grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; check the container's seccomp profile".to_owned(),
        ),
        (Stage::Load, Some(EACCES | EINVAL), _) => (
            format!("the kernel's verifier rejects the program: {detail}"),
            "please report it with the kernel's version".to_owned(),
        ),
        (Stage::Attach, Some(ENOTSUPP), HookKind::Fentry) => (
            "the function has more arguments than this kernel's trampolines take (ENOTSUPP)".to_owned(),
            "none before Linux 6.6; the kprobe twin serves as well".to_owned(),
        ),
        (Stage::Attach, _, HookKind::Kprobe) => (
            format!("kprobes cannot be attached: {detail}"),
            "build the kernel with CONFIG_KPROBE_EVENTS=y, and mount /sys into the container".to_owned(),
        ),
        (Stage::Attach, _, HookKind::Packet) => (
            format!("the program cannot be attached to the cgroup-v2 root: {detail}"),
            "mount the host's cgroup v2 (it may be beside v1; in a container its /sys/fs/cgroup) and grant CAP_NET_ADMIN".to_owned(),
        ),
        (_, _, kind) => (format!("{} failed: {detail}", kind.name()), "please report it with the kernel's version".to_owned()),
    };
    Refusal { hook: attach.describe(), stage, cause, remedy }
}

/// What became of one ladder.
#[derive(Clone, Debug, Serialize)]
pub struct LadderReport {
    /// What it counts.
    pub signal: Signal,
    /// Index of the rung in force; `None` = only the fallback is left.
    pub rung: Option<usize>,
    /// The rung's name with the kinds of hooks that carry it, or the fallback.
    pub in_force: String,
    /// What it cannot do that a better one can.
    pub cost: String,
    /// Hooks in force, as [`Attach::describe`] has them.
    pub hooks: Vec<String>,
    /// Why better hooks are not in force.
    pub refusals: Vec<Refusal>,
}

/// How good what is in force is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every signal stands on a rung that loses nothing.
    Best,
    /// Some signal stands lower than it could.
    Degraded,
    /// A required signal has no rung.
    Unusable,
}

/// What became of all ladders.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// One entry for each of [`LADDERS`], in their order.
    pub ladders: Vec<LadderReport>,
}

impl Report {
    /// The report on one signal.
    #[must_use]
    pub fn of(&self, signal: Signal) -> Option<&LadderReport> {
        self.ladders.iter().find(|ladder| ladder.signal == signal)
    }

    /// Whether this rung of the signal is in force.
    #[must_use]
    pub fn stands_on(&self, signal: Signal, rung: &str) -> bool {
        let index = self.of(signal).and_then(|report| report.rung);
        let ladder = LADDERS.iter().find(|ladder| ladder.signal == signal);
        matches!((ladder, index), (Some(ladder), Some(index)) if ladder.rungs[index].name == rung)
    }

    /// The verdict over all signals.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.ladders.iter().map(LadderReport::verdict).max().unwrap_or(Verdict::Unusable)
    }
}

impl LadderReport {
    /// The verdict on one signal.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let required = LADDERS.iter().any(|ladder| ladder.signal == self.signal && ladder.required);
        match self.rung {
            Some(0) => Verdict::Best,
            None if required => Verdict::Unusable,
            _ => Verdict::Degraded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(signal: Signal, rung: Option<usize>) -> LadderReport {
        LadderReport { signal, rung, in_force: String::new(), cost: String::new(), hooks: vec![], refusals: vec![] }
    }

    #[test]
    fn verdict_is_that_of_the_worst_signal() {
        let mut all = Report { ladders: LADDERS.iter().map(|ladder| report(ladder.signal, Some(0))).collect() };
        assert_eq!(all.verdict(), Verdict::Best);
        all.ladders[1].rung = Some(1);
        assert_eq!(all.verdict(), Verdict::Degraded);
        all.ladders[1].rung = None;
        assert_eq!(all.verdict(), Verdict::Degraded, "listener drops fall back to the totals");
        all.ladders[0].rung = None;
        assert_eq!(all.verdict(), Verdict::Unusable, "transitions are required");
    }

    #[test]
    fn an_empty_report_is_unusable() {
        assert_eq!(Report::default().verdict(), Verdict::Unusable);
    }

    #[test]
    fn each_failure_has_a_cause_and_a_remedy_of_its_own() {
        let function = "tcp_conn_request";
        let table = [
            (Attach::Fentry(function), Stage::Load, Some(EPERM), "fentry programs", "trampolines"),
            (Attach::Fexit(function), Stage::Attach, Some(ENOTSUPP), "arguments", "kprobe twin"),
            (Attach::Kprobe(function), Stage::Attach, Some(2), "kprobes cannot", "CONFIG_KPROBE_EVENTS"),
            (Attach::CgroupIngress, Stage::Attach, Some(EPERM), "cgroup-v2 root", "CAP_NET_ADMIN"),
            (Attach::BtfTracepoint(function), Stage::Load, Some(EPERM), "tracepoint programs", "CAP_BPF"),
            (Attach::BtfTracepoint(function), Stage::Load, Some(EACCES), "verifier", "report"),
            (Attach::Kprobe(function), Stage::SwitchedOff, None, "switched off", "--disable-hooks"),
            (Attach::Fentry(function), Stage::Missing, None, "no fentry/tcp_conn_request", "report"),
        ];
        for (attach, stage, errno, cause, remedy) in table {
            let refusal = explain(attach, stage, errno, "detail");
            assert!(refusal.cause.contains(cause), "{refusal:?}");
            assert!(refusal.remedy.contains(remedy), "{refusal:?}");
        }
    }

    #[test]
    fn rungs_are_named_once_and_points_have_ways() {
        for ladder in LADDERS {
            let mut names: Vec<_> = ladder.rungs.iter().map(|rung| rung.name).collect();
            names.dedup();
            assert_eq!(names.len(), ladder.rungs.len());
            for point in ladder.rungs.iter().flat_map(|rung| rung.points) {
                assert!(point.ways.iter().all(|way| !way.is_empty()));
            }
        }
    }

    #[test]
    fn stands_on_compares_the_rung_in_force() {
        let report = Report { ladders: vec![report(Signal::ListenDrops, Some(1))] };
        assert!(report.stands_on(Signal::ListenDrops, "packets"));
        assert!(!report.stands_on(Signal::ListenDrops, "outcomes"));
        assert!(!report.stands_on(Signal::Retransmits, "tracepoint"));
    }
}
