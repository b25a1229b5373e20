//! What became of the ladders: why a hook is not in force, what is, and how good that is. Pure.

use serde::Serialize;

use super::{Attach, HookKind, LADDERS, Signal};
use crate::errno;

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
const ENOENT: i32 = 2;
const E2BIG: i32 = 7;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOTSUPP: i32 = 524;

/// What to do about a step of bpf(2) that failed with this errno, whatever the step.
#[must_use]
pub const fn remedy(errno: i32) -> &'static str {
    match errno {
        EPERM => {
            "run as root, or grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; check the container's seccomp profile; before Linux \
             5.11 raise RLIMIT_MEMLOCK (ulimit -l)"
        }
        EACCES => "look for a security module's denial in `dmesg` or the audit log (SELinux: class bpf)",
        ENOMEM => "give the agent more memory (the container's limit)",
        ENFILE | EMFILE => "allow more open files (ulimit -n, LimitNOFILE=)",
        ENOTSUPP => "use a kernel with a BPF JIT (CONFIG_BPF_JIT=y, sysctl net.core.bpf_jit_enable=1)",
        _ => "please report it with the kernel's version",
    }
}

/// Explains a failed hook. `detail` is the error's own text; for a load the verifier's last line, empty if the verifier
/// said nothing.
#[must_use]
pub fn explain(attach: Attach, stage: Stage, errno: Option<i32>, detail: &str) -> Refusal {
    let (cause, remedy) = match (stage, errno, attach.kind()) {
        (Stage::SwitchedOff, _, kind) => {
            (format!("{} hooks are switched off", kind.name()), "drop --disable-hooks or --no-packet-hook".to_owned())
        }
        (Stage::Missing, _, _) => (
            format!("the kernel has no {} of the known form ({detail})", attach.describe()),
            "none on this kernel; a newer kernel may have it. If this is the newest, please report its version".to_owned(),
        ),
        (Stage::Load, Some(EPERM), HookKind::Fentry) => (
            "the kernel refuses to load fentry programs (EPERM)".to_owned(),
            "allow BPF trampolines (CONFIG_FUNCTION_TRACER, CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS; no lockdown by policy)"
                .to_owned(),
        ),
        (Stage::Load, Some(EPERM), kind) => (
            format!("the kernel refuses to load {} programs (EPERM)", kind.name()),
            remedy(EPERM).to_owned(),
        ),
        (Stage::Load, Some(EINVAL), _) if detail.starts_with("invalid func ") => (
            format!("the program calls a helper that this kernel does not have ({detail})"),
            "none on this kernel; newer ones have it".to_owned(),
        ),
        (Stage::Load, Some(errno @ (EACCES | EINVAL | E2BIG)), _) if !detail.is_empty() => (
            format!("the kernel's verifier rejects the program ({}): {detail}", errno::named(errno)),
            "please report it with the kernel's version".to_owned(),
        ),
        (Stage::Load, Some(errno), _) => {
            (format!("BPF_PROG_LOAD failed with {}", errno::named(errno)), remedy(errno).to_owned())
        }
        (Stage::Attach, Some(ENOTSUPP), HookKind::Fentry) => (
            "this kernel's trampolines do not take the function (ENOTSUPP)".to_owned(),
            "use a newer kernel (x86-64: 6.6, which takes more than six arguments; arm64: 6.4 with CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS), or allow kprobes: the kprobe twin serves as well"
                .to_owned(),
        ),
        // Without kprobes there is no file with their number under /sys, which is ENOENT too.
        (Stage::Attach, Some(ENOENT), HookKind::Kprobe) if !detail.contains("/sys/") => (
            "the kernel has no such function now: it is in a module that is not loaded".to_owned(),
            "load the module, then start the agent again".to_owned(),
        ),
        (Stage::Attach, Some(errno @ (ENOMEM | ENFILE | EMFILE)), _) => (detail.to_owned(), remedy(errno).to_owned()),
        (Stage::Attach, _, HookKind::Kprobe) => (
            format!("kprobes cannot be attached: {detail}"),
            "build the kernel with CONFIG_KPROBE_EVENTS=y, and mount /sys into the container".to_owned(),
        ),
        (Stage::Attach, _, HookKind::Packet) => (
            format!("the program cannot be attached to the cgroup-v2 root: {detail}"),
            "mount the host's cgroup v2 (it may be beside v1; in a container its /sys/fs/cgroup) and grant CAP_NET_ADMIN".to_owned(),
        ),
        (_, Some(ENOENT), HookKind::SockDiag) => (
            "the kernel has no table of listening sockets to ask (sock_diag for TCP: ENOENT)".to_owned(),
            "load the kernel's module tcp_diag (CONFIG_INET_DIAG, CONFIG_INET_TCP_DIAG), then restart the agent".to_owned(),
        ),
        (_, errno, _) => (detail.to_owned(), remedy(errno.unwrap_or_default()).to_owned()),
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
    /// Whether the rung tells of IPv4 alone, though the kernel may have IPv6.
    pub ipv4_alone: bool,
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
    /// One entry for each of [`LADDERS`] that was wanted, in their order.
    pub ladders: Vec<LadderReport>,
}

impl Report {
    /// The report where nothing can be loaded: each signal has nothing.
    #[must_use]
    pub fn nothing() -> Self {
        let ladders = LADDERS.iter().map(|ladder| LadderReport {
            signal: ladder.signal,
            rung: None,
            in_force: "nothing".to_owned(),
            cost: String::new(),
            hooks: Vec::new(),
            refusals: Vec::new(),
            ipv4_alone: false,
        });
        Self { ladders: ladders.collect() }
    }

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
    /// The same, where the functions of IPv6 are not hooked. With IPv6 as a module its functions come with the module.
    #[must_use]
    pub fn of_ipv4_alone(mut self, ipv6_is_loaded: bool) -> Self {
        let (rung, hooks) = self.in_force.split_once(" (").unwrap_or((&self.in_force, ""));
        let hooks = if hooks.is_empty() { String::new() } else { format!(" ({hooks}") };
        self.in_force = format!("{rung} of IPv4{hooks}");
        let untold = match self.signal {
            Signal::ListenDrops => "drops over IPv6 have no owner and no reason, and its listeners no peak",
            Signal::ConnectErrors => {
                "over IPv6, a connect whose program read an ICMP error before it closed counts as abandoned"
            }
            _ => "over IPv6 nothing is told",
        };
        let cost = if ipv6_is_loaded {
            format!("{untold}: functions of IPv6 cannot be hooked here")
        } else {
            format!("IPv6 is not loaded. Once it is, {untold} until the agent is started again, which hooks it")
        };
        self.cost = cost;
        self.ipv4_alone = true;
        self
    }

    /// The verdict on one signal.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let required = LADDERS.iter().any(|ladder| ladder.signal == self.signal && ladder.required);
        match self.rung {
            Some(0) if !self.ipv4_alone => Verdict::Best,
            None if required => Verdict::Unusable,
            _ => Verdict::Degraded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(signal: Signal, rung: Option<usize>) -> LadderReport {
        LadderReport {
            signal,
            rung,
            in_force: String::new(),
            cost: String::new(),
            hooks: vec![],
            refusals: vec![],
            ipv4_alone: false,
        }
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
    fn outcomes_of_ipv4_alone_are_not_the_best_and_say_what_a_restart_brings() {
        let outcomes = || LadderReport { in_force: "outcomes (fentry)".into(), ..report(Signal::ListenDrops, Some(0)) };
        let [later, refused] = [false, true].map(|is_loaded| outcomes().of_ipv4_alone(is_loaded));
        assert_eq!([later.verdict(), refused.verdict()], [Verdict::Degraded; 2]);
        assert_eq!(later.in_force, "outcomes of IPv4 (fentry)");
        assert!(later.cost.contains("started again, which hooks it"), "{}", later.cost);
        assert!(refused.cost.contains("cannot be hooked"), "{}", refused.cost);
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
            (Attach::Fexit(function), Stage::Attach, Some(ENOTSUPP), "trampolines do not", "kprobe twin"),
            (Attach::Kprobe(function), Stage::Attach, Some(2), "in a module", "load the module"),
            (Attach::CgroupIngress, Stage::Attach, Some(EPERM), "cgroup-v2 root", "CAP_NET_ADMIN"),
            (Attach::BtfTracepoint(function), Stage::Load, Some(EPERM), "tracepoint programs", "CAP_BPF"),
            (Attach::BtfTracepoint(function), Stage::Load, Some(EACCES), "verifier", "report"),
            (Attach::BtfTracepoint(function), Stage::Load, Some(E2BIG), "verifier", "report"),
            (Attach::BtfTracepoint(function), Stage::Load, Some(ENOMEM), "BPF_PROG_LOAD failed with ENOMEM", "memory"),
            (Attach::Kprobe(function), Stage::Attach, Some(EMFILE), "detail", "ulimit -n"),
            (Attach::Iterator("tcp"), Stage::Attach, Some(EPERM), "detail", "seccomp"),
            (Attach::Kprobe(function), Stage::SwitchedOff, None, "switched off", "--disable-hooks"),
            (Attach::Fentry(function), Stage::Missing, None, "no fentry/tcp_conn_request", "report"),
        ];
        for (attach, stage, errno, cause, remedy) in table {
            let refusal = explain(attach, stage, errno, "detail");
            assert!(refusal.cause.contains(cause), "{refusal:?}");
            assert!(refusal.remedy.contains(remedy), "{refusal:?}");
        }
        let refusal = explain(Attach::Kprobe(function), Stage::Attach, Some(2), "`/sys/bus/x/kprobe/type`: ENOENT");
        assert!(
            refusal.cause.contains("kprobes cannot") && refusal.remedy.contains("CONFIG_KPROBE_EVENTS"),
            "{refusal:?}"
        );
        for (errno, name) in [(EINVAL, "EINVAL"), (EACCES, "EACCES"), (E2BIG, "E2BIG")] {
            let refusal = explain(Attach::CgroupIngress, Stage::Load, Some(errno), "");
            assert_eq!(refusal.cause, format!("BPF_PROG_LOAD failed with {name}"), "the verifier said nothing");
        }
        let refusal = explain(Attach::Iterator("task_file"), Stage::Load, Some(EINVAL), "invalid func unknown#162");
        assert!(refusal.cause.contains("helper") && refusal.remedy.contains("newer"), "{refusal:?}");
    }

    #[test]
    fn stands_on_compares_the_rung_in_force() {
        let report =
            Report { ladders: vec![report(Signal::ListenDrops, Some(1)), report(Signal::Retransmits, Some(1))] };
        assert!(report.stands_on(Signal::ListenDrops, "packets"));
        assert!(!report.stands_on(Signal::ListenDrops, "outcomes"));
        assert!(report.stands_on(Signal::Retransmits, "sent"));
        assert!(!report.stands_on(Signal::Retransmits, "attempts"));
        assert!(!report.stands_on(Signal::Resets, "reasons"));
    }
}
