//! The systemd unit: systemd reads it without complaint, and it stays as closed as it is.

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::tools::directory;
use crate::process::{self, command};
use crate::run::CAPABILITIES;
use crate::{setup, workspace};

const UNIT: &str = "deploy/tracer.service";
const INSTALLED: &str = "/usr/local/bin/tracer";

/// In tenths, as `--threshold` has it. From systemd 252 to 257 the score is the same.
const EXPOSURE_MAX: u32 = 31;

pub(super) fn check() -> Result<()> {
    setup::deploy_tools()?;
    let unit = fs::read_to_string(workspace::root().join(UNIT)).with_context(|| format!("reading {UNIT}"))?;
    capabilities_agree(&unit)?;
    // What it starts has to exist, and need not be installed here.
    let file = directory().join("tracer.service");
    fs::create_dir_all(directory())?;
    fs::write(&file, unit.replace(INSTALLED, "/bin/sh")).with_context(|| format!("writing {}", file.display()))?;
    process::run(command("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]).arg(&file))?;
    let mut security = command("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", &format!("--threshold={EXPOSURE_MAX}")]).arg(&file);
    let table = process::capture_quietly(&mut security)?;
    let score = table.lines().find(|line| line.contains("Overall exposure level"));
    println!("{UNIT}: {}", score.unwrap_or_default().trim());
    Ok(())
}

/// The unit grants what `cargo xtask run` asks for, by one list.
fn capabilities_agree(unit: &str) -> Result<()> {
    let mut listed: Vec<_> = CAPABILITIES.iter().map(|&(_, name)| name).collect();
    listed.sort_unstable();
    for setting in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
        let line = unit.lines().find_map(|line| line.strip_prefix(setting));
        let mut granted: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
        granted.sort_unstable();
        if granted != listed {
            bail!("{UNIT} has {setting}{granted:?} and the list in xtask/src/run.rs {listed:?}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_grants_what_is_asked_for() {
        let unit = fs::read_to_string(workspace::root().join(UNIT)).unwrap();
        capabilities_agree(&unit).unwrap();
        assert!(capabilities_agree(&unit.replace("CAP_BPF ", "")).is_err());
        assert!(unit.contains(INSTALLED));
    }
}
