//! `cargo xtask e2e`: the whole path that an operator touches, once, with the real parts: limits of TCP are run into,
//! the agent counts, Debian's Prometheus scrapes and fires, and every panel of every dashboard shows data.
//!
//! Owns the order, and the tables of what must fire and what may be empty. The dashboards, the rules and the page
//! are those that are shipped; nothing is shortened.

mod alerts;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::draw::{self, Drawing, Page};
use crate::lab::{Lab, Plan, Pods};
use crate::test::SECOND_TRY;
use crate::workspace::Arch;
use crate::{build, process, setup, workspace};

/// Beyond this nothing more will fire: the longest `for` is five minutes, and what it waits for is there within two.
const ALERTS_LIMIT: Duration = Duration::from_mins(9);

/// How long charts have at least to show more than a beginning.
const RUN_MIN: Duration = Duration::from_secs(75);

const SCRAPE_SECONDS: u32 = 1;

/// On a busy machine scrapes take longer than the second they are given: for so long some may be missing.
const LATE_SCRAPES: Duration = Duration::from_secs(15);

/// Queries that have no data where all is well, by dashboard, panel and letter, and why nothing here provokes them.
const MAY_BE_EMPTY: &[(&str, &str, &str, &str)] = &[(
    "tracer-agent",
    "CPU",
    "B",
    "the kernel times programs only while its bpf_stats_enabled is on, which is the machine's",
)];

/// Options of `cargo xtask e2e`.
#[derive(Args, Default)]
pub(crate) struct Opts {
    /// Put the pictures into docs/img as well.
    #[arg(long)]
    update_images: bool,
    /// A binary of the agent, instead of the one that the live tests use.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    if !process::is_root() {
        bail!("the end-to-end run loads eBPF programs and makes network namespaces: run it as root");
    }
    setup::lab_tools()?;
    let page = draw::build_page()?;
    let agent = match &opts.binary {
        Some(binary) => binary.clone(),
        None => build::guest_parts(Arch::native()?)?.agent,
    };
    let files = workspace::root().join("target/e2e");
    let loopback = ([127, 0, 0, 1], 0).into();
    let plan = Plan {
        agent,
        agent_address: loopback,
        prometheus_address: loopback,
        page: &page.directory,
        logs: &files,
        scrape_seconds: SCRAPE_SECONDS,
    };
    let start = Instant::now();
    let mut lab = Lab::start(&plan)?;
    alerts::wait_for_all(&mut lab, ALERTS_LIMIT)?;
    thread::sleep(RUN_MIN.saturating_sub(start.elapsed()));
    lab.check_runs()?;
    let mut drawn = draw(&page, &lab, start, &files)?;
    if !drawn.problems.is_empty() {
        println!(
            "{SECOND_TRY}end-to-end: drawn once more, since some scrape may have been late: {}",
            drawn.problems.join("; ")
        );
        thread::sleep(LATE_SCRAPES);
        lab.check_runs()?;
        drawn = draw(&page, &lab, start, &files)?;
    }
    drop(lab);
    let Drawn { drawings, problems } = drawn;
    if !problems.is_empty() {
        // All in the error, which is what is left when the rest of a log is cut.
        bail!("{} problems with what the dashboards show:\n{}", problems.len(), problems.join("\n"));
    }
    println!("e2e: pictures of {} dashboards in {}", drawings.len(), files.display());
    if opts.update_images {
        update_images(&drawings, &files)?;
    }
    Ok(())
}

/// Pictures of all dashboards, and what is wrong with them.
struct Drawn {
    drawings: Vec<Drawing>,
    problems: Vec<String>,
}

/// Draws from the beginning of the run, and without what else this machine does.
fn draw(page: &Page, lab: &Lab, start: Instant, files: &Path) -> Result<Drawn> {
    let choice = format!("from=now-{}s&var-namespace={}", start.elapsed().as_secs(), Pods::NAMESPACE);
    let drawings = page.draw(lab.prometheus.address(), &choice, files)?;
    let problems = problems(page, &drawings)?;
    Ok(Drawn { drawings, problems })
}

/// Every panel that shows nothing, an error, or what is no number.
fn problems(page: &Page, drawings: &[Drawing]) -> Result<Vec<String>> {
    let may_be_empty = |uid: &str, panel: &str, id: &str| {
        MAY_BE_EMPTY.iter().any(|&(a, b, c, why)| (a, b, c) == (uid, panel, id) && !why.is_empty())
    };
    let mut problems: Vec<_> = drawings.iter().flat_map(|drawing| drawing.problems(may_be_empty)).collect();
    let drawn: Vec<_> = drawings.iter().map(|drawing| &drawing.uid).collect();
    problems
        .extend(page.dashboards()?.iter().filter(|uid| !drawn.contains(uid)).map(|uid| format!("{uid}: not drawn")));
    Ok(problems)
}

fn update_images(drawings: &[Drawing], files: &Path) -> Result<()> {
    let images = workspace::root().join("docs/img");
    fs::create_dir_all(&images)?;
    for Drawing { uid, .. } in drawings {
        let file = format!("{uid}.png");
        fs::copy(files.join(&file), images.join(&file)).with_context(|| format!("copying {file}"))?;
    }
    Ok(())
}
