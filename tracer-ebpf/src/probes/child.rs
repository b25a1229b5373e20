//! Children of listeners: whose a child is, and what its listener counts for it.
//!
//! A child is born inside `tcp_v4_syn_recv_sock` or `tcp_v6_syn_recv_sock` (LISTEN to SYN_RECV), and mostly becomes
//! ESTABLISHED a moment later on the same CPU. Until Linux 6.14 a child still has its listener's address when it is
//! born. From then on it has its own, which need not be the listener's: TPROXY, sk_lookup programs and other
//! redirects give a listener connections to any address and port. So its listener is taken from where the kernel has
//! it in hand: the function's exit, or the packet.

use tracer_ebpf::{
    counter::{Counter, ListenerKey},
    settings::switch,
};

use super::packet;
use crate::{
    constants::{offset, present},
    final_ack,
    listener::{self, count_without_row},
    maps::{ConnectionKey, LAST_CHILD, LISTENERS, LastChild, REDIRECTED, switched_on},
    reader::{Direct, Reader},
    sock::{self, Netns},
    workload::add,
};

/// Set_state shows a child for the first time. The clone still has the listener's queue length and limit.
#[inline(always)]
pub fn born(sk: *const u8, netns: Netns) {
    let (port, remote_port) = (sock::local_port(Direct, sk), sock::remote_port(Direct, sk));
    packet::child_born(port, remote_port);
    final_ack::child_born(sk);
    let Some(last) = LAST_CHILD.get_ptr_mut(0) else { return };
    // SAFETY: the look-up did not fail; the value is this CPU's own.
    let last = unsafe { &mut *last };
    let key = if remote_port == 0 {
        Some(sock::listener_key(Direct, sk, netns))
    } else if is_told_at_exit(sk) {
        Some(ListenerKey::NONE)
    } else {
        packet::listener_of(remote_port).or_else(|| listener::of_child(Direct, sk, netns))
    };
    // Without a listener it is no longer the last child: an earlier one may have had the same address.
    let Some(key) = key else {
        last.sk = 0;
        return;
    };
    *last = LastChild { sk: sk as u64, listener: key };
    if key.port != 0 {
        waits(&key, Direct, sk);
    }
}

/// Whether the function that makes this child tells its listener when it returns.
#[inline(always)]
fn is_told_at_exit(sk: *const u8) -> bool {
    if switched_on(switch::OUTCOMES_OF_IPV4_ALONE) && !sock::is_v4_mapped(&sock::remote_address(Direct, sk)) {
        return false;
    }
    switched_on(switch::CHILDREN_BY_EXIT)
}

/// The function that made the child returns it; `listener` and `child` are not null.
#[inline(always)]
pub fn made<R: Reader>(r: R, listener: *const u8, child: *const u8) {
    let Some(last) = LAST_CHILD.get_ptr_mut(0) else { return };
    // SAFETY: the look-up did not fail; the value is this CPU's own.
    let last = unsafe { &mut *last };
    if last.sk != child as u64 {
        return;
    }
    if last.listener.port == 0 {
        last.listener = sock::listener_key(r, listener, sock::netns(r, listener));
        waits(&last.listener, r, listener);
    }
    remember_redirect(r, child, &last.listener);
}

/// The queue of the listener gets one more. `sk`: the listener, or a clone of it.
#[inline(always)]
fn waits<R: Reader>(key: &ListenerKey, r: R, sk: *const u8) {
    if let Some(stats) = LISTENERS.get_ptr_mut(key) {
        let (length, limit): (u32, u32) =
            (r.load(sk, offset!(sk_ack_backlog)), r.load(sk, offset!(sk_max_ack_backlog)));
        listener::note_peak(stats, length + 1, limit);
    }
}

/// Counts the child for its listener: the one remembered on this CPU, or (TCP Fast Open, whose
/// children wait for their ACK) the one that is found again.
#[inline(always)]
pub fn established(sk: *const u8, netns: Netns) {
    if let Some(last) = LAST_CHILD.get_ptr_mut(0) {
        // SAFETY: the look-up did not fail; the value is this CPU's own.
        let last = unsafe { &mut *last };
        // Without a port its listener was to be told at the function's exit, and that was not shown.
        if last.sk == sk as u64 && last.listener.port != 0 {
            // Used once: the kernel gives a freed socket's address to another.
            last.sk = 0;
            count_accepted(&last.listener, netns);
            if !switched_on(switch::CHILDREN_BY_EXIT) {
                remember_redirect(Direct, sk, &last.listener);
            }
            return;
        }
    }
    match of(sk, netns, sock::local_port(Direct, sk)) {
        Some(key) => count_accepted(&key, netns),
        None => count_without_row(&sock::listener_key(Direct, sk, netns), Counter::Accepted, 0),
    }
}

#[inline(always)]
fn count_accepted(key: &ListenerKey, netns: Netns) {
    if let Some(stats) = listener::stats(key, netns.inum) {
        // SAFETY: the look-up did not fail.
        add(unsafe { &raw mut (*stats).accepted }, 1);
    } else {
        count_without_row(key, Counter::Accepted, 0);
    }
}

/// Notes whose a child is that came to another address than its listener's: nothing tells it later.
#[inline(always)]
fn remember_redirect<R: Reader>(r: R, child: *const u8, listener: &ListenerKey) {
    let port = sock::local_port(r, child);
    if port != listener.port || !takes(&listener.address, r, child) {
        let _ = REDIRECTED.insert(&connection(r, child, listener.netns, port), listener, 0);
    }
}

/// Whether a listener bound to `address` is one that the kernel finds by the child's own address.
#[inline(always)]
fn takes<R: Reader>(address: &[u32; 4], r: R, child: *const u8) -> bool {
    let is_any = (address[0] | address[1] | address[3]) == 0;
    is_any || *address == sock::local_address(r, child)
}

/// The listener on another port that a child came from. `port`: its local port.
#[inline(always)]
pub fn redirected(sk: *const u8, netns: Netns, port: u16) -> Option<ListenerKey> {
    let listener = REDIRECTED.get_ptr(&connection(Direct, sk, netns.id, port))?;
    // SAFETY: the look-up did not fail.
    Some(unsafe { *listener })
}

/// The open listener that a child came from. `port`: its local port.
#[inline(always)]
pub fn of(sk: *const u8, netns: Netns, port: u16) -> Option<ListenerKey> {
    redirected(sk, netns, port).or_else(|| listener::of_child_on(Direct, sk, netns, port))
}

#[inline(always)]
fn connection<R: Reader>(r: R, sk: *const u8, netns: u64, local_port: u16) -> ConnectionKey {
    let hash = if present(offset!(skc_hash)) { r.load(sk, offset!(skc_hash)) } else { 0 };
    ConnectionKey { netns, hash, local_port, remote_port: sock::remote_port(r, sk) }
}
