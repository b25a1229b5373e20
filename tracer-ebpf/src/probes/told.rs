//! What a walk over open files has already written of a listener, so that its output grows neither with descriptors nor
//! with processes times listeners.
//!
//! A socket is written when the walk first meets it. Other descriptors that lead to a listener (dup, fork,
//! SO_REUSEPORT) write it again only for a process that was not yet told to hold this listener, and only for so many
//! processes. The kernel shows processes in the order of their ids, so these are the lowest ids, the oldest processes as
//! a rule; the process that called `listen()` is written in any case.

use core::ffi::c_void;

use tracer_ebpf::counter::{HOLDERS_EACH, HOLDERS_MORE, ListenerHolders, ListenerKey, ListenerWalk};

use super::snapshot::{Holder, context_pointer};
use crate::{
    constants::{offset, present},
    maps::{LISTENER_HOLDERS, LISTENER_WALK, LISTENERS, TOLD_LISTENERS},
    reader::{Direct, Reader},
    sock,
};

/// Offset of `session_id` in `struct bpf_iter_meta`, which is a part of the kernel's interface.
const SESSION_ID: u32 = 8;

/// One listening socket that one process holds.
pub struct Held<'a> {
    /// The listener.
    pub key: &'a ListenerKey,
    /// `struct sock *`
    pub sock: u64,
    /// Thread-group id.
    pub tgid: u32,
}

/// The walk under way: each has a number of its own, and begins with nothing told.
#[inline(always)]
pub fn walk(ctx: *mut c_void) -> Option<&'static mut ListenerWalk> {
    let session: u64 = Direct.load(context_pointer(ctx, 0), SESSION_ID);
    let walk = LISTENER_WALK.get_ptr_mut(0)?;
    // SAFETY: the look-up did not fail, and nobody else writes while the one thread walks.
    let walk = unsafe { &mut *walk };
    if walk.session != session {
        *walk = ListenerWalk { session, more: 0, left_out: 0 };
    }
    Some(walk)
}

/// Whether the walk may come to this file again: other descriptors lead to it (fork, dup), or
/// another task that the kernel does not pass over uses the same table of files.
#[inline(always)]
pub fn may_repeat(holder: Holder) -> bool {
    let task = holder.task;
    // A thread is shown by itself where its files are not the leader's, as when the leader has ended.
    let is_thread = Direct.load::<u32>(task, offset!(task_pid)) != sock::task_tgid(Direct, task);
    if is_thread || has_other_references(holder.file) {
        return true;
    }
    let files: *const u8 = Direct.load(task, offset!(task_files));
    let signal: *const u8 = Direct.load(task, offset!(task_signal));
    Direct.load::<i32>(files, offset!(files_count)) > Direct.load::<i32>(signal, offset!(signal_nr_threads))
}

/// Whether more hold the file than one descriptor and the walk itself.
#[inline(always)]
fn has_other_references(file: *const u8) -> bool {
    if present(offset!(file_ref)) {
        Direct.load::<u64>(file, offset!(file_ref)) > 1
    } else {
        Direct.load::<u64>(file, offset!(file_count)) > 2
    }
}

/// Whether a record says something that this walk has not written. Counts a process that is left out.
#[inline(always)]
pub fn is_news(walk: &mut ListenerWalk, held: &Held<'_>) -> bool {
    // SAFETY: the look-up did not fail.
    if TOLD_LISTENERS.get_ptr(&held.sock).is_none_or(|told| unsafe { *told } != walk.session) {
        return true;
    }
    let Some(row) = LISTENER_HOLDERS.get_ptr_mut(held.key) else { return true };
    // SAFETY: the look-up did not fail, and nobody else writes while the one thread walks.
    let row = unsafe { &mut *row };
    if row.session != walk.session {
        return true;
    }
    if row.tgid == held.tgid {
        return false;
    }
    if row.count < HOLDERS_EACH || walk.more < HOLDERS_MORE || called_listen(held) {
        return true;
    }
    row.tgid = held.tgid;
    walk.left_out += 1;
    false
}

/// Whether the process is the one that called `listen()`, which owns the listener while it holds it.
#[inline(always)]
fn called_listen(held: &Held<'_>) -> bool {
    // SAFETY: the look-up did not fail.
    LISTENERS.get_ptr(held.key).is_some_and(|stats| unsafe { (*stats).owner_tgid } == held.tgid)
}

/// Notes a record that was written. Without room to note it, the same may be written again: the agent joins both.
#[inline(always)]
pub fn note(walk: &mut ListenerWalk, held: &Held<'_>) {
    let _ = TOLD_LISTENERS.insert(&held.sock, &walk.session, 0);
    let mut row = ListenerHolders { session: walk.session, tgid: held.tgid, count: 1 };
    if let Some(before) = LISTENER_HOLDERS.get_ptr_mut(held.key) {
        // SAFETY: the look-up did not fail, and nobody else writes while the one thread walks.
        let before = unsafe { &mut *before };
        if before.session == walk.session {
            row.count = before.count + u32::from(before.tgid != held.tgid);
        }
        if row.count > HOLDERS_EACH && before.tgid != held.tgid {
            walk.more += 1;
        }
        *before = row;
        return;
    }
    let _ = LISTENER_HOLDERS.insert(held.key, &row, 0);
}
