//! The command line, as a value.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand, error::ErrorKind};

use crate::{
    command::{advise, doctor, top},
    config::Flags,
    failure,
};

/// See where Linux TCP runs out of room: dropped handshakes by listener and cause, retransmits,
/// TIME_WAIT overflows with their owner, all equal to the kernel's own counters.
#[derive(Debug, Parser)]
#[command(name = "tracer", version = VERSION, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TRACER_REVISION"), ")");

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 64 wrong flags or configuration, 69 this kernel or these rights will not do.";

const RUN_EXAMPLES: &str = "Examples:
  tracer run                                    serve on 127.0.0.1:9795
  tracer run --listen '[::]:9795'               serve on all addresses
  tracer run --config /etc/tracer.toml          read the same keys from a file
  tracer run --no-packet-hook                   count drops by namespace only, where functions cannot be hooked";

const DOCTOR_EXAMPLES: &str = "Exit codes: 0 everything counts at its best, 1 degraded, 2 unusable.

Examples:
  tracer doctor                                 what works here, and why not better
  tracer doctor --output json                   the same for scripts";

const ADVISE_EXAMPLES: &str = "Nothing is changed: remedies are printed, to be typed by whoever agrees.

Exit codes: 0 nothing binds, 1 something is at risk, 2 a limit binds; 64 wrong flags or input, 69 no agent there, or no rights.

Examples:
  tracer advise                                 look at this kernel for ten seconds; as root
  tracer advise --from http://127.0.0.1:9795    ask a running agent, which has seen more
  tracer advise --from metrics.txt --verbose    read what /metrics said
  tracer advise --lb-idle 120s                  behind a load balancer that forgets after two minutes";

const TOP_EXAMPLES: &str =
    "Keys: 1-3 table, arrows or s sort, r reverse, / filter, p pause, ? help, q quit; docs/top.md has the columns.

Exit codes: 0 left, 1 failed, 64 wrong flags or input, 69 no agent there, or no rights for a look of its own.

Examples:
  tracer top                                    the agent on this node, or a look of its own; as root
  tracer top --from http://node-7:9795          another node's agent
  tracer top --filter checkout --tab workloads  begin with what concerns one workload
  tracer top --once --tab listeners --sort drops --rows 5";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach to the kernel and serve Prometheus metrics until SIGINT or SIGTERM
    #[command(after_help = RUN_EXAMPLES)]
    Run(Flags),
    /// Try every hook on this kernel and say what is in force, why nothing better is, and what to do
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(doctor::Options),
    /// Say which limit of TCP binds here, most urgent first, with evidence and remedy
    #[command(after_help = ADVISE_EXAMPLES)]
    Advise(advise::Options),
    /// Watch listeners, workloads and network namespaces on a refreshing screen
    #[command(after_help = TOP_EXAMPLES)]
    Top(top::Options),
    /// Print docs/metrics.md
    #[command(hide = true)]
    MetricsDoc,
}

/// Prints help or version as asked; a wrong flag as one line on stderr, with exit code 64.
#[must_use]
pub fn report_usage(error: &clap::Error) -> ExitCode {
    // Where nobody reads there is nobody to be told, so the results of printing are dropped.
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(failure::USAGE)
        }
        _ => {
            let _ = writeln!(io::stderr(), "tracer: {}", one_line(&error.render().to_string()));
            ExitCode::from(failure::USAGE)
        }
    }
}

/// clap's message without the usage block and the pointer to help, which one form of ours replaces.
fn one_line(message: &str) -> String {
    let ends = |line: &&str| line.starts_with("Usage:") || line.starts_with("For more information");
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let parts: Vec<&str> = lines.take_while(|line| !ends(line)).collect();
    let text = parts.join("; ");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    format!("{text}; see tracer --help")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_wrong_is_one_line_without_usage() {
        for (args, cause, remedy) in [
            (["run", "--lisen", "x"], "unexpected argument '--lisen'", "'--listen'"),
            (["run", "--listen", "x"], "invalid value 'x' for '--listen", "[::]:9795"),
            (["run", "--retain", "7"], "invalid value '7' for '--retain", "2m"),
            (["run", "--log-level", "loud"], "invalid value 'loud'", "debug"),
        ] {
            let error = Cli::try_parse_from([&["tracer"], &args[..]].concat()).unwrap_err();
            let line = one_line(&error.render().to_string());
            assert!(line.starts_with(cause) && line.contains(remedy), "{line}");
            assert!(line.ends_with("; see tracer --help") && line.matches("--help").count() == 1, "{line}");
            assert!(!line.contains("Usage") && !line.contains('\n'), "{line}");
        }
    }
}
