//! The eBPF object. On the host this is an empty program, so that stable `cargo check` covers the
//! workspace without building `aya-ebpf`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}
