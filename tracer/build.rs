//! Builds the eBPF object that the agent carries, and names the git revision for `--version`.
//!
//! Owns: `OUT_DIR/tracer.bpf.o`, for the benchmarks `OUT_DIR/bench.bpf.o`, and the variable
//! `TRACER_REVISION`. The programs come from the crate `tracer-ebpf`, compiled by the nightly
//! toolchain and by the bpf-linker that `cargo xtask setup` installs; when one of the two is not
//! there, the build stops with one line that says so. Must not install anything and must not reach
//! the network.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use aya_build::{Package, Toolchain};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

fn main() {
    if let Err(error) = build() {
        // Cargo shows this as an error of the package, without the script's whole output.
        println!("cargo::error={error:#}");
    }
}

fn build() -> Result<()> {
    println!("cargo::rustc-env=TRACER_REVISION={}", git_revision());
    println!("cargo::rerun-if-changed=build.rs");
    // The release profile and the versions of what the programs are built from.
    println!("cargo::rerun-if-changed=../Cargo.toml");
    println!("cargo::rerun-if-changed=../Cargo.lock");

    let tools = bpf_tools()?;
    set_environment(&tools)?;
    let programs = Package { name: "tracer-ebpf", root_dir: "../tracer-ebpf", ..Package::default() };
    aya_build::build_ebpf([programs], Toolchain::Nightly)?;

    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    for (linked, object) in [("tracer-bpf", "tracer.bpf.o"), ("tracer-bench-bpf", "bench.bpf.o")] {
        let linked = fs::read(out_dir.join(linked)).context("reading the linked programs")?;
        let loadable = loadable(&linked).context("rewriting the eBPF object")?;
        fs::write(out_dir.join(object), loadable).context("writing the eBPF object")?;
    }
    Ok(())
}

/// The directory that holds bpf-linker, once it is certain that the programs can be built.
fn bpf_tools() -> Result<PathBuf> {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?;
    let tools = Path::new(&manifest_dir).join("../target/tools/bin");
    ensure!(tools.join("bpf-linker").exists(), "bpf-linker is not installed; run `cargo xtask setup`");
    ensure!(nightly_has_rust_src(), "the nightly toolchain with rust-src is not installed; run `cargo xtask setup`");
    Ok(tools)
}

fn nightly_has_rust_src() -> bool {
    stdout(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
        .is_some_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir())
}

/// Prepares what the cargo inside `aya_build` inherits.
fn set_environment(tools: &Path) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = std::iter::once(tools.to_path_buf()).chain(env::split_paths(&path));
    let path = env::join_paths(directories).context("putting bpf-linker in front of PATH")?;
    // SAFETY: a build script has one thread here, so nobody reads the environment meanwhile.
    unsafe { env::set_var("PATH", path) };
    // `aya_build` turns each line of progress into a warning, and cargo repeats it at every build.
    // SAFETY: as above.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };
    Ok(())
}

/// The object as the kernel accepts it, without what only a debugger reads: DWARF is most of its
/// size, and the agent keeps the object in memory.
fn loadable(linked: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(linked)?;
    for section in &mut elf.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
        if let (b".BTF", SectionData::Data(btf)) = (name, &mut section.data) {
            name_types_for_kernel(btf.to_mut())?;
        }
    }
    elf.delete_orphans();
    // bpf-linker keeps all names in one table; the writer wants one of its own for the sections.
    let names = elf.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut object = Vec::new();
    elf.write(&mut object)?;
    Ok(object)
}

/// Replaces what is not allowed in the name of a BTF type, keeping each name's length.
///
/// bpf-linker leaves the names of Rust generics such as `MaybeUninit<u8>` in place, and the kernel
/// then refuses the whole of the BTF with EINVAL (aya issue 1490). Names are recognised by their
/// shape, an identifier that ends in `>`: the source lines in the same table start with a blank.
///
/// Only the string table is searched: by chance, bytes of the types before it look like such names.
fn name_types_for_kernel(btf: &mut [u8]) -> Result<()> {
    for name in btf_strings(btf)?.split_mut(|byte| *byte == 0) {
        let starts_identifier = name.first().is_some_and(u8::is_ascii_alphabetic);
        if starts_identifier && name.ends_with(b">") {
            for byte in name {
                if !byte.is_ascii_alphanumeric() {
                    *byte = b'_';
                }
            }
        }
    }
    Ok(())
}

/// The string table, where `struct btf_header` says that it is.
fn btf_strings(btf: &mut [u8]) -> Result<&mut [u8]> {
    let word = |at: usize| -> Result<usize> {
        let bytes = btf.get(at..at + 4).context("the BTF ends within its header")?;
        Ok(u32::from_le_bytes(bytes.try_into()?).try_into()?)
    };
    let (header_len, offset, len) = (word(4)?, word(16)?, word(20)?);
    let start = header_len + offset;
    btf.get_mut(start..start + len).context("the BTF ends within its strings")
}

/// The commit that is built, or "unknown" outside a git checkout: in an unpacked archive git may find the
/// repository of whatever that lies in.
fn git_revision() -> String {
    if !is_own_checkout() {
        return "unknown".to_owned();
    }
    // HEAD moves at a checkout, its log at a commit; a branch's own file where no log is kept.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD"].into_iter().chain(branch.as_deref()) {
        let file = git(&["rev-parse", "--git-path", name]);
        // Cargo takes a path that does not exist for one that has changed.
        if let Some(file) = file.filter(|file| Path::new(file).exists()) {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

/// Whether the repository that git finds here is this workspace's.
fn is_own_checkout() -> bool {
    let root = git(&["rev-parse", "--show-toplevel"]).and_then(|root| fs::canonicalize(root).ok());
    root.is_some() && root == fs::canonicalize("..").ok()
}

fn git(args: &[&str]) -> Option<String> {
    stdout(Command::new("git").args(args))
}

/// What the command prints, if it succeeds.
fn stdout(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
