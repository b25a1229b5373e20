//! The port pass: counts one namespace's ephemeral ports by destination. Writes nothing to the
//! iterator's file; the agent reads the maps once the walk is over.

use core::ffi::c_void;

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_skc_to_tcp_timewait_sock};
use tracer_ebpf::{
    destination::{DestinationKey, DestinationUse, PortWalk, REFUSED_SLOTS},
    state,
};

use super::snapshot::context_pointer;
use crate::{
    constants::offset,
    maps::{DESTINATIONS, PORT_WALK},
    reader::{Direct, Reader},
    sock,
};

// match-proto: 5.9- int bpf_iter_tcp(struct bpf_iter_meta *meta, struct sock_common *sk_common, uid_t uid)
/// Context: process, the agent's worker inside the namespace. Frequency: each TCP socket of a
/// namespace that is near its port range, as seldom as the budget of passes wants. Cost: 1 m; for a
/// socket with an ephemeral port 1 h, 1 m; for the first of a destination 2 m.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
pub extern "C" fn ports_by_netns(ctx: *mut c_void) -> i32 {
    let sk = context_pointer(ctx, 1);
    let Some(walk) = PORT_WALK.get_ptr_mut(0) else { return 0 };
    if !sk.is_null() {
        // SAFETY: the look-up did not fail, and there is one walk at a time.
        visit(sk, unsafe { &mut *walk });
    }
    0
}

#[inline(always)]
fn visit(sk: *const u8, walk: &mut PortWalk) {
    let state: u8 = Direct.load(sk, offset!(skc_state));
    let port = sock::local_port(Direct, sk);
    if state == state::NEW_SYN_RECV || port < walk.first || port > walk.last {
        return;
    }
    let (word, bit) = (usize::from(port >> 6), 1 << (port & 63));
    if state == state::LISTEN {
        walk.listening[word] |= bit;
        walk.bound[word] |= bit;
        return;
    }
    let Some(socket) = (if state == state::TIME_WAIT { in_time_wait(sk) } else { full(sk) }) else { return };
    if socket.is_bound {
        walk.bound[word] |= bit;
    }
    // A port that somebody listens on is never given to connect(): the socket came from the listener.
    // Nothing else tells it of a TIME_WAIT socket.
    if socket.came_from_listener || walk.listening[word] & bit != 0 {
        return;
    }
    walk.counted += 1;
    let key = DestinationKey {
        source: sock::local_address(Direct, sk),
        destination: sock::remote_address(Direct, sk),
        port: sock::remote_port(Direct, sk),
        zero: 0,
    };
    count(&key, &socket, walk);
}

/// What is to be known of a socket with a port of the range.
#[derive(Clone, Copy)]
struct Socket {
    /// Whether its port is taken from every destination.
    is_bound: bool,
    /// Whether it is known for a listener's child.
    came_from_listener: bool,
    is_in_time_wait: bool,
}

/// A child inherits the backlog from its listener, and a socket that connected never has one.
#[inline(always)]
fn full(sk: *const u8) -> Option<Socket> {
    let tcp = Direct.tcp_sock(sk);
    if tcp.is_null() {
        return None;
    }
    Some(Socket {
        is_bound: excludes_connects(Direct.load(tcp, offset!(icsk_bind_hash))),
        came_from_listener: Direct.load::<u32>(tcp, offset!(sk_max_ack_backlog)) > 0,
        is_in_time_wait: false,
    })
}

/// The small socket may be in `TIME_WAIT` itself, as `/proc/net/tcp` tells it, or before that in FIN_WAIT2.
#[inline(always)]
fn in_time_wait(sk: *const u8) -> Option<Socket> {
    // SAFETY: the helper checks the socket's state; the verifier checks `sk`.
    let tw: *const u8 = unsafe { bpf_skc_to_tcp_timewait_sock(sk.cast_mut().cast()) }.cast();
    if tw.is_null() {
        return None;
    }
    Some(Socket {
        is_bound: excludes_connects(Direct.load(tw, offset!(tw_tb))),
        came_from_listener: false,
        is_in_time_wait: Direct.load::<u8>(tw, offset!(tw_substate)) == state::TIME_WAIT,
    })
}

/// Whether connect() gives the port of this bucket (`struct inet_bind_bucket *`) to no other socket, as
/// `__inet_hash_connect()` asks: it does where connect() alone gave it out.
#[inline(always)]
fn excludes_connects(bucket: *const u8) -> bool {
    !bucket.is_null()
        && (Direct.load::<i8>(bucket, offset!(tb_fastreuse)) >= 0
            || Direct.load::<i8>(bucket, offset!(tb_fastreuseport)) >= 0)
}

/// A destination that finds no room is left to its slot: those that have room keep it, so that their
/// numbers are whole.
#[inline(always)]
fn count(key: &DestinationKey, socket: &Socket, walk: &mut PortWalk) {
    let (time_wait, bound) = (u32::from(socket.is_in_time_wait), u32::from(socket.is_bound));
    if let Some(usage) = DESTINATIONS.get_ptr_mut(key) {
        // SAFETY: the look-up did not fail, and there is one walk at a time.
        let usage = unsafe { &mut *usage };
        usage.used += 1;
        usage.time_wait += time_wait;
        usage.bound += bound;
        return;
    }
    let usage = DestinationUse { used: 1, time_wait, bound };
    if DESTINATIONS.insert(key, &usage, u64::from(BPF_NOEXIST)).is_err() {
        walk.refused += 1;
        walk.refused_slots[slot(key)] += 1;
    }
}

/// Multiplicative hashing: every word of the key reaches the upper bits, which are taken. A collision
/// makes a bound looser and no number wrong.
#[inline(always)]
fn slot(key: &DestinationKey) -> usize {
    /// 2^32 divided by the golden ratio.
    const FACTOR: u32 = 0x9e37_79b1;
    let mut hash = u32::from(key.port).wrapping_mul(FACTOR);
    let mut index = 0;
    while index < 4 {
        hash = (hash.rotate_left(5) ^ key.source[index]).wrapping_mul(FACTOR);
        hash = (hash.rotate_left(5) ^ key.destination[index]).wrapping_mul(FACTOR);
        index += 1;
    }
    (hash >> 16) as usize & (REFUSED_SLOTS - 1)
}
