//! Where things are in the repository, and what the host is called by the compiler.

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The root of the repository: the parent of this crate.
pub(crate) fn root() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir)
}

/// Where tools are installed that only this repository uses.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// The target of the static agent on this machine.
pub(crate) fn static_target() -> Result<&'static str> {
    match ARCH {
        "x86_64" => Ok("x86_64-unknown-linux-musl"),
        "aarch64" => Ok("aarch64-unknown-linux-musl"),
        other => bail!("no static build for {other}: the agent is built for x86_64 and aarch64"),
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
}
