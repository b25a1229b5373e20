//! `cargo xtask dashboards`: checks the dashboards against Grafana's own types.
//!
//! Owns target/schema: a copy of dashboards/schema with its npm packages, which come from the npm registry by the lock
//! file and run no script of their own. What the dashboards say is checked by the agent's tests, not here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::process::{self, command};
use crate::{setup, workspace};

pub(crate) fn run() -> Result<()> {
    setup::schema_tools()?;
    let workshop = workspace::root().join("target/schema");
    install(&workshop)?;
    let dashboards = files(&workspace::root().join("dashboards"))?;
    let dashboards: Vec<_> =
        dashboards.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "json")).collect();
    ensure!(!dashboards.is_empty(), "there is no dashboard to check");
    process::run(command("node").arg(workshop.join("check.mjs")).args(dashboards))
}

/// Copies the sources, and installs the packages unless the lock file is that of the last time.
fn install(workshop: &Path) -> Result<()> {
    let sources = workspace::root().join("dashboards/schema");
    fs::create_dir_all(workshop)?;
    for file in files(&sources)? {
        let name = file.file_name().context("a file without a name")?;
        fs::copy(&file, workshop.join(name)).with_context(|| format!("copying {}", file.display()))?;
    }
    let (lock, installed) = (sources.join("package-lock.json"), workshop.join("node_modules/.installed"));
    let wanted = fs::read(&lock).with_context(|| format!("reading {}", lock.display()))?;
    if fs::read(&installed).is_ok_and(|last| last == wanted) {
        return Ok(());
    }
    println!("dashboards: installing Grafana's types from the npm registry into target/schema");
    let options = ["ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"];
    process::run(command("npm").args(options).current_dir(workshop))?;
    fs::write(installed, wanted)?;
    Ok(())
}

/// The files of a directory, by name; not those of directories in it.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_those_of_the_directory_itself() {
        let found = files(&workspace::root().join("dashboards")).unwrap();
        assert!(found.iter().any(|file| file.ends_with("dashboards/tracer-listeners.json")));
        assert!(!found.iter().any(|file| file.ends_with("package.json")), "{found:?}");
    }
}
