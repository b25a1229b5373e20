//! A node in small: pods with traffic that runs into TCP's limits, the agent, and Prometheus with the shipped rules.
//!
//! Owns what is started and in which order it ends. Everything is on loopback or in network namespaces of its own;
//! settings are those of these namespaces. Nothing is left: processes end with their handles, the kernel removes
//! the namespaces with them, and cgroups and files are removed. Must not know what is checked or shown.

mod agent;
mod pods;
mod prometheus;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

pub(crate) use pods::Pods;
pub(crate) use prometheus::Alert;

use agent::Agent;
use prometheus::Prometheus;

/// What a lab is made of, and where it serves.
pub(crate) struct Plan<'a> {
    /// The agent's binary.
    pub(crate) agent: PathBuf,
    /// Port 0 chooses a free one.
    pub(crate) agent_address: SocketAddr,
    pub(crate) prometheus_address: SocketAddr,
    /// The built page, which Prometheus serves.
    pub(crate) page: &'a Path,
    /// Where the logs of the agent and of Prometheus go.
    pub(crate) logs: &'a Path,
    pub(crate) scrape_seconds: u32,
}

/// A lab that runs until it is dropped, in this order.
pub(crate) struct Lab {
    pub(crate) pods: Pods,
    pub(crate) prometheus: Prometheus,
    pub(crate) agent: Agent,
    _directory: TempDir,
}

impl Lab {
    /// Everything runs, and Prometheus answers, when this returns.
    pub(crate) fn start(plan: &Plan<'_>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("tracer-lab-").tempdir().context("making a directory")?;
        fs::create_dir_all(plan.logs).with_context(|| format!("making {}", plan.logs.display()))?;
        // The names of the pods are there before the agent looks, and the agent is before there is traffic, so that
        // it sees the namespaces from their beginning.
        let names = pods::name_all(directory.path())?;
        let agent = Agent::start(plan, &names)?;
        let prometheus = Prometheus::start(plan, agent.address(), directory.path())?;
        let pods = Pods::start()?;
        Ok(Self { pods, prometheus, agent, _directory: directory })
    }

    /// Fails when one of the processes has ended of itself.
    pub(crate) fn check_runs(&mut self) -> Result<()> {
        self.agent.check_runs()?;
        self.prometheus.check_runs()?;
        self.pods.check_run()
    }
}
