//! `tracer advise`: reads limits, settings and what was seen, and says what binds, most urgent first,
//! with evidence and remedy. It changes nothing.
//!
//! Owns the flags and the exit code. The facts come from a running agent, from a file, or from a short
//! look of its own ([`crate::agent::snapshot`]); in every case they are the text of `/metrics`. An agent and
//! a look have their `/status` beside it, which names destinations; advice does without where it is missing.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, ValueEnum};

use super::{
    leave,
    run::start_log,
    source::{self, AGENT_DEFAULT},
};
use crate::{
    advise::{
        Advice, Origin, Source,
        destinations::{ASK, Cause, Destinations},
        exposition::{Building, Exposition, ParseError},
        facts::Facts,
        finding::Severity,
        json,
        names::{BUILD_INFO, METRICS_USED, START_TIME},
        text::{self, Style},
    },
    agent,
    config::{Config, Flags, LogLevel, parse_time},
    failure::Failure,
    progress::Progress,
    terminal::{colors_stdout, unless_reader_left},
};

/// Flags of `tracer advise`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Ask this agent, or read what /metrics said from a file, or from standard input (-); without it, ask the
    /// agent at http://127.0.0.1:9795, or look at the kernel for a while if there is none
    #[arg(long, value_name = "URL|FILE|-")]
    from: Option<String>,
    /// Look at the kernel with hooks of the command's own, whether an agent runs or not
    #[arg(long, conflicts_with = "from")]
    own: bool,
    /// How long such a look takes; giving it asks for one [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_watch, conflicts_with = "from")]
    watch: Option<Duration>,
    /// Idle time after which a load balancer before this node forgets a connection
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    lb_idle: Option<Duration>,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Print every finding, and the rules that could not judge
    #[arg(long)]
    verbose: bool,
    #[command(flatten, next_help_heading = "Options of tracer run, as far as they are about hooks and limits")]
    flags: Flags,
}

/// Forms of the findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For scripts: one object.
    Json,
}

/// A look shorter than a pass sees nothing; a longer one is an agent's business.
const WATCH_DEFAULT: Duration = Duration::from_secs(10);
const WATCH: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

fn parse_watch(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if WATCH.contains(&time) { Ok(time) } else { Err("choose 1s to 1h".to_owned()) }
}

/// What was read, before anybody has judged it.
struct Input {
    origin: Origin,
    /// What `/metrics` said.
    samples: Exposition,
    destinations: Destinations,
}

/// Exit code for the most urgent finding. Notes ask for nothing.
const fn exit_code(worst: Option<Severity>) -> u8 {
    match worst {
        None | Some(Severity::Note) => 0,
        Some(Severity::Risk) => 1,
        Some(Severity::Binds) => 2,
    }
}

/// Reads, judges and prints. The most urgent finding is the exit code.
pub fn run(options: &Options) -> Result<ExitCode, Failure> {
    let config = Config::load(&options.flags).map_err(|error| Failure::usage(&error))?;
    let watch = options.watch.unwrap_or(WATCH_DEFAULT);
    let Input { origin, samples, destinations } = match &options.from {
        Some(from) => ask(from)?,
        None if options.own || options.watch.is_some() => look(config, watch)?,
        None if source::agent_answers() => ask(AGENT_DEFAULT)?,
        None => {
            let time = humantime::format_duration(watch);
            // For people alone, who may have left.
            let _ = writeln!(io::stderr(), "tracer: no agent at {AGENT_DEFAULT}: a look of its own takes {time}");
            look(config, watch)?
        }
    };
    let source = seen_by(origin, &samples, watch);
    let facts = Facts::new(samples, options.lb_idle).beside(destinations);
    if facts.agent_version().is_none() {
        return Err(Failure::usage(&format_args!(
            "{} is no exposition of an agent: it has no {BUILD_INFO}; give --from the /metrics of tracer run",
            source.origin
        )));
    }
    let advice = Advice::on(&facts);
    unless_reader_left(print(options, &source, &facts, &advice))
        .map_err(|error| Failure::other(format!("cannot write the findings: {error}")))?;
    Ok(ExitCode::from(exit_code(advice.worst())))
}

fn print(options: &Options, source: &Source, facts: &Facts, advice: &Advice) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let style = Style { color: colors_stdout(), verbose: options.verbose };
    match options.output {
        Output::Text => text::write(&mut out, source, advice, style)?,
        Output::Json => writeln!(out, "{:#}", json::value(source, facts.agent_version(), advice))?,
    }
    out.flush()
}

/// Reads what `--from` names. An agent without its state is advised upon all the same.
fn ask(from: &str) -> Result<Input, Failure> {
    let _progress = from.contains("://").then(|| Progress::new(&format!("asking {from}"), None));
    let origin = source::origin(from);
    let mut building = Building::new(is_used);
    let fed = source::feed(from, |piece| building.feed(piece))?;
    let samples = fed.and_then(|()| building.end()).map_err(|error| no_exposition(&origin, &error))?;
    let destinations = match source::status(&origin) {
        None => Destinations::default(),
        Some(Ok(status)) => Destinations::parse(&status),
        Some(Err(failure)) => Destinations::Unknown(Cause::NotServed(failure.message)),
    };
    Ok(Input { origin, samples, destinations })
}

/// Whether a rule or the head of the advice asks for a metric.
fn is_used(metric: &str) -> bool {
    METRICS_USED.contains(&metric)
}

fn no_exposition(origin: &Origin, error: &ParseError) -> Failure {
    Failure::usage(&format_args!("{origin} is no exposition that can be read: {error}"))
}

/// Looks at the kernel with hooks of its own.
fn look(config: Config, watch: Duration) -> Result<Input, Failure> {
    start_log(LogLevel::Warn);
    leave::with_the_caller();
    let progress = Progress::new("looking at the kernel", Some(watch));
    let seen = agent::snapshot::take(config, watch);
    drop(progress);
    let seen = seen.map_err(|failure| Failure {
        message: format!("{}; or ask a running agent: {ASK}", failure.message),
        ..failure
    })?;
    let mut building = Building::new(is_used);
    let samples = building.feed(&seen.metrics).and_then(|()| building.end());
    let samples = samples.map_err(|error| no_exposition(&Origin::Snapshot, &error))?;
    Ok(Input { origin: Origin::Snapshot, samples, destinations: Destinations::parse(&seen.status.to_string()) })
}

/// What is known of where and how long was looked.
fn seen_by(origin: Origin, samples: &Exposition, watch: Duration) -> Source {
    let (since, seconds) = match origin {
        Origin::Snapshot => (None, Some(watch.as_secs())),
        // Only an agent that answered just now tells how long it has been counting.
        Origin::Agent(_) => {
            let since = start_time(samples);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|now| now.as_secs()).ok();
            (since, now.zip(since).and_then(|(now, since)| now.checked_sub(since)))
        }
        Origin::File(_) | Origin::Stdin => (start_time(samples), None),
    };
    Source { origin, since, seconds }
}

/// When the agent started, in seconds since the Unix epoch.
fn start_time(samples: &Exposition) -> Option<u64> {
    let seconds = samples.rows(START_TIME).first()?.value;
    // A time that no calendar has is none.
    Duration::try_from_secs_f64(seconds).ok().map(|time| time.as_secs()).filter(|seconds| *seconds < 1 << 36)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes = [None, Some(Severity::Note), Some(Severity::Risk), Some(Severity::Binds)].map(exit_code);
        assert_eq!(codes, [0, 0, 1, 2]);
    }

    #[test]
    fn a_look_is_neither_too_short_nor_an_agent() {
        assert_eq!(parse_watch("10s"), Ok(Duration::from_secs(10)));
        for text in ["0s", "999ms", "2h"] {
            assert_eq!(parse_watch(text), Err("choose 1s to 1h".to_owned()), "{text}");
        }
        assert!(parse_watch("10").unwrap_err().contains("unit"));
    }

    #[test]
    fn how_long_was_counted_is_said_where_it_is_known() {
        let samples = Exposition::parse("process_start_time_seconds 1700000000.5\n").unwrap();
        let of = |origin| seen_by(origin, &samples, Duration::from_secs(7));
        let file = of(Origin::Stdin);
        assert_eq!((file.since, file.seconds), (Some(1_700_000_000), None));
        let agent = of(Origin::Agent(String::new()));
        assert!(agent.since.is_some() && agent.seconds.is_some_and(|seconds| seconds > 1_000_000));
        let look = of(Origin::Snapshot);
        assert_eq!((look.since, look.seconds), (None, Some(7)));
        for odd in ["-1", "NaN", "1e30"] {
            let samples = Exposition::parse(&format!("process_start_time_seconds {odd}\n")).unwrap();
            assert_eq!(start_time(&samples), None, "{odd}");
        }
    }
}
