//! `tracer doctor`: tries every hook, says what is in force and why nothing better is, and leaves
//! nothing attached.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::run::{signal_in_words, write_ladder};
use crate::{
    agent::{self, visits},
    config::{Config, Flags},
    export::status,
    failure::Failure,
    kernel::{
        hooks::{Report, Verdict},
        preflight::{Preflight, preempts_softirqs},
        shortage, viewpoint,
    },
    obstacles::{Obstacle, Obstacles},
    progress::Progress,
    terminal::unless_reader_left,
};

/// Flags of `tracer doctor`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How to print the findings
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
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

/// What a kernel that preempts softirqs changes; the reasons are in docs/kernels.md.
const REALTIME: &str = "PREEMPT_RT: from Linux 6.18 on one handshake may be taken for another that preempts it, and drops by listener \
     are not exact; untried";

/// Exit code for a verdict.
const fn exit_code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Best => 0,
        Verdict::Degraded => 1,
        Verdict::Unusable => 2,
    }
}

/// Runs the examination. Its verdict is the exit code.
pub fn run(options: &Options) -> Result<ExitCode, Failure> {
    let config = Config::load(&options.flags).map_err(|error| Failure::usage(&error))?;
    let (found, obstacle) = match examine(&config) {
        Ok(found) => (found, None),
        Err(failure) => (Findings::nothing(), Some(failure.message)),
    };
    let mut out = io::stdout().lock();
    let written = match options.output {
        Output::Text => write_text(&mut out, &found, obstacle.as_deref()),
        Output::Json => write_json(&mut out, &found, obstacle.as_deref()),
    };
    unless_reader_left(written).map_err(|error| Failure::other(format!("cannot write the findings: {error}")))?;
    Ok(ExitCode::from(exit_code(found.verdict())))
}

/// What the examination found.
struct Findings {
    report: Report,
    /// Namespaces that were entered and read.
    read: usize,
    /// What kept it from others.
    met: Obstacles,
}

impl Findings {
    fn nothing() -> Self {
        Self { report: Report::nothing(), read: 0, met: Obstacles::default() }
    }

    /// The hooks', unless namespaces are not read, in which nothing is compared and no queue is seen.
    fn verdict(&self) -> Verdict {
        match self.report.verdict() {
            Verdict::Best if self.lacks_namespaces() => Verdict::Degraded,
            verdict => verdict,
        }
    }

    fn lacks_namespaces(&self) -> bool {
        const LACKS: [Obstacle; 5] =
            [Obstacle::Refused, Obstacle::Hung, Obstacle::Unreadable, Obstacle::ProcessNumbers, Obstacle::Clock];
        LACKS.iter().any(|obstacle| self.met.count(*obstacle) > 0)
    }
}

/// Loads and attaches as the agent would, and enters each namespace once; everything is detached when this returns.
fn examine(config: &Config) -> Result<Findings, Failure> {
    let _progress = Progress::new("loading and attaching every hook", None);
    let mut kernel = agent::prepare(config)?;
    let maps = kernel.maps().map_err(|error| Failure::unusable(&error))?;
    let report = kernel.attach(&maps).map_err(|error| Failure::unusable(&error))?;
    let tried = kernel.walker().and_then(visits::try_each);
    let (read, met) = tried
        .map_err(|error| Failure::other(format!("finding the network namespaces: {}", shortage::explain(&error))))?;
    Ok(Findings { report, read, met })
}

fn write_text(out: &mut impl Write, found: &Findings, obstacle: Option<&str>) -> io::Result<()> {
    let report = &found.report;
    writeln!(out, "kernel {}", Preflight::collect().release)?;
    if preempts_softirqs() {
        writeln!(out, "{REALTIME}")?;
    }
    for ladder in &report.ladders {
        if obstacle.is_some() {
            writeln!(out, "{:<20} {:<9} {}", signal_in_words(ladder), "unusable", ladder.in_force)?;
        } else {
            write_ladder(out, ladder)?;
        }
    }
    match obstacle {
        Some(obstacle) => writeln!(out, "obstacle: {obstacle}")?,
        None => write_visits(out, found)?,
    }
    let verdict = match found.verdict() {
        Verdict::Best => "best: every signal counts outcomes, with owner and cause",
        Verdict::Degraded => "degraded: totals are exact as far as each signal says above, and the rest is said there",
        Verdict::Unusable => "unusable: the agent cannot run here",
    };
    writeln!(out, "verdict: {verdict}")
}

/// How entering the namespaces went.
fn write_visits(out: &mut impl Write, found: &Findings) -> io::Result<()> {
    let mark = if found.lacks_namespaces() { "degraded" } else { "best" };
    writeln!(out, "{:<20} {mark:<9} {} network namespaces entered and read", "visits", found.read)?;
    if let Some(remark) = viewpoint::remark() {
        writeln!(out, "{:<30} {remark}", "")?;
    }
    for met in found.met.iter() {
        writeln!(out, "{:<30} {met}", "")?;
    }
    Ok(())
}

fn write_json(out: &mut impl Write, found: &Findings, obstacle: Option<&str>) -> io::Result<()> {
    let findings = json!({
        "kernel": Preflight::collect().release,
        "preempt_rt": preempts_softirqs(),
        "verdict": found.verdict(),
        "signals": found.report.ladders,
        "namespaces_read": found.read,
        "obstacles": found.met.iter().map(status::obstacle).collect::<Vec<_>>(),
        "obstacle": obstacle,
    });
    writeln!(out, "{findings:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        assert_eq!([Verdict::Best, Verdict::Degraded, Verdict::Unusable].map(exit_code), [0, 1, 2]);
    }

    #[test]
    fn an_obstacle_is_shown_and_makes_it_unusable() {
        let mut text = Vec::new();
        write_text(&mut text, &Findings::nothing(), Some("no BTF")).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("obstacle: no BTF") && text.contains("verdict: unusable"), "{text}");
        assert!(text.contains("\nresets               unusable  nothing\n"), "each signal is judged: {text}");
        let mut json = Vec::new();
        write_json(&mut json, &Findings::nothing(), Some("no BTF")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["verdict"], "unusable");
        assert_eq!(json["obstacle"], "no BTF");
    }
}
