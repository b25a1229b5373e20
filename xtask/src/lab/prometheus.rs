//! Debian's Prometheus with the shipped rules: scrapes the agent, fires alerts, and serves the dashboards' page.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::Plan;
use crate::child::{Guarded, until};
use crate::{http, workspace};

/// How long it may take to start.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A running Prometheus.
pub(crate) struct Prometheus {
    process: Guarded,
    address: SocketAddr,
}

/// An alert that is pending or firing.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Alert {
    pub(crate) state: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Alert {
    pub(crate) fn name(&self) -> &str {
        self.label("alertname")
    }

    /// The label's value, empty if there is none.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    pub(crate) fn is_firing(&self) -> bool {
        self.state == "firing"
    }
}

/// The envelope of every answer.
#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
struct Alerts {
    alerts: Vec<Alert>,
}

impl Prometheus {
    /// It answers when this returns. Its data are in `directory`.
    pub(super) fn start(plan: &Plan<'_>, agent: SocketAddr, directory: &Path) -> Result<Self> {
        let address = free(plan.prometheus_address)?;
        let configuration = directory.join("prometheus.yml");
        fs::write(&configuration, configured(agent, plan.scrape_seconds))?;
        let log = plan.logs.join("prometheus.log");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.user-assets={}", plan.page.display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--storage.tsdb.retention.time=1d", "--log.level=warn"])
            .stderr(File::create(&log).with_context(|| format!("making {}", log.display()))?);
        let mut process = Guarded::start(&mut command)?;
        until("Prometheus answers", START_LIMIT, || {
            process.check_runs().with_context(|| format!("see {}", log.display()))?;
            Ok(http::get(address, "/-/ready").ok())
        })?;
        Ok(Self { process, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All alerts that are pending or firing.
    pub(crate) fn alerts(&self) -> Result<Vec<Alert>> {
        let text = http::get(self.address, "/api/v1/alerts")?;
        let answer: Answer<Alerts> = serde_json::from_str(&text).context("reading Prometheus' alerts")?;
        Ok(answer.data.alerts)
    }

    pub(super) fn check_runs(&mut self) -> Result<()> {
        self.process.check_runs()
    }
}

/// The address, with a free port instead of 0. Prometheus does not tell which one it got.
fn free(address: SocketAddr) -> Result<SocketAddr> {
    match TcpListener::bind(address) {
        Ok(listener) => Ok(listener.local_addr()?),
        Err(error) => bail!("Prometheus cannot listen on {address} ({error}); choose another address"),
    }
}

/// The rules as they are shipped; the labels of the agent are kept, as docs tell everybody to.
fn configured(agent: SocketAddr, scrape_seconds: u32) -> String {
    let rules = workspace::root().join("dashboards/rules/*.yaml");
    format!(
        "global:\n  scrape_interval: {scrape_seconds}s\n  evaluation_interval: {scrape_seconds}s\n\
         rule_files: ['{}']\n\
         scrape_configs:\n  - job_name: tracer\n    honor_labels: true\n    static_configs:\n      - targets: ['{agent}']\n",
        rules.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_zero_becomes_a_free_one() {
        let address = free(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        assert_ne!(address.port(), 0);
        let taken = TcpListener::bind(address).unwrap();
        let error = free(taken.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }

    #[test]
    fn alerts_are_read() {
        let text = r#"{"status":"success","data":{"alerts":[{"labels":{"alertname":"A","pod":"p"},
            "annotations":{"summary":"s"},"state":"firing","activeAt":"2026-01-01T00:00:00Z","value":"1e+00"}]}}"#;
        let answer: Answer<Alerts> = serde_json::from_str(text).unwrap();
        let alert = &answer.data.alerts[0];
        assert_eq!((alert.name(), alert.label("pod"), alert.label("unit")), ("A", "p", ""));
        assert!(alert.is_firing());
    }
}
