//! The two ways in which a program may read kernel memory.
//!
//! [`Direct`] serves programs whose pointers carry a BTF type (tp_btf, fentry, fexit, iter,
//! cgroup_skb): plain loads that the verifier checks and the kernel guards against faults.
//! [`Probe`] serves the kprobe twins, whose pointers are bare numbers, the headers of packets, and the first
//! subflow of an MPTCP listener. A probe's body is
//! generic over the two, so that twins cannot differ.

use aya_ebpf::helpers::{
    bpf_probe_read_kernel,
    generated::{bpf_skc_to_tcp_request_sock, bpf_skc_to_tcp_sock},
};

/// Reads fields of kernel objects at offsets from [`crate::constants::OFFSETS`].
pub trait Reader: Copy {
    /// The value of type `T` at `base + offset`.
    fn load<T: Copy>(self, base: *const u8, offset: u32) -> T;
    /// `sk` as `struct tcp_sock *`; null when it is not a full TCP socket.
    fn tcp_sock(self, sk: *const u8) -> *const u8;
}

/// Loads through BTF pointers.
#[derive(Clone, Copy)]
pub struct Direct;

impl Reader for Direct {
    #[inline(always)]
    fn load<T: Copy>(self, base: *const u8, offset: u32) -> T {
        let field = base.wrapping_add(offset as usize).cast::<T>();
        // SAFETY: the verifier admits the load only if the BTF type has such a field there; a
        // stale pointer reads as zero.
        unsafe { core::ptr::read_volatile(field) }
    }

    #[inline(always)]
    fn tcp_sock(self, sk: *const u8) -> *const u8 {
        // SAFETY: the helper checks type and liveness of the socket; the verifier checks `sk`.
        unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()) }.cast()
    }
}

impl Direct {
    /// `sk` as `struct tcp_request_sock *`; null when it is none.
    #[inline(always)]
    pub fn tcp_request_sock(sk: *const u8) -> *const u8 {
        // SAFETY: as in `tcp_sock`.
        unsafe { bpf_skc_to_tcp_request_sock(sk.cast_mut().cast()) }.cast()
    }
}

/// Copies through `bpf_probe_read_kernel`.
#[derive(Clone, Copy)]
pub struct Probe;

impl Reader for Probe {
    #[inline(always)]
    fn load<T: Copy>(self, base: *const u8, offset: u32) -> T {
        let field = base.wrapping_add(offset as usize).cast::<T>();
        // SAFETY: the helper takes any address and fails cleanly on a bad one.
        let value = unsafe { bpf_probe_read_kernel(field) };
        match value {
            Ok(value) => value,
            // SAFETY: `T` is an integer, a pointer or an array of integers; zero is a value of each.
            Err(_) => unsafe { core::mem::zeroed() },
        }
    }

    /// The hooked functions are only ever called with TCP sockets.
    #[inline(always)]
    fn tcp_sock(self, sk: *const u8) -> *const u8 {
        sk
    }
}
