//! The table of ladders: for each signal the rungs, their points and the ways to hook them.

use super::{Attach, Hook, Ladder, Point, Rung, Signal, When};

const fn hook(program: &'static str, attach: Attach) -> Hook {
    Hook { program, attach, when: When::Always }
}

const fn hook_when(program: &'static str, attach: Attach, when: When) -> Hook {
    Hook { program, attach, when }
}

const fn point(ways: &'static [&'static [Hook]]) -> Point {
    Point { ways, optional: false, of_ipv6: false }
}

const fn optional(ways: &'static [&'static [Hook]]) -> Point {
    Point { ways, optional: true, of_ipv6: false }
}

/// A function of IPv6. A kernel may be without, or have it in a module.
const fn of_ipv6(ways: &'static [&'static [Hook]]) -> Point {
    Point { ways, optional: true, of_ipv6: true }
}

/// Fentry and kprobe twins that do the same at one function's entry.
macro_rules! entry_twins {
    ($function:literal, $fentry:literal, $kprobe:literal) => {
        &[&[hook($fentry, Attach::Fentry($function))], &[hook($kprobe, Attach::Kprobe($function))]]
    };
}

/// Entry and exit of a `*_syn_recv_sock`, which has six or seven arguments; the kprobe twins take either.
macro_rules! syn_recv_sock {
    ($function:literal, $entry:literal, $exit6:literal, $exit7:literal, $kprobe:literal, $kretprobe:literal) => {
        &[
            &[
                hook($entry, Attach::Fentry($function)),
                hook_when($exit6, Attach::Fexit($function), When::FunctionArgs(6)),
            ],
            &[
                hook($entry, Attach::Fentry($function)),
                hook_when($exit7, Attach::Fexit($function), When::FunctionArgs(7)),
            ],
            &[hook($kprobe, Attach::Kprobe($function)), hook($kretprobe, Attach::Kretprobe($function))],
        ]
    };
}

/// Outcomes of the kernel's own functions.
const LISTEN_OUTCOMES: &[Point] = &[
    point(entry_twins!("tcp_conn_request", "tcp_conn_request_entry", "tcp_conn_request_kprobe")),
    point(&[
        &[hook("tcp_conn_request_exit", Attach::Fexit("tcp_conn_request"))],
        &[hook("tcp_conn_request_kretprobe", Attach::Kretprobe("tcp_conn_request"))],
    ]),
    point(entry_twins!("inet_csk_reqsk_queue_hash_add", "reqsk_queue_hash_add_entry", "reqsk_queue_hash_add_kprobe")),
    point(entry_twins!("cookie_v4_init_sequence", "cookie_v4_init_sequence_entry", "cookie_v4_init_sequence_kprobe")),
    of_ipv6(entry_twins!("cookie_v6_init_sequence", "cookie_v6_init_sequence_entry", "cookie_v6_init_sequence_kprobe")),
    point(entry_twins!("tcp_v4_route_req", "tcp_v4_route_req_entry", "tcp_v4_route_req_kprobe")),
    of_ipv6(entry_twins!("tcp_v6_route_req", "tcp_v6_route_req_entry", "tcp_v6_route_req_kprobe")),
    point(&[
        &[hook_when("tcp_try_fastopen_exit", Attach::Fexit("tcp_try_fastopen"), When::FunctionArgs(5))],
        &[hook("tcp_try_fastopen_kretprobe", Attach::Kretprobe("tcp_try_fastopen"))],
    ]),
    point(syn_recv_sock!(
        "tcp_v4_syn_recv_sock",
        "tcp_v4_syn_recv_sock_entry",
        "tcp_v4_syn_recv_sock_exit6",
        "tcp_v4_syn_recv_sock_exit7",
        "tcp_v4_syn_recv_sock_kprobe",
        "tcp_v4_syn_recv_sock_kretprobe"
    )),
    of_ipv6(syn_recv_sock!(
        "tcp_v6_syn_recv_sock",
        "tcp_v6_syn_recv_sock_entry",
        "tcp_v6_syn_recv_sock_exit6",
        "tcp_v6_syn_recv_sock_exit7",
        "tcp_v6_syn_recv_sock_kprobe",
        "tcp_v6_syn_recv_sock_kretprobe"
    )),
    optional(&[
        &[hook_when(
            "inet_twsk_deschedule_put_entry",
            Attach::Fentry("inet_twsk_deschedule_put"),
            When::TimeWaitSkipsSynQueue,
        )],
        &[hook_when(
            "inet_twsk_deschedule_put_kprobe",
            Attach::Kprobe("inet_twsk_deschedule_put"),
            When::TimeWaitSkipsSynQueue,
        )],
    ]),
    // The kprobe first: it costs nothing until there is an ICMP error, and one of the trampolines runs
    // for each accepted connection.
    point(&[
        &[hook("tcp_req_err_kprobe", Attach::Kprobe("tcp_req_err"))],
        &[
            hook("tcp_req_err_entry", Attach::Fentry("tcp_req_err")),
            hook("reqsk_queue_drop_entry", Attach::Fentry("inet_csk_reqsk_queue_drop")),
            hook("tcp_req_err_exit", Attach::Fexit("tcp_req_err")),
        ],
    ]),
];

/// Packets and the transitions that answer them.
const LISTEN_PACKETS: &[Point] = &[
    point(&[&[hook("listener_ingress", Attach::CgroupIngress)]]),
    point(&[&[hook("listener_egress", Attach::CgroupEgress)]]),
    optional(&[&[hook_when("kfree_skb", Attach::BtfTracepoint("kfree_skb"), When::ListenOverflowReason)]]),
];

/// Where an ICMP error reaches a socket on its way.
const ICMP_ERRORS: &[Point] = &[
    point(entry_twins!("ip_icmp_error", "ip_icmp_error_entry", "ip_icmp_error_kprobe")),
    of_ipv6(entry_twins!("ipv6_icmp_error", "ipv6_icmp_error_entry", "ipv6_icmp_error_kprobe")),
];

/// Where a socket is given its port.
const BINDS: &[Point] = &[point(&[
    &[hook_when("inet_csk_get_port_exit", Attach::Fexit("inet_csk_get_port"), When::FunctionArgs(2))],
    &[
        hook("inet_csk_get_port_kprobe", Attach::Kprobe("inet_csk_get_port")),
        hook("inet_csk_get_port_kretprobe", Attach::Kretprobe("inet_csk_get_port")),
    ],
])];

const RECEIVED_RESETS: Point = point(&[&[hook("tcp_receive_reset", Attach::BtfTracepoint("tcp_receive_reset"))]]);

/// `tcp_send_reset` with so many arguments.
macro_rules! sent_resets {
    ($program:literal, $arguments:literal) => {
        point(&[&[hook_when($program, Attach::BtfTracepoint("tcp_send_reset"), When::TracepointArgs($arguments))]])
    };
}

/// `tcp_retransmit_skb` with so many arguments.
macro_rules! retransmitted {
    ($program:literal, $arguments:literal) => {
        point(&[&[hook_when($program, Attach::BtfTracepoint("tcp_retransmit_skb"), When::TracepointArgs($arguments))]])
    };
}

/// The kernel's table of listening sockets, for which no program is loaded.
const SOCK_DIAG: Hook = Hook { program: "", attach: Attach::SockDiag, when: When::Always };

/// Finds the listeners that no descriptor leads to.
const LISTENING_TABLE: Point = optional(&[&[SOCK_DIAG], &[hook("listeners_by_netns", Attach::Iterator("tcp"))]]);

/// Tells which namespace a thread is in, on kernels that do not say so themselves.
pub const NETNS_IDENTITY: Hook = hook("netns_identity", Attach::Iterator("netlink"));

/// All ladders, in the order in which they are attached: what later ones build on comes first. (The last one is
/// decided before any of them.)
pub const LADDERS: &[Ladder] = &[
    Ladder {
        signal: Signal::Connections,
        rungs: &[Rung {
            name: "transitions",
            cost: "",
            points: &[point(&[&[hook("inet_sock_set_state", Attach::BtfTracepoint("inet_sock_set_state"))]])],
        }],
        fallback: "nothing",
        fallback_cost: "",
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
        fallback_cost: "no owner, no reason",
        required: false,
    },
    Ladder {
        signal: Signal::Retransmits,
        rungs: &[
            Rung { name: "attempts", cost: "", points: &[retransmitted!("tcp_retransmit_skb_err", 3)] },
            Rung {
                name: "sent",
                cost: "segments that the host itself refuses to send again (a full queue, a rule) have no owner and no \
                       cause; their number is the kernel's",
                points: &[retransmitted!("tcp_retransmit_skb", 2)],
            },
        ],
        fallback: "the namespace's totals",
        fallback_cost: "no owner, no reason",
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
        fallback_cost: "no owner, no reason",
        required: false,
    },
    Ladder {
        signal: Signal::TimeWaitOverflows,
        rungs: &[
            Rung {
                name: "outcomes",
                cost: "",
                points: &[point(&[
                    &[hook_when("inet_twsk_alloc_exit", Attach::Fexit("inet_twsk_alloc"), When::FunctionArgs(3))],
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
        fallback_cost: "no owner, no reason",
        required: false,
    },
    Ladder {
        signal: Signal::ListenerPass,
        rungs: &[
            Rung {
                name: "task_file",
                cost: "",
                points: &[point(&[&[hook("listeners_by_task", Attach::Iterator("task_file"))]]), LISTENING_TABLE],
            },
            Rung {
                name: "tcp",
                cost: "one walk for each namespace; a listener older than the agent has no process name",
                points: &[point(&[&[hook("listeners_by_netns", Attach::Iterator("tcp"))]])],
            },
        ],
        fallback: "no queue lengths",
        fallback_cost: "",
        required: false,
    },
    // Apart from the listeners' ladder, though one walk serves both: a kernel that refuses the larger
    // program still has queue lengths.
    Ladder {
        signal: Signal::SocketPass,
        rungs: &[
            Rung {
                name: "task_file",
                cost: "",
                points: &[point(&[&[hook("sockets_by_task", Attach::Iterator("task_file"))]])],
            },
            Rung {
                name: "tcp",
                cost: "one walk for each namespace; sockets in state CLOSE are not seen, and where their cgroup \
                       cannot be read they count for the namespace",
                points: &[point(&[&[hook("sockets_by_netns", Attach::Iterator("tcp"))]])],
            },
        ],
        fallback: "no sockets by state, no age of CLOSE_WAIT",
        fallback_cost: "",
        required: false,
    },
    Ladder {
        signal: Signal::EphemeralPorts,
        rungs: &[Rung {
            name: "tcp",
            cost: "",
            points: &[point(&[&[hook("ports_by_netns", Attach::Iterator("tcp"))]])],
        }],
        fallback: "no use of ephemeral ports; connects that found none are counted all the same",
        fallback_cost: "",
        required: false,
    },
    Ladder {
        signal: Signal::BindFailures,
        rungs: &[Rung { name: "outcomes", cost: "", points: BINDS }],
        fallback: "none are counted: a call of bind() for any port that fails with EADDRINUSE is not seen",
        fallback_cost: "",
        required: false,
    },
    Ladder {
        signal: Signal::ConnectErrors,
        rungs: &[
            Rung { name: "icmp errors", cost: "", points: ICMP_ERRORS },
            Rung {
                name: "error queue",
                cost: "over IPv6, a connect whose program read an ICMP error (SO_ERROR) before it closed counts as \
                       abandoned",
                points: &[point(&[&[hook("inet_sk_error_report", Attach::BtfTracepoint("inet_sk_error_report"))]])],
            },
        ],
        fallback: "a connect whose program read an ICMP error (SO_ERROR) before it closed counts as abandoned",
        fallback_cost: "",
        required: false,
    },
    Ladder {
        signal: Signal::Resets,
        rungs: &[
            Rung { name: "reasons", cost: "", points: &[sent_resets!("tcp_send_reset_reason", 3), RECEIVED_RESETS] },
            Rung {
                name: "sockets",
                cost: "resets are sent for no known reason; those without a socket, as a closed port sends them, \
                       are in the namespace's number alone",
                points: &[sent_resets!("tcp_send_reset", 2), RECEIVED_RESETS],
            },
        ],
        fallback: "the namespace's number of resets sent",
        fallback_cost: "no owner, no reason",
        required: false,
    },
    Ladder {
        signal: Signal::MapRows,
        rungs: &[Rung {
            name: "iterator",
            cost: "",
            points: &[point(&[&[
                hook("rows_of_listeners", Attach::Iterator("bpf_map_elem")),
                hook("rows_of_counters", Attach::Iterator("bpf_map_elem")),
                hook("rows_of_netns", Attach::Iterator("bpf_map_elem")),
                hook("rows_of_workloads", Attach::Iterator("bpf_map_elem")),
                hook("rows_of_ports", Attach::Iterator("bpf_map_elem")),
                hook("rows_of_sockets", Attach::Iterator("bpf_map_elem")),
            ]])],
        }],
        fallback: "look-ups, which keep kprobes off the processor meanwhile",
        fallback_cost: "",
        required: false,
    },
    // `load::identity` decides it, since all hooks count by it.
    Ladder {
        signal: Signal::Namespaces,
        rungs: &[Rung { name: "numbers of their own", cost: "", points: &[optional(&[&[NETNS_IDENTITY]])] }],
        fallback: "inode numbers; a namespace that gets the number of one that has just ended is taken for it",
        fallback_cost: "",
        required: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

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
}
