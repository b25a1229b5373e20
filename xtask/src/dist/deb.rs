//! The Debian package, made by dpkg-deb from the files of the release.
//!
//! Owns the package's metadata and where Debian wants a file elsewhere than under a plain prefix. Maintainer scripts and
//! the configuration file are files of the checkout. The agent is static, so that nothing is depended on.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::prefix::{DOCUMENTS, UNIT_PLACE, compress, packaged_unit};
use super::tree::{PLAIN, PROGRAM, Tree};
use super::{Release, VERSION, date};
use crate::process::{self, command};
use crate::workspace::{self, Arch};

/// The package's revision of that version.
const REVISION: &str = "1";
/// No address is published; `.invalid` is nobody's.
const MAINTAINER: &str = "The tracer authors <authors@tracer.invalid>";
/// Its name under /etc, and in the checkout.
pub(super) const CONFIGURATION: (&str, &str) = ("etc/tracer.toml", "deploy/tracer.toml");
/// Scripts that dpkg runs, in the checkout's deploy/debian/.
pub(super) const SCRIPTS: &[&str] = &["postinst", "prerm", "postrm"];
/// Where Debian looks elsewhere: under a prefix, and in the package.
const MOVED: &[(&str, &str)] = &[("share/zsh/site-functions/", "share/zsh/vendor-completions/")];

const DESCRIPTION: &str = "shows where Linux TCP runs out of room
 An agent that counts in the kernel, by eBPF, where TCP drops handshakes, sends
 segments again and why, and runs out of TIME_WAIT buckets, ports, descriptors
 or memory. It names the listener or workload of each count and serves
 Prometheus metrics that add up to the kernel's own counters.";

/// Where a file under the prefix lies in the package.
pub(super) fn place(path: &str) -> String {
    let moved = MOVED.iter().find_map(|(from, to)| path.strip_prefix(from).map(|rest| format!("{to}{rest}")));
    format!("usr/{}", moved.as_deref().unwrap_or(path))
}

/// The package's version and the name of its file.
pub(super) fn file_name(arch: Arch) -> String {
    format!("tracer_{VERSION}-{REVISION}_{}.deb", arch.debian())
}

/// Builds the package from the files under the prefix.
pub(super) fn build(release: &Release, prefix: &Tree, stage: &Path, into: &Path) -> Result<PathBuf> {
    let tree = Tree::anew(stage)?;
    for path in prefix.files()? {
        let mode = if path.starts_with("bin/") { PROGRAM } else { PLAIN };
        tree.copy(&place(&path), &prefix.root().join(&path), mode)?;
    }
    tree.put(&place(UNIT_PLACE), packaged_unit()?.as_bytes(), PLAIN)?;
    let (configuration, source) = CONFIGURATION;
    tree.copy(configuration, &workspace::root().join(source), PLAIN)?;
    documents(release, &tree)?;
    let regular = tree.files()?.into_iter().filter(|file| !tree.root().join(file).is_symlink());
    let sums = process::capture(command("md5sum").args(regular).current_dir(tree.root()))?;
    control(release, &tree, &sums)?;
    tree.settle(release.epoch)?;
    let file = into.join(file_name(release.arch));
    process::run(
        command("dpkg-deb")
            .args(["--root-owner-group", "-Zxz", "--threads-max=1", "--build"])
            .arg(tree.root())
            .arg(&file)
            .env("SOURCE_DATE_EPOCH", release.epoch.to_string()),
    )?;
    Ok(file)
}

/// What Debian asks of every package's documents.
fn documents(release: &Release, tree: &Tree) -> Result<()> {
    tree.put(&place(&format!("{DOCUMENTS}/copyright")), copyright()?.as_bytes(), PLAIN)?;
    let date = date(release.epoch, "--rfc-email")?;
    let changelog = format!(
        "tracer ({VERSION}-{REVISION}) unstable; urgency=medium\n\n  * Version {VERSION}; CHANGELOG.md says what is new.\n\n \
         -- {MAINTAINER}  {date}\n"
    );
    let name = format!("{DOCUMENTS}/changelog.Debian");
    tree.put(&place(&name), changelog.as_bytes(), PLAIN)?;
    compress(&tree.root().join(place(&name)))
}

fn copyright() -> Result<String> {
    let mit = fs::read_to_string(workspace::root().join("LICENSE-MIT"))?;
    let owner = mit.lines().find(|line| line.starts_with("Copyright")).unwrap_or_default();
    Ok(format!(
        "{owner}\n\nUser space: MIT or Apache-2.0, at your choice. The eBPF programs: MIT and GPL-2.0.\n\
         The texts are beside this file, as LICENSE-MIT, LICENSE-APACHE and LICENSE-GPL2; on Debian systems those of\n\
         Apache-2.0 and GPL-2 are in /usr/share/common-licenses/ too. THIRD-PARTY-LICENSES has those of the crates\n\
         that are linked in.\n\n{mit}"
    ))
}

fn control(release: &Release, tree: &Tree, sums: &str) -> Result<()> {
    let mut bytes = 0;
    for path in tree.files()? {
        bytes += fs::symlink_metadata(tree.root().join(path))?.len();
    }
    tree.put("DEBIAN/control", fields(release.arch, bytes.div_ceil(1024))?.as_bytes(), PLAIN)?;
    tree.put("DEBIAN/conffiles", format!("/{}\n", CONFIGURATION.0).as_bytes(), PLAIN)?;
    let (configuration, _) = CONFIGURATION;
    let sums: String =
        sums.lines().filter(|line| !line.ends_with(configuration)).fold(String::new(), |all, line| all + line + "\n");
    tree.put("DEBIAN/md5sums", sums.as_bytes(), PLAIN)?;
    for script in SCRIPTS {
        tree.copy(&format!("DEBIAN/{script}"), &workspace::root().join("deploy/debian").join(script), PROGRAM)?;
    }
    Ok(())
}

fn fields(arch: Arch, kilobytes: u64) -> Result<String> {
    let mut fields = String::new();
    writeln!(fields, "Package: tracer\nVersion: {VERSION}-{REVISION}\nArchitecture: {}", arch.debian())?;
    writeln!(fields, "Maintainer: {MAINTAINER}\nInstalled-Size: {kilobytes}\nSection: net\nPriority: optional")?;
    writeln!(fields, "Description: {DESCRIPTION}")?;
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_depends_on_nothing() {
        let fields = fields(Arch::Aarch64, 7).unwrap();
        assert!(
            fields.starts_with("Package: tracer\nVersion: ") && fields.contains("\nArchitecture: arm64\n"),
            "{fields}"
        );
        assert!(fields.contains("\nInstalled-Size: 7\n") && !fields.contains("Depends"), "{fields}");
        // A line of the description that does not begin with a blank would be a field.
        assert!(DESCRIPTION.lines().skip(1).all(|line| line.starts_with(' ') && line.len() <= 80));
    }

    #[test]
    fn debian_has_its_own_place_for_zsh() {
        assert_eq!(place("share/zsh/site-functions/_tracer"), "usr/share/zsh/vendor-completions/_tracer");
        assert_eq!(place("bin/tracer"), "usr/bin/tracer");
    }
}
