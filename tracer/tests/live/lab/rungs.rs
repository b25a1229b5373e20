//! Which rung and which hooks each signal must stand on, by machine and by what was taken away: the
//! table that agents under test are held against. Pure.
//!
//! It is written from what kernels have, not from the agent's own table of ladders.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::Machine;

/// What a ladder counts, named as `/status` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    Connections,
    ListenDrops,
    Retransmits,
    SynackRetransmits,
    TimeWaitOverflows,
    ListenerPass,
    SocketPass,
    EphemeralPorts,
    BindFailures,
    ConnectErrors,
    Resets,
    MapRows,
    Namespaces,
}

impl Signal {
    pub(crate) fn name(self) -> &'static str {
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

/// What one signal stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rung {
    /// The rung with the kinds of its hooks, or what is left without one.
    pub(crate) in_force: String,
    pub(crate) hooks: BTreeSet<String>,
}

impl Rung {
    fn new(in_force: &str, hooks: impl IntoIterator<Item = String>) -> Self {
        Self { in_force: in_force.to_owned(), hooks: hooks.into_iter().collect() }
    }
}

/// How drops of listeners are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drops {
    /// By what the kernel's functions come to: everything.
    Outcomes,
    /// By packets and what answers them.
    Packets,
    /// The namespace's number alone.
    Totals,
}

/// What all signals must stand on.
#[derive(Clone, Debug)]
pub(crate) struct Rungs {
    pub(crate) drops: Drops,
    pub(crate) ladders: BTreeMap<Signal, Rung>,
}

impl Rungs {
    /// Whether the pass over listeners tells who holds them: a walk over descriptors does, one over sockets
    /// does not.
    pub(crate) fn tells_holders(&self) -> bool {
        self.ladders[&Signal::ListenerPass].in_force.starts_with("task_file")
    }

    /// Whether segments that the host itself refused to send again are seen, with their owner and cause.
    pub(crate) fn sees_refused_retransmits(&self) -> bool {
        self.ladders[&Signal::Retransmits].in_force.starts_with("attempts")
    }

    /// Whether ICMP errors are seen that come while `connect()` runs.
    pub(crate) fn sees_icmp_of_connects(&self) -> SeenIcmp {
        let in_force = &self.ladders[&Signal::ConnectErrors].in_force;
        let over_ipv6 = in_force.starts_with("icmp errors");
        SeenIcmp { over_ipv4: over_ipv6 || in_force.starts_with("error queue"), over_ipv6 }
    }

    /// Whether calls of `bind()` that are given no port are counted.
    pub(crate) fn sees_binds_in_vain(&self) -> bool {
        self.ladders[&Signal::BindFailures].in_force.starts_with("outcomes")
    }

    /// Whether a namespace is told from one that had its inode number before.
    pub(crate) fn tells_lives_apart(&self) -> bool {
        !self.ladders[&Signal::Namespaces].in_force.starts_with("inode numbers")
    }
}

/// By which protocol such errors are seen.
pub(crate) struct SeenIcmp {
    pub(crate) over_ipv4: bool,
    pub(crate) over_ipv6: bool,
}

/// Kinds of hooks that the agent can have.
struct Kinds {
    fentry: bool,
    kprobe: bool,
    packet: bool,
}

/// `without`: the kinds that were taken away, as `--disable-hooks` names them.
pub(crate) fn expected(machine: &Machine, without: &BTreeSet<String>) -> Rungs {
    for kind in without {
        let is_known = ["fentry", "kprobe", "packet", "iterator", "sock_diag"].contains(&kind.as_str());
        assert!(is_known, "no expectation without {kind} hooks");
    }
    let has = |kind| !without.contains(kind);
    let kinds = Kinds {
        fentry: machine.trampolines && has("fentry"),
        // They read arguments by a helper that lockdown refuses.
        kprobe: machine.kprobes && !machine.confidential && has("kprobe"),
        packet: machine.cgroup2 && has("packet"),
    };
    let (drops, listen_drops) = listen_drops(machine, &kinds);
    let tracepoint = |name| Rung::new("tracepoint (tracepoint)", [format!("tp_btf/{name}")]);
    let ladders = [
        (Signal::Connections, Rung::new("transitions (tracepoint)", ["tp_btf/inet_sock_set_state".to_owned()])),
        (Signal::ListenDrops, listen_drops),
        (Signal::Retransmits, retransmits(machine)),
        (Signal::SynackRetransmits, tracepoint("tcp_retransmit_synack")),
        (Signal::TimeWaitOverflows, time_wait_overflows(&kinds)),
        (Signal::ListenerPass, listener_pass(machine, has("iterator"), has("sock_diag"))),
        (Signal::SocketPass, walk(machine, has("iterator"), "no sockets by state, no age of CLOSE_WAIT")),
        (Signal::EphemeralPorts, ephemeral_ports(has("iterator"))),
        (Signal::BindFailures, bind_failures(&kinds)),
        (Signal::ConnectErrors, connect_errors(machine, &kinds)),
        (Signal::Resets, resets(machine)),
        (Signal::MapRows, map_rows(has("iterator"))),
        (Signal::Namespaces, namespaces(machine, has("iterator"))),
    ];
    Rungs { drops, ladders: ladders.into() }
}

fn listen_drops(machine: &Machine, kinds: &Kinds) -> (Drops, Rung) {
    // Where trampolines do not take all arguments of the functions that make children, kprobes must.
    let children_by_fentry = kinds.fentry && machine.syn_recv_sock_arguments <= arguments_max(machine);
    if children_by_fentry || kinds.kprobe {
        return (Drops::Outcomes, outcomes(machine, kinds, children_by_fentry));
    }
    if kinds.packet {
        let packets = ["cgroup_skb/ingress", "cgroup_skb/egress"].map(str::to_owned);
        // The kernel names the listener and the reason together.
        let rung = if machine.kernel >= (6, 15, 0) {
            let hooks = packets.into_iter().chain(["tp_btf/kfree_skb".to_owned()]);
            Rung::new("packets (packet + tracepoint)", hooks)
        } else {
            Rung::new("packets (packet)", packets)
        };
        return (Drops::Packets, rung);
    }
    let totals = "the namespace's totals; a drop is attributed only where one listener alone discarded packets";
    (Drops::Totals, Rung::new(totals, []))
}

/// How many arguments of a function trampolines take.
fn arguments_max(machine: &Machine) -> usize {
    match machine.architecture {
        // More than the six in registers from 6.6 on.
        "x86_64" if machine.kernel < (6, 6, 0) => 6,
        "x86_64" => 12,
        "aarch64" => 8,
        other => panic!("no expectation on {other}"),
    }
}

/// Functions hooked at their entry, and those hooked at their exit.
const ENTERED: [&str; 6] = [
    "tcp_conn_request",
    "inet_csk_reqsk_queue_hash_add",
    "cookie_v4_init_sequence",
    "cookie_v6_init_sequence",
    "tcp_v4_route_req",
    "tcp_v6_route_req",
];
const LEFT: [&str; 2] = ["tcp_conn_request", "tcp_try_fastopen"];
const CHILDREN: [&str; 2] = ["tcp_v4_syn_recv_sock", "tcp_v6_syn_recv_sock"];

fn outcomes(machine: &Machine, kinds: &Kinds, children_by_fentry: bool) -> Rung {
    let [entry, exit] = if kinds.fentry { ["fentry", "fexit"] } else { ["kprobe", "kretprobe"] };
    let mut hooks: Vec<String> = ENTERED.iter().map(|function| format!("{entry}/{function}")).collect();
    hooks.extend(LEFT.iter().map(|function| format!("{exit}/{function}")));
    let ways: &[&str] = if children_by_fentry { &["fentry", "fexit"] } else { &["kprobe", "kretprobe"] };
    hooks.extend(ways.iter().flat_map(|way| CHILDREN.map(|function| format!("{way}/{function}"))));
    // A SYN that meets TIME_WAIT skips the SYN queue from then on.
    if machine.kernel >= (6, 10, 0) {
        hooks.push(format!("{entry}/inet_twsk_deschedule_put"));
    }
    // ICMP errors are rare: a kprobe costs nothing until one comes.
    let icmp: &[&str] = if kinds.kprobe {
        &["kprobe/tcp_req_err"]
    } else {
        &["fentry/tcp_req_err", "fentry/inet_csk_reqsk_queue_drop", "fexit/tcp_req_err"]
    };
    hooks.extend(icmp.iter().map(|&hook| hook.to_owned()));
    let in_force = match (kinds.fentry, kinds.kprobe) {
        (true, true) => "outcomes (fentry + kprobe)",
        (true, false) => "outcomes (fentry)",
        (false, _) => "outcomes (kprobe)",
    };
    Rung::new(in_force, hooks)
}

fn time_wait_overflows(kinds: &Kinds) -> Rung {
    let hooks = |ways: &[&str]| ways.iter().map(|way| format!("{way}/inet_twsk_alloc")).collect::<Vec<_>>();
    match (kinds.fentry, kinds.kprobe) {
        (true, _) => Rung::new("outcomes (fentry)", hooks(&["fexit"])),
        (false, true) => Rung::new("outcomes (kprobe)", hooks(&["kprobe", "kretprobe"])),
        (false, false) => Rung::new("candidates", []),
    }
}

fn bind_failures(kinds: &Kinds) -> Rung {
    let hooks = |ways: &[&str]| ways.iter().map(|way| format!("{way}/inet_csk_get_port")).collect::<Vec<_>>();
    match (kinds.fentry, kinds.kprobe) {
        (true, _) => Rung::new("outcomes (fentry)", hooks(&["fexit"])),
        (false, true) => Rung::new("outcomes (kprobe)", hooks(&["kprobe", "kretprobe"])),
        (false, false) => {
            Rung::new("none are counted: a call of bind() for any port that fails with EADDRINUSE is not seen", [])
        }
    }
}

/// Errors are shown as they are reported to sockets from 5.14 on.
fn connect_errors(machine: &Machine, kinds: &Kinds) -> Rung {
    let hooks = |way: &str| ["ip_icmp_error", "ipv6_icmp_error"].map(|function| format!("{way}/{function}"));
    match (kinds.fentry, kinds.kprobe) {
        (true, _) => Rung::new("icmp errors (fentry)", hooks("fentry")),
        (false, true) => Rung::new("icmp errors (kprobe)", hooks("kprobe")),
        (false, false) if machine.kernel >= (5, 14, 0) => {
            Rung::new("error queue (tracepoint)", ["tp_btf/inet_sk_error_report".to_owned()])
        }
        (false, false) => {
            let abandoned =
                "a connect whose program read an ICMP error (SO_ERROR) before it closed counts as abandoned";
            Rung::new(abandoned, [])
        }
    }
}

/// By a walk that all kernels have.
fn ephemeral_ports(iterator: bool) -> Rung {
    if iterator {
        Rung::new("tcp (iterator)", ["iter/tcp".to_owned()])
    } else {
        Rung::new("no use of ephemeral ports; connects that found none are counted all the same", [])
    }
}

/// What no file leads to is asked for, or else walked to; a walk over sockets shows all of it.
fn listener_pass(machine: &Machine, iterator: bool, sock_diag: bool) -> Rung {
    let mut rung = walk(machine, iterator, "no queue lengths");
    if rung.hooks.contains("iter/task_file") {
        rung.hooks.insert(if sock_diag { "sock_diag/tcp" } else { "iter/tcp" }.to_owned());
        if sock_diag {
            "task_file (iterator + sock_diag)".clone_into(&mut rung.in_force);
        }
    }
    rung
}

/// Files tell their sockets to iterators from 5.11 on.
fn walk(machine: &Machine, iterator: bool, fallback: &str) -> Rung {
    let walk = if machine.kernel >= (5, 11, 0) { "task_file" } else { "tcp" };
    if iterator { Rung::new(&format!("{walk} (iterator)"), [format!("iter/{walk}")]) } else { Rung::new(fallback, []) }
}

/// By an iterator over a map's entries that all kernels have.
fn map_rows(iterator: bool) -> Rung {
    if iterator {
        Rung::new("iterator (iterator)", ["iter/bpf_map_elem".to_owned()])
    } else {
        Rung::new("look-ups, which keep kprobes off the processor meanwhile", [])
    }
}

/// User space can ask for the kernel's own number from 5.14 on.
fn namespaces(machine: &Machine, iterator: bool) -> Rung {
    match (machine.kernel >= (5, 14, 0), iterator) {
        (true, _) => Rung::new("numbers of their own", []),
        (false, true) => Rung::new("numbers of their own (iterator)", ["iter/netlink".to_owned()]),
        (false, false) => {
            Rung::new("inode numbers; a namespace that gets the number of one that has just ended is taken for it", [])
        }
    }
}

/// Every attempt to send a segment again is shown from 6.17 on, before that what was sent.
fn retransmits(machine: &Machine) -> Rung {
    let rung = if machine.kernel >= (6, 17, 0) { "attempts (tracepoint)" } else { "sent (tracepoint)" };
    Rung::new(rung, ["tp_btf/tcp_retransmit_skb".to_owned()])
}

/// Whether the kernel shows every reset that it sends, and why: from 6.10 on.
pub(crate) fn resets_have_reasons(machine: &Machine) -> bool {
    machine.kernel >= (6, 10, 0)
}

fn resets(machine: &Machine) -> Rung {
    let rung = if resets_have_reasons(machine) { "reasons (tracepoint)" } else { "sockets (tracepoint)" };
    Rung::new(rung, ["tp_btf/tcp_send_reset", "tp_btf/tcp_receive_reset"].map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian(kernel: (u16, u16, u16), syn_recv_sock_arguments: usize) -> Machine {
        Machine {
            kernel,
            architecture: "x86_64",
            trampolines: true,
            kprobes: true,
            confidential: false,
            syn_recv_sock_arguments,
            cgroup2: true,
            hides_pid_1: false,
        }
    }

    fn drops(machine: &Machine, without: &[&str]) -> String {
        let without = without.iter().map(|&kind| kind.to_owned()).collect();
        expected(machine, &without).ladders[&Signal::ListenDrops].in_force.clone()
    }

    #[test]
    fn ladder_of_listen_drops_by_kernel() {
        let [bullseye, bookworm, trixie] = [debian((5, 10, 262), 6), debian((6, 1, 192), 7), debian((6, 12, 117), 7)];
        let arm = Machine { architecture: "aarch64", trampolines: false, ..bookworm.clone() };
        let locked = Machine { confidential: true, ..trixie.clone() };
        let hardened = Machine { trampolines: false, kprobes: false, ..debian((6, 18, 44), 7) };
        for (machine, without, expected) in [
            (&bullseye, &[][..], "outcomes (fentry + kprobe)"),
            (&bullseye, &["kprobe"], "outcomes (fentry)"),
            (&bullseye, &["fentry"], "outcomes (kprobe)"),
            (&bullseye, &["fentry", "kprobe"], "packets (packet)"),
            (&bookworm, &[], "outcomes (fentry + kprobe)"),
            // Seven arguments are too many for its trampolines.
            (&bookworm, &["kprobe"], "packets (packet)"),
            (&trixie, &["kprobe"], "outcomes (fentry)"),
            (&arm, &[], "outcomes (kprobe)"),
            (&locked, &[], "outcomes (fentry)"),
            (&locked, &["fentry"], "packets (packet)"),
            (&hardened, &[], "packets (packet + tracepoint)"),
        ] {
            assert_eq!(drops(machine, without), expected, "{machine:?} without {without:?}");
        }
        assert!(drops(&hardened, &["packet"]).starts_with("the namespace's totals"));
    }

    #[test]
    fn children_are_hooked_as_far_as_trampolines_reach() {
        let hooks = |machine: &Machine| expected(machine, &BTreeSet::new()).ladders[&Signal::ListenDrops].hooks.clone();
        let by_kprobe = |machine: &Machine| hooks(machine).iter().filter(|hook| hook.starts_with('k')).count();
        assert_eq!(by_kprobe(&debian((5, 10, 262), 6)), 1);
        assert_eq!(by_kprobe(&debian((6, 1, 192), 7)), 1 + 4);
        assert_eq!(by_kprobe(&debian((7, 2, 13), 7)), 1);
        assert_eq!(hooks(&debian((7, 2, 13), 7)).len(), 6 + 2 + 4 + 1 + 1);
    }

    #[test]
    fn other_ladders_by_kernel() {
        let in_force = |machine: &Machine, without: &[&str], signal| {
            let without = without.iter().map(|&kind| kind.to_owned()).collect();
            expected(machine, &without).ladders[&signal].in_force.clone()
        };
        let (old, new) = (debian((5, 10, 262), 6), debian((7, 2, 13), 7));
        assert_eq!(in_force(&old, &[], Signal::ListenerPass), "tcp (iterator)");
        assert_eq!(in_force(&new, &[], Signal::ListenerPass), "task_file (iterator + sock_diag)");
        assert_eq!(in_force(&new, &["sock_diag"], Signal::ListenerPass), "task_file (iterator)");
        assert_eq!(in_force(&new, &["iterator"], Signal::ListenerPass), "no queue lengths");
        assert_eq!(in_force(&old, &[], Signal::Namespaces), "numbers of their own (iterator)");
        assert!(in_force(&old, &["iterator"], Signal::Namespaces).starts_with("inode numbers"));
        assert_eq!(in_force(&new, &["iterator"], Signal::Namespaces), "numbers of their own");
        assert_eq!(in_force(&old, &[], Signal::Resets), "sockets (tracepoint)");
        assert_eq!(in_force(&new, &["fentry", "kprobe"], Signal::Resets), "reasons (tracepoint)");
        assert_eq!(in_force(&old, &[], Signal::Retransmits), "sent (tracepoint)");
        assert_eq!(in_force(&debian((6, 17, 0), 7), &[], Signal::Retransmits), "attempts (tracepoint)");
        assert_eq!(in_force(&new, &["kprobe"], Signal::TimeWaitOverflows), "outcomes (fentry)");
        assert_eq!(in_force(&new, &["fentry"], Signal::TimeWaitOverflows), "outcomes (kprobe)");
        assert_eq!(in_force(&new, &["fentry", "kprobe"], Signal::TimeWaitOverflows), "candidates");
    }
}
