//! What the kernel's BTF says of it: offsets of fields, and which of several forms it has.

use std::os::fd::AsFd;

use tracer_ebpf::settings::{ABSENT, Offsets, RESET_REASONS_MAX};

use super::{LoadError, reset_reasons::reset_reasons};
use crate::kernel::{btf::Btf, identity::Identity, sys};

/// Field offsets that may be absent on some supported kernel; all others are required.
const OPTIONAL_OFFSETS: &[&str] = &[
    "skc_v6_daddr",
    "skc_v6_rcv_saddr",
    "sk_cgroup",
    "net_cookie",
    "net_hash_mix",
    "tw_refcount",
    "tw_count",
    "sk_reuseport_cb",
    "reuse_synq_overflow_ts",
    // Of the port pass alone, which the kernel refuses without them.
    "icsk_bind_hash",
    "tw_tb",
    "tb_fastreuse",
    "tb_fastreuseport",
    // Of the errors of connects alone, likewise.
    "sk_lock_owned",
    "sk_error_queue_prev",
    "cb_extended_error",
    // Of the socket pass alone, likewise.
    "skc_hash",
    "rcv_tstamp",
    "task_pid",
    "task_start_time",
    "task_files",
    "task_signal",
    "signal_nr_threads",
    "files_count",
    "file_ref",
    "file_count",
    "socket_file",
    // Of MPTCP listeners.
    "mptcp_first",
];

/// What the kernel's BTF says, kept small: the BTF itself is dropped after load.
pub(super) struct Facts {
    pub offsets: Offsets,
    pub death_row_is_pointer: bool,
    pub listen_overflow_reason: Option<u32>,
    pub local_ports_packed: bool,
    pub has_current_task_btf: bool,
    pub bound_port_mask: u32,
    pub transparent_mask: u32,
    pub reset_reasons: [u8; RESET_REASONS_MAX],
}

impl Facts {
    pub fn read(btf: &Btf) -> Result<Self, LoadError> {
        let mut missing = None;
        let offsets = Offsets::resolve_with(|name, paths| {
            let member = paths.iter().find_map(|path| btf.member(path));
            if member.is_none() && !OPTIONAL_OFFSETS.contains(&name) {
                missing = missing.or(paths.first().copied());
            }
            member.map(|member| member.offset)
        });
        if let Some(path) = missing {
            return Err(LoadError::Offset(path));
        }
        let transparent_bit = transparent_bit(btf);
        let reason = btf.enum_value("skb_drop_reason", "SKB_DROP_REASON_TCP_LISTEN_OVERFLOW");
        // The listener came as an argument of its own in 6.12, the reason for it in 6.15.
        let rx_sk = btf.tracepoint_args("kfree_skb").is_some_and(|args| args >= 4);
        Ok(Self {
            offsets: Offsets {
                inet_transparent: offsets.inet_transparent + transparent_bit / 8,
                ..without_unusable_cookie(btf, offsets)
            },
            death_row_is_pointer: btf.member("net.ipv4.tcp_death_row").is_some_and(|member| member.is_pointer),
            listen_overflow_reason: reason.filter(|_| rx_sk).and_then(|reason| u32::try_from(reason).ok()),
            local_ports_packed: btf.member("net.ipv4.ip_local_ports.range").is_some_and(|member| member.size == 4),
            has_current_task_btf: btf.enum_value("bpf_func_id", "BPF_FUNC_get_current_task_btf").is_some(),
            bound_port_mask: bound_port_mask(btf),
            transparent_mask: 1 << (transparent_bit % 8),
            reset_reasons: reset_reasons(&btf.enumerators("sk_rst_reason")),
        })
    }

    /// Whether the kernel was built with IPv6, if only as a module.
    pub fn has_ipv6(&self) -> bool {
        self.offsets.skc_v6_daddr != ABSENT
    }

    /// How namespaces are told apart.
    pub fn identity(&self) -> Identity {
        match (self.offsets.net_cookie, self.offsets.net_hash_mix) {
            (ABSENT, ABSENT) => Identity::Inode,
            (ABSENT, _) => Identity::HashMix,
            _ => Identity::Cookie,
        }
    }
}

/// `SOCK_BINDPORT_LOCK` within the byte of `sk_userlocks`: on older kernels a bit-field with others before it.
fn bound_port_mask(btf: &Btf) -> u32 {
    const SOCK_BINDPORT_LOCK: u32 = 8;
    btf.member("sock.sk_userlocks").map_or(0, |member| SOCK_BINDPORT_LOCK << member.bit)
}

/// The bit of `IP_TRANSPARENT`, counted from the first byte of `inet_flags`, or before 6.6 of the byte of its bit-field.
fn transparent_bit(btf: &Btf) -> u32 {
    let flag = || btf.enum_value("", "INET_FLAGS_TRANSPARENT").and_then(|bit| u32::try_from(bit).ok());
    let of_flags = btf.member("inet_sock.inet_flags").and_then(|_| flag());
    of_flags.unwrap_or_else(|| btf.member("inet_sock.transparent").map_or(0, |member| member.bit.into()))
}

/// Before 5.12 the cookie is an atomic that is made on demand, of no use as an identity; and before
/// 5.14 user space cannot ask for it, so that neither side may use it.
fn without_unusable_cookie(btf: &Btf, mut offsets: Offsets) -> Offsets {
    if btf.member("net.net_cookie.counter").is_some() || !netns_cookies_can_be_asked_for() {
        offsets.net_cookie = ABSENT;
    }
    offsets
}

fn netns_cookies_can_be_asked_for() -> bool {
    std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))
        .is_ok_and(|socket| sys::netns_cookie(socket.as_fd()).is_ok())
}
