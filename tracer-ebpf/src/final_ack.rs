//! The last ACK of a handshake while a CPU judges it: what tells a full accept queue from everything else for which
//! `*_syn_recv_sock` returns no child.
//!
//! The kernel looks at the queue first. So if it made a child, or if the queue clearly had room before that look and
//! after it, the ACK was dropped for another reason: no route, no memory, no key, a listener that is closing.

use tracer_ebpf::counter::DropReason;

use crate::{
    maps::{FINAL_ACK, FinalAck},
    reader::Direct,
    sock,
};

/// The kernel is about to judge an ACK for `listener`. Where nothing else will tell that it dropped the ACK after it had
/// made a child, `end_tells` is set: then the child's end does.
#[inline(always)]
pub fn open(listener: u64, had_room: bool, end_tells: bool) {
    if let Some(slot) = FINAL_ACK.get_ptr_mut(0) {
        // SAFETY: the look-up did not fail; the value is this CPU's own and BH is off.
        unsafe { *slot = FinalAck { listener, child: 0, had_room: had_room.into(), end_tells: end_tells.into() } };
    }
}

/// No ACK is judged on this CPU any more.
#[inline(always)]
pub fn close() {
    open(0, false, false);
}

/// The listener whose ACK is judged; 0 = none.
#[inline(always)]
pub fn listener() -> u64 {
    // SAFETY: as in `open`.
    FINAL_ACK.get_ptr(0).map_or(0, |slot| unsafe { (*slot).listener })
}

/// Called by set_state: a child was cloned on this CPU.
#[inline(always)]
pub fn child_born(child: *const u8) {
    if let Some(slot) = FINAL_ACK.get_ptr_mut(0) {
        // SAFETY: as in `open`.
        unsafe { (*slot).child = child as u64 };
    }
}

/// Why the kernel dropped the ACK for `listener`, given whether its queue has room by now.
#[inline(always)]
pub fn reason(listener: *const u8, has_room: bool) -> DropReason {
    let Some(slot) = FINAL_ACK.get_ptr(0) else { return DropReason::AcceptQueueFullAck };
    // SAFETY: as in `open`.
    let ack = unsafe { &*slot };
    let is_other = ack.child != 0 || (ack.had_room != 0 && has_room);
    if ack.listener == listener as u64 && is_other { DropReason::Other } else { DropReason::AcceptQueueFullAck }
}

/// Called by set_state: `child` was closed before its handshake ended. Whether the kernel dropped the ACK that it was
/// made for, and nothing else tells so. One that lost its request to another CPU closes too, but keeps its port.
#[inline(always)]
pub fn was_dropped_with(child: *const u8) -> bool {
    let Some(slot) = FINAL_ACK.get_ptr(0) else { return false };
    // SAFETY: as in `open`.
    let ack = unsafe { &*slot };
    ack.listener != 0 && ack.end_tells != 0 && ack.child == child as u64 && sock::local_port(Direct, child) == 0
}
