//! Where things are in the repository, and which architectures the agent is built for.

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

/// The root of the repository: the parent of this crate.
pub(crate) fn root() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir)
}

/// Where tools are installed that only this repository uses.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// A processor architecture that the agent is built for, named as the compiler names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Arch {
    /// x86-64.
    #[value(name = "x86_64", alias = "amd64")]
    X86_64,
    /// 64-bit Arm.
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

impl Arch {
    /// The architecture of this machine.
    pub(crate) fn native() -> Result<Self> {
        Self::value_variants().iter().copied().find(|arch| arch.name() == ARCH).with_context(|| {
            let names: Vec<_> = Self::value_variants().iter().map(|arch| arch.name()).collect();
            format!("no static build for {ARCH}: the agent is built for {}", names.join(" and "))
        })
    }

    /// The compiler's name, which `--cfg bpf_target_arch` takes as well.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Debian's name.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// QEMU's program, and the Debian package that brings it.
    pub(crate) const fn qemu(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }

    /// The target of the static agent.
    pub(crate) const fn static_target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-musl",
            Self::Aarch64 => "aarch64-unknown-linux-musl",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_holds_the_workspace() {
        assert!(root().join("xtask/src/workspace.rs").is_file());
        assert!(root().join("Cargo.lock").is_file());
    }

    #[test]
    fn this_machine_is_one_of_the_architectures() {
        let native = Arch::native().unwrap();
        assert_eq!(native.name(), ARCH);
        assert!(native.static_target().starts_with(ARCH));
    }

    #[test]
    fn architectures_are_known_by_the_names_of_compiler_and_distribution() {
        for (name, arch) in
            [("x86_64", Arch::X86_64), ("amd64", Arch::X86_64), ("aarch64", Arch::Aarch64), ("arm64", Arch::Aarch64)]
        {
            assert_eq!(Arch::from_str(name, false), Ok(arch));
        }
    }
}
