//! Draws the dashboards with Grafana's own React components: no Grafana server is needed.
//!
//! Owns target/draw: a copy of dashboards/draw with its npm packages, and the page that is built there. The page is
//! static files, which Prometheus serves; pictures of it are taken in a headless Chromium. The packages come from
//! the npm registry, by the lock file, and run no script of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::process::{self, command};
use crate::{setup, workspace};

/// Names that Debian and others give the browser, the smallest first.
const BROWSERS: &[&str] = &["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

/// A page that is built.
pub(crate) struct Page {
    /// Where its files are.
    pub(crate) directory: PathBuf,
}

/// What a dashboard's picture shows.
#[derive(Deserialize)]
pub(crate) struct Drawing {
    pub(crate) uid: String,
    #[serde(default)]
    pub(crate) panels: Vec<Panel>,
    /// Why nothing was drawn.
    error: Option<String>,
    /// What the browser has to say.
    complaints: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) queries: Vec<Query>,
    error: Option<String>,
}

/// A query, with the variables filled in.
#[derive(Deserialize)]
pub(crate) struct Query {
    #[serde(rename = "refId")]
    pub(crate) id: String,
    pub(crate) expr: String,
    /// Samples that can be drawn.
    pub(crate) numbers: u64,
    error: Option<String>,
}

impl Drawing {
    /// What is wrong with the picture, one line each. A query without data counts unless it `may_be_empty`, by the
    /// dashboard, the panel's title and the query's letter.
    pub(crate) fn problems(&self, may_be_empty: impl Fn(&str, &str, &str) -> bool) -> Vec<String> {
        let mut problems: Vec<_> = self.error.iter().chain(&self.complaints).cloned().collect();
        for panel in &self.panels {
            problems.extend(panel.error.iter().map(|error| format!("panel `{}`: {error}", panel.title)));
            for query in &panel.queries {
                let problem = match &query.error {
                    Some(error) => error.as_str(),
                    None if query.numbers == 0 && !may_be_empty(&self.uid, &panel.title, &query.id) => "no data",
                    None => continue,
                };
                problems.push(format!("panel `{}`, query {}: {problem}: {}", panel.title, query.id, query.expr));
            }
        }
        if self.error.is_none() && self.panels.is_empty() {
            problems.push("no panel was drawn".to_owned());
        }
        problems.iter().map(|problem| format!("{}: {problem}", self.uid)).collect()
    }
}

/// Builds the page with the dashboards as they are in the checkout.
pub(crate) fn build_page() -> Result<Page> {
    setup::page_tools()?;
    let workshop = workspace::root().join("target/draw");
    install(&workshop)?;
    let directory = workshop.join("page");
    process::run(
        command("node").arg(workshop.join("build.mjs")).arg(workspace::root().join("dashboards")).arg(&directory),
    )?;
    Ok(Page { directory })
}

/// Copies the sources, and installs the packages unless the lock file is that of the last time.
fn install(workshop: &Path) -> Result<()> {
    let sources = workspace::root().join("dashboards/draw");
    copy(&sources, workshop)?;
    let (lock, installed) = (sources.join("package-lock.json"), workshop.join("node_modules/.installed"));
    let wanted = fs::read(&lock).with_context(|| format!("reading {}", lock.display()))?;
    if fs::read(&installed).is_ok_and(|last| last == wanted) {
        return Ok(());
    }
    println!("draw: installing Grafana's components from the npm registry into target/draw");
    process::run(command("npm").args(["ci", "--prefer-offline", "--loglevel=error"]).current_dir(workshop))?;
    fs::write(installed, wanted)?;
    Ok(())
}

/// The files of a directory and those below; links and what npm makes are left out.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("listing {}", from.display()))? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if kind.is_dir() && name != "node_modules" {
            copy(&entry.path(), &to.join(name))?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

impl Page {
    /// The dashboards that it holds.
    pub(crate) fn dashboards(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Listed {
            uid: String,
        }
        let text = fs::read_to_string(self.directory.join("dashboards.json")).context("reading the page's list")?;
        let listed: Vec<Listed> = serde_json::from_str(&text).context("reading the page's list")?;
        Ok(listed.into_iter().map(|dashboard| dashboard.uid).collect())
    }

    /// Where a Prometheus that was told to serve it does so. `choice` is what is chosen: the time, and variables.
    pub(crate) fn address(prometheus: SocketAddr, choice: &str) -> String {
        format!("http://{prometheus}/user/?{choice}")
    }

    /// Takes a picture of each dashboard into the directory, and says what each shows.
    pub(crate) fn draw(&self, prometheus: SocketAddr, choice: &str, pictures: &Path) -> Result<Vec<Drawing>> {
        let browser = browser()?;
        fs::create_dir_all(pictures).with_context(|| format!("making {}", pictures.display()))?;
        let answer = process::capture(
            command("node")
                .arg(self.directory.with_file_name("shoot.mjs"))
                .arg(browser)
                .arg(Self::address(prometheus, choice))
                .arg(pictures)
                .args(self.dashboards()?),
        )?;
        let drawings = answer.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
        drawings.collect()
    }
}

/// The browser, which is installed if there is none.
fn browser() -> Result<PathBuf> {
    if let Some(browser) = find_browser() {
        return Ok(browser);
    }
    setup::browser()?;
    find_browser().context("no Chromium was found after its installation")
}

/// The browser, if there is one.
pub(crate) fn find_browser() -> Option<PathBuf> {
    BROWSERS.iter().find_map(|name| process::find(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing(queries: &str) -> Drawing {
        let text = format!(
            r#"{{"uid":"d","complaints":[],"panels":[{{"id":1,"type":"stat","title":"P","error":null,"queries":[{queries}]}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    const DATA: &str = r#"{"refId":"A","expr":"up","series":1,"numbers":3}"#;
    const EMPTY: &str = r#"{"refId":"B","expr":"down","series":0,"numbers":0}"#;
    const BROKEN: &str = r#"{"refId":"C","expr":"up(","series":0,"numbers":0,"error":"parse error"}"#;

    #[test]
    fn data_is_no_problem() {
        assert!(drawing(DATA).problems(|_, _, _| false).is_empty());
    }

    #[test]
    fn a_query_without_data_is_named_with_its_panel() {
        let drawn = drawing(&format!("{DATA},{EMPTY}"));
        assert_eq!(drawn.problems(|_, _, _| false), ["d: panel `P`, query B: no data: down"]);
        assert!(drawn.problems(|uid, title, id| (uid, title, id) == ("d", "P", "B")).is_empty());
    }

    #[test]
    fn an_error_is_a_problem_even_where_data_may_be_missing() {
        assert_eq!(drawing(BROKEN).problems(|_, _, _| true), ["d: panel `P`, query C: parse error: up("]);
    }

    #[test]
    fn a_page_that_fails_is_a_problem() {
        let drawn: Drawing = serde_json::from_str(r#"{"uid":"d","error":"e","complaints":["c"]}"#).unwrap();
        assert_eq!(drawn.problems(|_, _, _| false), ["d: e", "d: c"]);
        let nothing: Drawing = serde_json::from_str(r#"{"uid":"d","panels":[],"complaints":[]}"#).unwrap();
        assert_eq!(nothing.problems(|_, _, _| false), ["d: no panel was drawn"]);
    }
}
