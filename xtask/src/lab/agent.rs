//! The agent, as a user would start it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Plan;
use crate::child::Dialogue;

/// A running agent.
pub(crate) struct Agent {
    process: Dialogue,
    address: SocketAddr,
}

impl Agent {
    /// It serves and its hooks are attached when this returns. `names` stands for `/var/log` of a Kubernetes node.
    pub(super) fn start(plan: &Plan<'_>, names: &Path) -> Result<Self> {
        let log = plan.logs.join("agent.log");
        let mut command = Command::new(&plan.agent);
        // Passes as often as scrapes, so that the kernel's own counters are as fresh as the others.
        command
            .args(["run", "--listen", &plan.agent_address.to_string()])
            .args(["--pass-interval", &format!("{}s", plan.scrape_seconds), "--pod-logs"])
            .arg(names)
            .stderr(File::create(&log).with_context(|| format!("making {}", log.display()))?);
        let mut process = Dialogue::start(&mut command)?;
        loop {
            let line = process.hear().with_context(|| format!("see {}", log.display()))?;
            if let Some(url) = line.strip_prefix("metrics: http://") {
                let address = url.trim_end_matches("/metrics");
                let address = address.parse().with_context(|| format!("the agent serves on `{address}`"))?;
                return Ok(Self { process, address });
            }
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn check_runs(&mut self) -> Result<()> {
        self.process.check_runs()
    }
}
