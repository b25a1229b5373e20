//! Calls of `bind()` or `listen()` that ask for any port and are given none (EADDRINUSE).

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::bpf_get_current_pid_tgid,
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use tracer_ebpf::counter::Counter;

use crate::{
    maps::BINDING,
    reader::{Direct, Probe, Reader},
    sock, workload,
};

// match-proto: 5.10- int inet_csk_get_port(struct sock *sk, unsigned short snum)
/// Context: process. Frequency: each bind(). Cost: none; for one in vain 1 h, 1 to 4 m.
#[fexit(function = "inet_csk_get_port")]
pub fn inet_csk_get_port_exit(ctx: FExitContext) -> i32 {
    if ctx.arg::<i32>(2) != 0 && ctx.arg::<u16>(1) == 0 {
        found_no_port(Direct, ctx.arg(0));
    }
    0
}

// match-proto: 5.10- int inet_csk_get_port(struct sock *sk, unsigned short snum)
/// Entry of the kprobe twin. A task may be moved to another processor meanwhile, so that what the exit needs is kept by
/// task. Cost: 1 h, 1 m.
#[kprobe(function = "inet_csk_get_port")]
pub fn inet_csk_get_port_kprobe(ctx: ProbeContext) -> u32 {
    let (task, asks_for_any) = (bpf_get_current_pid_tgid(), ctx.arg::<u16>(1) == Some(0));
    if asks_for_any {
        let _ = BINDING.insert(&task, &ctx.arg::<u64>(0).unwrap_or(0), u64::from(BPF_ANY));
    } else {
        // One whose exit was missed.
        let _ = BINDING.remove(&task);
    }
    0
}

// match-proto: 5.10- int inet_csk_get_port(struct sock *sk, unsigned short snum)
/// Exit of the kprobe twin. Cost: 1 h, 1 to 2 m; for one in vain as above.
#[kretprobe(function = "inet_csk_get_port")]
pub fn inet_csk_get_port_kretprobe(ctx: RetProbeContext) -> u32 {
    let task = bpf_get_current_pid_tgid();
    // SAFETY: the value is a number, and nobody else writes this task's.
    let Some(sk) = (unsafe { BINDING.get(&task) }).copied() else { return 0 };
    let _ = BINDING.remove(&task);
    if ctx.ret::<i32>() != 0 {
        found_no_port(Probe, sk as *const u8);
    }
    0
}

#[inline(always)]
fn found_no_port<R: Reader>(r: R, sk: *const u8) {
    let tcp = r.tcp_sock(sk);
    if tcp.is_null() || !sock::is_tcp(r, tcp) {
        return;
    }
    let netns = sock::netns(r, tcp);
    workload::count(netns, &workload::key(netns, sock::cgroup_id(r, tcp), Counter::BindFailure, 0, 0), 1);
}
