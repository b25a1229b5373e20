//! Which namespace the calling thread is in, by the number that the hooks know it by: for kernels whose cookie
//! user space cannot ask for (before 5.14). Every namespace has netlink sockets, those of the kernel itself.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_seq_write;
use tracer_ebpf::counter::NetnsIdentity;

use super::snapshot::context_pointer;
use crate::{
    reader::{Direct, Reader},
    sock,
};

// match-proto: 5.8- int bpf_iter_netlink(struct bpf_iter_meta *meta, struct netlink_sock *sk)
/// Writes one record for each netlink socket, all of them alike; the agent reads the first and ends the walk. Context:
/// process, the agent's worker inside the namespace. Frequency: each namespace once a pass, on kernels before 5.14.
/// Cost: 1 h; the kernel's walk passes over the netlink sockets of other namespaces on its way to the first.
#[unsafe(link_section = "iter/netlink")]
#[unsafe(no_mangle)]
pub extern "C" fn netns_identity(ctx: *mut c_void) -> i32 {
    let meta = context_pointer(ctx, 0);
    let sk = context_pointer(ctx, 1);
    if sk.is_null() {
        return 0;
    }
    let netns = sock::netns(Direct, sk);
    let record = NetnsIdentity { netns: netns.id, inum: netns.inum, zero: 0 };
    let seq: *const u8 = Direct.load(meta, 0);
    // SAFETY: `seq` is the iterator's file; the record is initialised to its last byte. A record that finds no room
    // is like those before it.
    let _ =
        unsafe { bpf_seq_write(seq.cast_mut().cast(), (&raw const record).cast(), size_of::<NetnsIdentity>() as u32) };
    0
}
