//! `cargo xtask demo`: the agent, Prometheus with the shipped rules, and traffic that runs into TCP's limits, with
//! the dashboards drawn from it, on this machine and without Kubernetes or Grafana.
//!
//! Owns what is said to the user and when it ends. Changes nothing: see lab.rs for what is started.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::draw::{self, Page};
use crate::lab::{Alert, Lab, Plan, Pods};
use crate::{build, process, setup, workspace};

/// How often alerts are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often pictures are drawn again.
const DRAW_INTERVAL: Duration = Duration::from_secs(30);

const SCRAPE_SECONDS: u32 = 2;

/// What the page shows at first.
const CHOICE: &str = "from=now-15m";

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct Opts {
    /// End after this time (90s, 10m) instead of at Ctrl-C.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Draw pictures to target/demo every 30 s too, in a headless Chromium: for a machine without a browser.
    #[arg(long)]
    pictures: bool,
    /// Where the agent serves.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9795")]
    agent: SocketAddr,
    /// Where Prometheus serves its own pages and the dashboards.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9790")]
    prometheus: SocketAddr,
    /// A binary of the agent, instead of one built from this checkout.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    if !process::is_root() {
        bail!("the demo loads eBPF programs and makes network namespaces: run it as root");
    }
    setup::lab_tools()?;
    let page = draw::build_page()?;
    let agent = match &opts.binary {
        Some(binary) => binary.clone(),
        None => build::agent()?,
    };
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let files = workspace::root().join("target/demo");
    let mut lab = Lab::start(&Plan {
        agent,
        agent_address: opts.agent,
        prometheus_address: opts.prometheus,
        page: &page.directory,
        logs: &files,
        scrape_seconds: SCRAPE_SECONDS,
    })?;
    introduce(&lab);
    let mut pictures = opts.pictures.then(|| Pictures { page, directory: files, due: Instant::now() + DRAW_INTERVAL });
    let end = opts.duration.map(|duration| Instant::now() + duration);
    let mut firing = Firing::default();
    while signals.pending().next().is_none() && end.is_none_or(|end| Instant::now() < end) {
        lab.check_runs()?;
        for line in firing.changes(&lab.prometheus.alerts()?) {
            println!("{line}");
        }
        if let Some(pictures) = &mut pictures {
            pictures.draw_when_due(lab.prometheus.address())?;
        }
        thread::sleep(LOOK_INTERVAL);
    }
    println!("\nends; nothing is left");
    Ok(())
}

fn introduce(lab: &Lab) {
    let prometheus = lab.prometheus.address();
    println!("\nmetrics     http://{}/metrics", lab.agent.address());
    println!("prometheus  http://{prometheus}/alerts");
    println!("dashboards  {}&refresh=5s", Page::address(prometheus, CHOICE));
    println!("\ntraffic:");
    for (pod, what) in Pods::described() {
        println!("  {pod:18}  {what}");
    }
    println!("\nCtrl-C ends it. Alerts that fire:");
}

/// The alerts that fire, by their labels: what an alert says of itself changes with its value.
#[derive(Default)]
struct Firing(BTreeMap<BTreeMap<String, String>, String>);

impl Firing {
    /// A line for each alert that begins to fire, and one for each that ends.
    fn changes(&mut self, alerts: &[Alert]) -> Vec<String> {
        let mut lines = Vec::new();
        let now: Vec<&Alert> = alerts.iter().filter(|alert| alert.is_firing()).collect();
        self.0.retain(|labels, summary| {
            let fires = now.iter().any(|alert| alert.labels == *labels);
            if !fires {
                let name = labels.get("alertname").map_or("", String::as_str);
                lines.push(format!("  {name:28}  ended: {summary}"));
            }
            fires
        });
        for alert in now {
            if self.0.contains_key(&alert.labels) {
                continue;
            }
            let summary = alert.annotations.get("summary").cloned().unwrap_or_default();
            lines.push(format!("  {:28}  {summary}", alert.name()));
            self.0.insert(alert.labels.clone(), summary);
        }
        lines
    }
}

/// Pictures that are drawn again and again.
struct Pictures {
    page: Page,
    directory: PathBuf,
    due: Instant,
}

impl Pictures {
    fn draw_when_due(&mut self, prometheus: SocketAddr) -> Result<()> {
        if Instant::now() >= self.due {
            let drawings = self.page.draw(prometheus, CHOICE, &self.directory)?;
            println!("  {} pictures in {}", drawings.len(), self.directory.display());
            self.due = Instant::now() + DRAW_INTERVAL;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(pod: &str, state: &str, summary: &str) -> Alert {
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Alert {
            state: state.to_owned(),
            labels: BTreeMap::from([text("alertname", "Queue"), text("pod", pod)]),
            annotations: BTreeMap::from([text("summary", summary)]),
        }
    }

    #[test]
    fn an_alert_is_said_when_it_begins_and_when_it_ends_whatever_its_value_does_meanwhile() {
        let mut firing = Firing::default();
        let mut said = |alerts: &[Alert]| firing.changes(alerts).join("|");
        let line = |summary: &str| format!("  {:28}  {summary}", "Queue");
        assert_eq!(said(&[alert("a", "pending", "81 %")]), "");
        assert_eq!(
            said(&[alert("a", "firing", "82 %"), alert("b", "firing", "90 %")]),
            line("82 %") + "|" + &line("90 %")
        );
        assert_eq!(said(&[alert("a", "firing", "97 %"), alert("b", "firing", "99 %")]), "");
        assert_eq!(said(&[alert("b", "firing", "99 %")]), line("ended: 82 %"));
        assert_eq!(said(&[alert("b", "pending", "99 %")]), line("ended: 90 %"));
        assert_eq!(said(&[alert("a", "firing", "85 %")]), line("85 %"), "it fires again");
    }
}
