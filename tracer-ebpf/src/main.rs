//! The eBPF object: modules, licence and panic handler.
//!
//! On the host this is an empty program, so that stable `cargo check` covers the workspace
//! without building `aya-ebpf`. Data flows probes → sock (reads) → maps and emit.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics), allow(internal_features))]
#![cfg_attr(
    target_arch = "bpf",
    allow(
        clippy::inline_always,
        reason = "a pointer with a BTF type must not cross a function call: the callee would see a number"
    ),
    allow(clippy::needless_pass_by_value, reason = "the program macros hand the context over by value"),
    allow(clippy::needless_borrows_for_generic_args, reason = "a key stays on the stack; by value it would be copied"),
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "states, families and errnos fit; a checked conversion would be a branch that the verifier has to walk"
    )
)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod constants;
#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod final_ack;
#[cfg(target_arch = "bpf")]
mod listener;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod probes;
#[cfg(target_arch = "bpf")]
mod quota;
#[cfg(target_arch = "bpf")]
mod reader;
#[cfg(target_arch = "bpf")]
mod sock;
#[cfg(target_arch = "bpf")]
mod workload;

/// The verifier refuses any path that could reach this.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers that the programs call are open to GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
