//! The packages as whoever gets them meets them: the step "packages" of `cargo xtask test`.
//!
//! Packs an agent of this machine twice, compares, lists, installs into a scratch root and takes away again.
//! Nothing outside target/dist-check is touched.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::prefix::{COMPLETIONS, DOCUMENT_DIRECTORIES, DOCUMENT_FILES, DOCUMENTS, NOTICES, PAGES, UNIT_PLACE};
use super::tree::{Tree, below};
use super::{Release, SUMS, VERSION, deb, epoch, pack, scripts, shells};
use crate::process::{self, command};
use crate::setup;
use crate::workspace::{self, Arch};

pub(super) fn run(agent: &Path) -> Result<()> {
    setup::package_check_tools()?;
    let release = Release { arch: Arch::native()?, speaker: agent.into(), agent: agent.into(), epoch: epoch()? };
    let scratch = Tree::anew(&workspace::root().join("target/dist-check"))?;
    let (first, second) = (scratch.root().join("first"), scratch.root().join("second"));
    let packages = pack(&release, &first)?;
    pack(&release, &second)?;
    same_bytes(&packages, &first, &second)?;
    process::run(command("sha256sum").args(["--check", "--strict", "--quiet", SUMS]).current_dir(&first))?;
    let [tarball, package] = packages.as_slice() else {
        anyhow::bail!("{} packages, not a tarball and a Debian package", packages.len());
    };
    let commands = commands(&release.speaker)?;
    let expected = expected(&commands)?;
    same_names(&listed(tarball)?, &expected)?;

    let prefix = scratch.root().join("local");
    fs::create_dir_all(&prefix)?;
    process::run(command("tar").args(["--strip-components=1", "-xzf"]).arg(tarball).arg("-C").arg(&prefix))?;
    runs(&prefix.join("bin/tracer"))?;
    pages_render(&prefix.join(PAGES))?;
    shells::complete(&prefix, &commands)?;

    debian_package(package, &expected, scratch.root())
}

/// Packed twice, the same.
fn same_bytes(packages: &[PathBuf], first: &Path, second: &Path) -> Result<()> {
    let sums = first.join(SUMS);
    for file in packages.iter().chain([&sums]) {
        let other = second.join(file.strip_prefix(first)?);
        ensure!(fs::read(file)? == fs::read(&other)?, "{} and {} differ", file.display(), other.display());
    }
    Ok(())
}

/// The commands that help names.
fn commands(agent: &Path) -> Result<Vec<String>> {
    let help = process::capture(command(agent).arg("--help"))?;
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    let names = lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    let names: Vec<String> = names.filter(|name| *name != "help").map(str::to_owned).collect();
    ensure!(names.len() >= 3, "help names the commands {names:?} only: {help}");
    Ok(names)
}

/// The files under the prefix, from what git tracks and from help.
fn expected(commands: &[String]) -> Result<BTreeSet<String>> {
    let mut names: BTreeSet<String> = ["bin/tracer", UNIT_PLACE].map(str::to_owned).into();
    names.extend(COMPLETIONS.iter().map(|(_, place)| (*place).to_owned()));
    names.insert(format!("{PAGES}/tracer.1.gz"));
    names.extend(commands.iter().map(|name| format!("{PAGES}/tracer-{name}.1.gz")));
    names.extend(DOCUMENT_FILES.iter().copied().chain([NOTICES]).map(|file| format!("{DOCUMENTS}/{file}")));
    let tracked = process::capture(
        command("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).args(DOCUMENT_DIRECTORIES),
    )?;
    names.extend(tracked.lines().map(|file| format!("{DOCUMENTS}/{file}")));
    Ok(names)
}

/// The files of the tarball, under its one directory.
fn listed(tarball: &Path) -> Result<BTreeSet<String>> {
    let list = process::capture(command("tar").args(["--list", "--gzip", "--file"]).arg(tarball))?;
    let names = list.lines().filter(|line| !line.ends_with('/'));
    names
        .map(|line| {
            let (directory, name) = line.split_once('/').context("a file beside the directory")?;
            ensure!(directory.starts_with(&format!("tracer-{VERSION}-")), "`{line}` is not under the one directory");
            Ok(name.to_owned())
        })
        .collect()
}

fn same_names(found: &BTreeSet<String>, expected: &BTreeSet<String>) -> Result<()> {
    let more: Vec<_> = found.difference(expected).collect();
    let less: Vec<_> = expected.difference(found).collect();
    ensure!(more.is_empty() && less.is_empty(), "packed without being expected: {more:?}; not packed: {less:?}");
    Ok(())
}

/// The agent starts, and is this checkout's.
fn runs(agent: &Path) -> Result<()> {
    let said = process::capture(command(agent).arg("--version"))?;
    let revision = process::probe(command("git").args(["rev-parse", "--short=12", "HEAD"]));
    let expected = format!("tracer {VERSION} ({})\n", revision.as_deref().unwrap_or("unknown"));
    ensure!(said == expected, "{} says {said:?}, not {expected:?}", agent.display());
    Ok(())
}

/// The formatter that `man` calls has nothing to complain of.
fn pages_render(directory: &Path) -> Result<()> {
    for page in below(directory)? {
        let text = process::capture(command("gzip").args(["--decompress", "--stdout"]).arg(&page))?;
        let plain = page.with_extension("");
        fs::write(&plain, text)?;
        let output =
            command("groff").args(["-Kutf8", "-Tutf8", "-man", "-ww", "-rLL=78n", "-P-cbou"]).arg(&plain).output()?;
        let complaints = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && complaints.is_empty(), "{}: {complaints}", page.display());
        let shown = String::from_utf8_lossy(&output.stdout);
        for section in ["NAME", "SYNOPSIS", "EXIT STATUS", "EXAMPLES", "FILES", "ENVIRONMENT"] {
            ensure!(shown.contains(section), "{} shows no {section}", page.display());
        }
        fs::remove_file(plain)?;
    }
    Ok(())
}

fn debian_package(package: &Path, expected: &BTreeSet<String>, scratch: &Path) -> Result<()> {
    let field = |name: &str| process::capture(command("dpkg-deb").arg("--field").arg(package).arg(name));
    ensure!(field("Package")?.trim() == "tracer" && field("Depends")?.trim().is_empty(), "wrong fields");
    ensure!(field("Architecture")?.trim() == Arch::native()?.debian(), "wrong architecture");
    let mut names: BTreeSet<String> = expected.iter().map(|name| deb::place(name)).collect();
    names.insert(deb::CONFIGURATION.0.to_owned());
    names.extend(["copyright", "changelog.Debian.gz"].map(|file| deb::place(&format!("{DOCUMENTS}/{file}"))));
    let contents = process::capture(command("dpkg-deb").arg("--contents").arg(package))?;
    for line in contents.lines() {
        ensure!(line.split_whitespace().nth(1) == Some("root/root"), "not owned by root: {line}");
    }
    let files = contents.lines().filter(|line| !line.starts_with('d'));
    let names_of = files.filter_map(|line| line.split_once(" ./")).map(|(_, name)| name);
    let found = names_of.map(|name| name.split(" -> ").next().unwrap_or(name).to_owned()).collect();
    same_names(&found, &names)?;
    let unpacked = scratch.join("unpacked");
    process::run(command("dpkg-deb").arg("--extract").arg(package).arg(&unpacked))?;
    runs(&unpacked.join("usr/bin/tracer"))?;
    for script in deb::SCRIPTS {
        process::run(command("sh").arg("-n").arg(Path::new("deploy/debian").join(script)))?;
    }
    if !process::is_root() {
        println!("not installed into a scratch root: dpkg wants to be root for that");
        return Ok(());
    }
    installs_and_goes(package, &scratch.join("root"))?;
    scripts::call_what_they_should()
}

/// dpkg installs it into an empty root, keeps what the administrator wrote, and a purge leaves nothing. Maintainer scripts
/// run as for another machine's image: they touch that root's files and no service.
fn installs_and_goes(package: &Path, root: &Path) -> Result<()> {
    for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::write(root.join("var/lib/dpkg/status"), "")?;
    let dpkg = |action: &str, what: &Path| {
        let mut command = command("dpkg");
        command.arg(format!("--root={}", root.display())).args(["--force-script-chrootless", "--force-confold"]);
        // The system's configuration of dpkg names the system's log.
        command.arg(format!("--log={}", root.with_extension("log").display()));
        // Found by the scripts and by dpkg itself, whatever the PATH of the caller.
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        process::capture(command.arg(action).arg(what))
    };
    let wants = root.join("etc/systemd/system/multi-user.target.wants/tracer.service");
    let configuration = root.join(deb::CONFIGURATION.0);
    dpkg("--install", package)?;
    runs(&root.join("usr/bin/tracer"))?;
    let has_helper = process::find("deb-systemd-helper").is_some();
    ensure!(!has_helper || wants.is_symlink(), "the service is not enabled: {} is missing", wants.display());
    fs::write(&configuration, "log_level = \"warn\"\n")?;
    dpkg("--install", package)?;
    dpkg("--remove", Path::new("tracer"))?;
    ensure!(!root.join("usr/bin/tracer").exists(), "removed, but the agent is still there");
    let kept = fs::read_to_string(&configuration).context("the configuration did not outlive the removal")?;
    ensure!(kept == "log_level = \"warn\"\n", "the administrator's configuration became {kept:?}");
    dpkg("--purge", Path::new("tracer"))?;
    let of_dpkg = root.join("var/lib/dpkg");
    let left: Vec<_> = below(root)?
        .into_iter()
        .filter(|path| (path.is_symlink() || !path.is_dir()) && !path.starts_with(&of_dpkg))
        .collect();
    ensure!(left.is_empty(), "a purge left {left:?}");
    Ok(())
}
