//! Rungs 1 and 2 of the TIME_WAIT overflows: `inet_twsk_alloc` returning NULL.

use aya_ebpf::{
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use tracer_ebpf::{
    counter::Counter,
    event::{Kind, TimeWaitOverflow},
};

use crate::{
    constants::offset,
    emit::emit,
    maps::{SAVED, Saved},
    reader::{Direct, Probe, Reader},
    sock, workload,
};

#[inline(always)]
fn refused<R: Reader>(r: R, sk: *const u8) {
    if !sock::is_tcp(r, sk) {
        return;
    }
    let netns = sock::netns(r, sk);
    let cgroup = sock::cgroup_id(r, sk);
    workload::count(netns, &workload::key(netns, cgroup, Counter::TimeWaitOverflow, 0, 0), 1);
    let state: u8 = r.load(sk, offset!(skc_state));
    let record = TimeWaitOverflow {
        header: sock::header(r, sk, netns, cgroup, Kind::TimeWaitOverflow, state),
        connection: sock::connection(r, sk),
        confirmed: 1,
        zero: [0; 7],
    };
    emit(Kind::TimeWaitOverflow, record.header.time_ns, &record);
}

// match-proto: 5.10- struct inet_timewait_sock *inet_twsk_alloc(const struct sock *sk, struct inet_timewait_death_row *dr, const int state)
/// Context: softirq or process. Frequency: each active close. Cost: none; on an overflow 1 m, 2 h.
#[fexit(function = "inet_twsk_alloc")]
pub fn inet_twsk_alloc_exit(ctx: FExitContext) -> i32 {
    // Three arguments, then the return value.
    if ctx.arg::<u64>(3) == 0 {
        refused(Direct, ctx.arg(0));
    }
    0
}

// match-proto: 5.10- struct inet_timewait_sock *inet_twsk_alloc(const struct sock *sk, struct inet_timewait_death_row *dr, const int state)
/// Entry of the kprobe twin. Cost: 1 m.
#[kprobe(function = "inet_twsk_alloc")]
pub fn inet_twsk_alloc_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(saved) = SAVED.get_ptr_mut(Saved::TwskAlloc as u32) {
        // SAFETY: the look-up did not fail; the value is this CPU's own, and the socket's lock keeps
        // the function from nesting for one socket.
        unsafe { *saved = ctx.arg(0).unwrap_or(0) };
    }
    0
}

// match-proto: 5.10- struct inet_timewait_sock *inet_twsk_alloc(const struct sock *sk, struct inet_timewait_death_row *dr, const int state)
/// Exit of the kprobe twin. Cost: 1 m; on an overflow as above.
#[kretprobe(function = "inet_twsk_alloc")]
pub fn inet_twsk_alloc_kretprobe(ctx: RetProbeContext) -> u32 {
    let Some(saved) = SAVED.get_ptr_mut(Saved::TwskAlloc as u32) else { return 0 };
    // SAFETY: as above.
    let sk = unsafe { core::ptr::replace(saved, 0) };
    if sk != 0 && ctx.ret::<u64>() == 0 {
        refused(Probe, sk as *const u8);
    }
    0
}
