//! Connections that the kernel gave up for want of an answer (`tcp_write_err`), told at their last transition.
//!
//! No hook of its own: called by `state` for each full socket that becomes CLOSE.

use tracer_ebpf::{
    counter::{Counter, CounterKey, TimeoutCause},
    state,
};

use crate::{
    constants::offset,
    probes::retransmit::role_and_port,
    reader::{Direct, Reader},
    sock::{self, Netns},
    workload,
};

const ETIMEDOUT: u32 = 110;

/// Counts the socket if it timed out. Frequency: each close. Cost: none; for one that ends with an error
/// 1 h, for one that timed out 1 to 4 m more.
#[inline(always)]
pub fn closed(sk: *const u8, netns: Netns, old: u8) {
    let error: u32 = Direct.load(sk, offset!(sk_err));
    if error == 0 {
        return;
    }
    // In the place of ETIMEDOUT the kernel puts what an ICMP error said of the path.
    let is_soft = error == Direct.load::<u32>(sk, offset!(sk_err_soft));
    if error != ETIMEDOUT && !is_soft {
        return;
    }
    let sk = Direct.tcp_sock(sk);
    if sk.is_null() {
        return;
    }
    // It does so in a timer, which is no longer armed then. A connect() that such an error ends at once
    // still has its own.
    if error != ETIMEDOUT && Direct.load::<u8>(sk, offset!(icsk_pending)) != 0 {
        return;
    }
    let (role, port) = role_and_port(sk, netns, old, sock::bound_port(Direct, sk));
    let cgroup = sock::cgroup_id(Direct, sk);
    let cause = cause(sk, old) as u8;
    let key = workload::key(netns, cgroup, Counter::ConnectionTimeout, cause, 0);
    workload::count(netns, &CounterKey { port, role: role as u8, ..key }, 1);
}

/// The kernel has emptied the queues by now; the sequence numbers still say what was in them.
#[inline(always)]
fn cause(tcp: *const u8, old: u8) -> TimeoutCause {
    let acknowledged: u32 = Direct.load(tcp, offset!(snd_una));
    let sent: u32 = Direct.load(tcp, offset!(snd_nxt));
    let written: u32 = Direct.load(tcp, offset!(write_seq));
    match old {
        state::SYN_SENT | state::SYN_RECV => TimeoutCause::Syn,
        _ if written == acknowledged => TimeoutCause::Keepalive,
        _ if sent == acknowledged || Direct.load::<u32>(tcp, offset!(snd_wnd)) == 0 => TimeoutCause::ZeroWindow,
        state::FIN_WAIT1 | state::CLOSING | state::LAST_ACK => TimeoutCause::Fin,
        _ => TimeoutCause::Retransmit,
    }
}
