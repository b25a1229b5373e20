//! The maintainer scripts as on a machine where systemd runs: which tools they call, and with what.
//!
//! The tools are stand-ins that print their names, and /run is another one, in a mount namespace that ends with the
//! scripts: nothing on this machine is asked.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::process::{self, command};
use crate::workspace;

/// What dpkg runs in turn when a package comes, is replaced, goes, and is forgotten; and what the scripts then call.
const LIFE: &[(&str, &str)] = &[
    ("postinst configure ''", "deb-systemd-helper --quiet was-enabled tracer.service"),
    ("", "systemctl daemon-reload"),
    ("", "deb-systemd-invoke start tracer.service"),
    ("prerm upgrade 9", ""),
    ("postinst configure 0.1", "deb-systemd-helper --quiet was-enabled tracer.service"),
    ("", "systemctl daemon-reload"),
    ("", "deb-systemd-invoke restart tracer.service"),
    ("prerm remove", "deb-systemd-invoke stop tracer.service"),
    ("postrm remove", "systemctl daemon-reload"),
    ("postrm purge", "systemctl daemon-reload"),
];

const TOOLS: &[&str] = &["systemctl", "deb-systemd-invoke", "deb-systemd-helper"];

/// Runs the scripts and compares what they call; what goes to /dev/null is not seen.
pub(super) fn call_what_they_should() -> Result<()> {
    let tools = tempfile::tempdir()?;
    for tool in TOOLS {
        let file = tools.path().join(tool);
        fs::write(&file, format!("#!/bin/sh\necho \"{tool} $*\"\n"))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    }
    let steps: Vec<_> = LIFE.iter().map(|(step, _)| *step).filter(|step| !step.is_empty()).collect();
    let script = format!(
        "set -e; mount -t tmpfs none /run; mkdir -p /run/systemd/system; PATH={}:$PATH; for step in {}; do eval \"sh $step\"; done",
        tools.path().display(),
        steps.iter().map(|step| format!("\"{step}\"")).collect::<Vec<_>>().join(" ")
    );
    let called = process::capture(
        command("unshare")
            .args(["--mount", "sh", "-c", &script])
            .current_dir(workspace::root().join(Path::new("deploy/debian")))
            .env_remove("DPKG_ROOT"),
    )?;
    let expected: Vec<_> = LIFE.iter().map(|(_, call)| *call).filter(|call| !call.is_empty()).collect();
    let called: Vec<_> = called.lines().collect();
    ensure!(called == expected, "the maintainer scripts call {called:#?}, not {expected:#?}");
    Ok(())
}
