//! The files of a release as they lie under a prefix: /usr/local where the tarball is unpacked, /usr in the package.
//!
//! Owns what is packed and where it goes. Manual pages and completions come from the agent itself, the rest from the
//! checkout.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::tree::{PLAIN, PROGRAM, Tree, below};
use super::{Release, date, notices};
use crate::process::{self, command};
use crate::workspace;

/// The systemd unit, in the checkout.
pub(super) const UNIT: &str = "deploy/tracer.service";
/// The systemd unit, under the prefix.
pub(super) const UNIT_PLACE: &str = "lib/systemd/system/tracer.service";
/// Manual pages, under the prefix.
pub(super) const PAGES: &str = "share/man/man1";
/// Documents, dashboards, rules and manifests, under the prefix, so that links among them lead somewhere.
pub(super) const DOCUMENTS: &str = "share/doc/tracer";
/// Files of the checkout that go there.
pub(super) const DOCUMENT_FILES: &[&str] =
    &["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "LICENSE-GPL2"];
/// Directories of the checkout that go there.
pub(super) const DOCUMENT_DIRECTORIES: &[&str] = &["docs", "dashboards", "deploy"];
/// Licences of what is linked in.
pub(super) const NOTICES: &str = "THIRD-PARTY-LICENSES";
/// Shells, and where each looks for completions.
pub(super) const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "share/bash-completion/completions/tracer"),
    ("zsh", "share/zsh/site-functions/_tracer"),
    ("fish", "share/fish/vendor_completions.d/tracer.fish"),
];

/// Puts everything that a release holds into the directory.
pub(super) fn stage(release: &Release, into: &Path) -> Result<Tree> {
    let tree = Tree::anew(into)?;
    tree.copy("bin/tracer", &release.agent, PROGRAM)?;
    tree.copy(UNIT_PLACE, &workspace::root().join(UNIT), PLAIN)?;
    for (shell, place) in COMPLETIONS {
        let script = process::capture_bytes(command(&release.speaker).args(["completions", shell]))?;
        tree.put(place, &script, PLAIN)?;
    }
    pages(release, &tree)?;
    documents(&tree)?;
    tree.put(&format!("{DOCUMENTS}/{NOTICES}"), notices::text(release.arch)?.as_bytes(), PLAIN)?;
    tree.settle(release.epoch)?;
    Ok(tree)
}

fn pages(release: &Release, tree: &Tree) -> Result<()> {
    let written = tempfile::tempdir()?;
    let date = date(release.epoch, "+%Y-%m-%d")?;
    process::run(command(&release.speaker).arg("manual").arg(written.path()).args(["--date", &date]))?;
    for page in below(written.path())? {
        compress(&page)?;
    }
    for page in below(written.path())? {
        let name = page.strip_prefix(written.path())?.display().to_string();
        tree.copy(&format!("{PAGES}/{name}"), &page, PLAIN)?;
    }
    Ok(())
}

fn documents(tree: &Tree) -> Result<()> {
    let root = workspace::root();
    for file in DOCUMENT_FILES {
        tree.copy(&format!("{DOCUMENTS}/{file}"), &root.join(file), PLAIN)?;
    }
    for directory in DOCUMENT_DIRECTORIES {
        for file in below(&root.join(directory))?.iter().filter(|path| path.is_symlink() || !path.is_dir()) {
            let name = file.strip_prefix(root)?.display().to_string();
            tree.copy(&format!("{DOCUMENTS}/{name}"), file, PLAIN)?;
        }
    }
    Ok(())
}

/// Replaces the file by one with `.gz` at its end that carries neither name nor time.
pub(super) fn compress(file: &Path) -> Result<()> {
    process::run(command("gzip").args(["--no-name", "--best", "--force"]).arg(file))
}

/// The unit as a package that owns /usr and /etc has it.
pub(super) fn packaged_unit() -> Result<String> {
    let unit = fs::read_to_string(workspace::root().join(UNIT))?;
    packaged(&unit)
}

fn packaged(unit: &str) -> Result<String> {
    const LOCAL: &str = "ExecStart=/usr/local/bin/tracer run";
    const PACKAGED: &str = "ExecStart=/usr/bin/tracer run --config /etc/tracer.toml";
    anyhow::ensure!(unit.matches(LOCAL).count() == 1, "{UNIT} has not one line `{LOCAL}`");
    let unit = unit.replace(LOCAL, PACKAGED);
    // Its head says how to install it by hand.
    let text: Vec<&str> = unit.lines().skip_while(|line| line.starts_with('#')).collect();
    Ok(format!("# tracer, as the Debian package installs it.\n{}\n", text.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packaged_unit_runs_the_packaged_agent() {
        let unit = packaged_unit().unwrap();
        assert!(unit.contains("\nExecStart=/usr/bin/tracer run --config /etc/tracer.toml"), "{unit}");
        assert!(!unit.contains("/usr/local") && unit.ends_with('\n'), "{unit}");
        assert!(packaged("[Service]\nExecStart=/opt/tracer\n").is_err());
    }
}
