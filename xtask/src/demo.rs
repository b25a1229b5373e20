//! `cargo xtask demo`: the agent, Prometheus with the shipped rules, and traffic that runs into TCP's limits, with
//! the dashboards drawn from it, on this machine and without Kubernetes or Grafana.
//!
//! Owns what is said to the user and when it ends. Changes nothing: see lab.rs for what is started.

use std::collections::BTreeSet;
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
    let mut told = BTreeSet::new();
    while signals.pending().next().is_none() && end.is_none_or(|end| Instant::now() < end) {
        lab.check_runs()?;
        for alert in lab.prometheus.alerts()?.iter().filter(|alert| alert.is_firing()) {
            tell(alert, &mut told);
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

/// Says each alert once.
fn tell(alert: &Alert, told: &mut BTreeSet<String>) {
    let summary = alert.annotations.get("summary").map_or("", String::as_str);
    let line = format!("  {:28}  {summary}", alert.name());
    if !told.contains(&line) {
        println!("{line}");
        told.insert(line);
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
