//! Tells bpf-linker how to compile the programs; nothing on the host.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("bpf") {
        // bpf-linker would have LLVM call a function for each memset, even of 12 bytes of a key, and
        // that function stores byte by byte: up to half of a program's time. Without the option it
        // stores words in place.
        println!("cargo::rustc-link-arg-bins=--disable-expand-memcpy-in-order");
    }
}
