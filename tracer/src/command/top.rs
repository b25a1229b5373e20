//! `tracer top`: listeners, workloads and network namespaces on a screen that refreshes itself, or once as text.
//!
//! Owns the flags. Where readings come from is in [`feed`], the terminal in [`terminal`]; what is shown, and
//! what keys do, is decided in [`crate::top`] without either.

mod feed;
#[expect(unsafe_code, reason = "sigaction() and raise() have no safe wrapper here")]
mod signals;
mod terminal;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use clap::{Args, ValueEnum};

use self::feed::Feed;
use crate::{
    config::{Config, Defaults, Flags, parse_time},
    failure::Failure,
    top::{
        plain,
        rates::History,
        reading::Reading,
        screen::{Screen, Tab},
    },
};

/// In a look of its own. Somebody looks on; but a screen may stay for hours.
pub const DEFAULTS: Defaults = Defaults { pass_cpu_percent: 5, ..Defaults::AGENT };

/// Flags of `tracer top`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Ask this agent, or read what its /metrics said from a file, or with --once from standard input (-); without
    /// it, ask the agent at http://127.0.0.1:9795, or look at the kernel if there is none
    #[arg(long, value_name = "URL|FILE|-")]
    from: Option<String>,
    /// Look at the kernel with hooks of the command's own, whether an agent runs or not
    #[arg(long, conflicts_with = "from")]
    own: bool,
    /// Time between two readings
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_interval)]
    interval: Duration,
    /// Print one screen as plain text and leave, as happens where standard output is no terminal
    #[arg(long)]
    once: bool,
    /// The table to begin with; with --once the only one
    #[arg(long, value_enum, value_name = "TABLE")]
    tab: Option<TabName>,
    /// The column to sort by
    #[arg(long, value_name = "COLUMN", requires = "tab")]
    sort: Option<String>,
    /// Show rows with this text in any of their names
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
    /// Rows of each table that --once prints
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rows: u32,
    #[command(flatten, next_help_heading = "Options of tracer run, as far as they are about a look of its own")]
    flags: Flags,
}

/// The tables by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TabName {
    /// By saturation and drops.
    Listeners,
    /// By their share of retransmits.
    Workloads,
    /// By TIME_WAIT and ephemeral ports.
    Namespaces,
}

impl From<TabName> for Tab {
    fn from(name: TabName) -> Self {
        match name {
            TabName::Listeners => Self::Listeners,
            TabName::Workloads => Self::Workloads,
            TabName::Namespaces => Self::Namespaces,
        }
    }
}

/// A reading costs the agent a scrape; more often than this nobody can read.
const INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_hours(1);

fn parse_interval(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if INTERVAL.contains(&time) { Ok(time) } else { Err("choose 500ms to 1h".to_owned()) }
}

/// Shows the tables until the user leaves, or once.
pub fn run(options: &Options) -> Result<ExitCode, Failure> {
    let config = Config::load_or(&options.flags, DEFAULTS).map_err(|error| Failure::usage(&error))?;
    let screen = screen(options)?;
    let is_screen = !options.once && terminal::is_usable();
    if options.from.as_deref() == Some("-") && !options.once {
        return Err(Failure::usage(&"standard input can be read once only: add --once, or give --from a file"));
    }
    let (mut feed, first) = Feed::open(options.from.as_deref(), options.own, config, options.interval, is_screen)?;
    let mut history = History::default();
    let first = history.add(first);
    if is_screen {
        terminal::show(screen, feed, history, first, options.interval)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !options.once {
        // For people alone, who may have left.
        let _ = writeln!(io::stderr(), "tracer: standard output is no terminal: one screen as with --once");
    }
    let reading = if feed.is_own_look() { again(&mut feed, &mut history, options.interval, first) } else { Ok(first) };
    let printed = reading.and_then(|reading| print(options, screen, &feed, &reading));
    feed.end().and(printed)?;
    Ok(ExitCode::SUCCESS)
}

/// What was asked for by flags.
fn screen(options: &Options) -> Result<Screen, Failure> {
    let tab = options.tab.map_or(Tab::default(), Tab::from);
    let mut screen = Screen::new(tab, &options.filter);
    if let Some(sort) = options.sort.as_deref().filter(|sort| !screen.sort_by(sort)) {
        let columns: Vec<&str> = tab.columns().into_iter().map(|(title, _)| title).collect();
        return Err(Failure::usage(&format_args!(
            "{} have no column {sort:?}: choose one of {}",
            tab.name(),
            columns.join(", ")
        )));
    }
    Ok(screen)
}

/// A look of its own begins with nothing counted: one interval more gives it something to tell.
fn again(
    feed: &mut Feed,
    history: &mut History,
    interval: Duration,
    first: Arc<Reading>,
) -> Result<Arc<Reading>, Failure> {
    thread::sleep(interval);
    feed.await_pass()?;
    Ok(feed.read()?.map_or(first, |reading| history.add(reading)))
}

fn print(options: &Options, screen: Screen, feed: &Feed, reading: &Reading) -> Result<(), Failure> {
    let screens = if options.tab.is_some() { vec![screen] } else { plain::every_table(&options.filter) };
    let source = feed.source(Duration::ZERO, None);
    let rows = usize::try_from(options.rows).unwrap_or(usize::MAX);
    let mut out = io::BufWriter::new(io::stdout().lock());
    plain::write(&mut out, &screens, reading, &source, rows)
        .and_then(|()| out.flush())
        .map_err(|error| Failure::other(format!("cannot write the tables: {error}")))
}

/// Whether colours are wanted: `NO_COLOR` says no, unless it is empty.
fn color() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::column::{LISTENERS, NAMESPACES, WORKLOADS};

    #[test]
    fn an_interval_has_its_bounds() {
        assert_eq!(parse_interval("500ms"), Ok(Duration::from_millis(500)));
        for text in ["0s", "499ms", "2h"] {
            assert_eq!(parse_interval(text), Err("choose 500ms to 1h".to_owned()), "{text}");
        }
        assert!(parse_interval("2").unwrap_err().contains("unit"));
    }

    #[test]
    fn tables_are_named_as_on_their_tabs() {
        let names: Vec<String> = TabName::value_variants()
            .iter()
            .filter_map(|name| Some(name.to_possible_value()?.get_name().to_owned()))
            .collect();
        assert_eq!(names, [LISTENERS.name, WORKLOADS.name, NAMESPACES.name]);
        assert_eq!(TabName::value_variants().iter().map(|name| Tab::from(*name)).collect::<Vec<_>>(), Tab::ALL);
    }
}
