//! A second eBPF object: programs that do nothing, beside which `cargo xtask bench` holds the real
//! ones. What they cost is what the kernel takes to call a program at all.
//!
//! Shares nothing with the object that the agent carries. Loaded by tracer/examples/program_cost.rs.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod empty {
    use aya_ebpf::{
        macros::{btf_tracepoint, cgroup_skb},
        programs::{BtfTracePointContext, SkBuffContext},
    };

    /// The verifier refuses any path that could reach this.
    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    // match-proto: 5.10- void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)
    /// Beside `inet_sock_set_state`.
    #[btf_tracepoint(function = "inet_sock_set_state")]
    pub fn empty_set_state(_: BtfTracePointContext) -> i32 {
        0
    }

    // match-proto: 4.10- BPF_CGROUP_INET_INGRESS, struct __sk_buff with `sk` = the receiving socket
    /// Beside `listener_ingress`.
    #[cgroup_skb(ingress)]
    pub fn empty_ingress(_: SkBuffContext) -> i32 {
        1
    }

    // match-proto: 4.10- BPF_CGROUP_INET_EGRESS, struct __sk_buff with `sk` = the sending full socket
    /// Beside `listener_egress`.
    #[cgroup_skb(egress)]
    pub fn empty_egress(_: SkBuffContext) -> i32 {
        1
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}
