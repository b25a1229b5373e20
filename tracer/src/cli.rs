//! The command line, as a value.

mod borrowed;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};

use crate::{
    command::{advise, completions, doctor, events, manual, replay, top},
    config::Flags,
    exit_codes, failure,
};

/// See where Linux TCP runs out of room: dropped handshakes by listener and cause, retransmits,
/// TIME_WAIT overflows with their owner, all equal to the kernel's own counters.
#[derive(Debug, Parser)]
#[command(name = "tracer", version = VERSION, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The version with the commit that was built.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TRACER_REVISION"), ")");

const EXAMPLES: &str = "Examples:
  tracer doctor                                 what works here; as root
  tracer run                                    count, and serve http://127.0.0.1:9795/metrics
  tracer top                                    listeners, workloads and namespaces on a screen
  tracer events --kind drop                     dropped handshakes, as they happen
  tracer replay bug.rec                         what tracer events --record kept
  tracer advise                                 what binds, and what to do about it";

const RUN_EXAMPLES: &str = "Examples:
  tracer run                                    serve on 127.0.0.1:9795
  tracer run --listen '[::]:9795'               serve on all addresses
  tracer run --config /etc/tracer.toml          read the same keys from a file
  tracer run --no-packet-hook                   count drops by namespace only, where functions cannot be hooked";

const DOCTOR_EXAMPLES: &str = "Examples:
  tracer doctor                                 what works here, and why not better
  tracer doctor --output json                   the same for scripts";

const ADVISE_EXAMPLES: &str = "Nothing is changed: remedies are printed, to be typed by whoever agrees.

Examples:
  tracer advise                                 ask the agent on this node, or look for ten seconds; as root
  tracer advise --watch 30s                     look at this kernel for half a minute, agent or not
  tracer advise --from http://10.0.0.7:9795     another node's agent
  tracer advise --from metrics.txt --verbose    read what /metrics said
  tracer advise --lb-idle 120s                  behind a load balancer that forgets after two minutes";

const EVENTS_EXAMPLES: &str =
    "Events go to standard output, what is said about them to standard error; a summary with losses comes last.
What an event does not tell, no filter on it lets pass. Fields and formats are in docs/events.md.

Examples:
  tracer events                                 all that goes wrong, as the agent sees it; as root
  tracer events --own                           the same with programs of the command's own
  tracer events --kind drop,time_wait           only where queues and tables were full
  tracer events --port 443 --kind state         every transition of connections to and from a port
  tracer events --netns shop --duration 30s     half a minute of one network namespace
  tracer events --output json | jq .reason      one object a line
  tracer events --record bug.rec --count 1000   keep it, to be looked at again or sent to somebody";

const REPLAY_EXAMPLES: &str =
    "A recording holds addresses, ports and names of the node that it was made on. No rights are needed to read one.

Examples:
  tracer replay bug.rec                         as it was shown
  tracer replay bug.rec --address 10.0.0.0/8    one part of it
  tracer replay bug.rec --output json           the same for scripts";

const TOP_EXAMPLES: &str =
    "Keys: 1-3 table, arrows or s sort, r reverse, / filter, p pause, ? help, q quit; docs/top.md has the columns.

Examples:
  tracer top                                    the agent on this node, or a look of its own; as root
  tracer top --from http://node-7:9795          another node's agent
  tracer top --filter checkout --tab workloads  begin with what concerns one workload
  tracer top --once --tab listeners --sort drops --rows 5";

const COMPLETIONS_EXAMPLES: &str = "Packages install them; these lines are for a binary that came alone.

Examples:
  tracer completions bash > /usr/share/bash-completion/completions/tracer
  tracer completions zsh > /usr/share/zsh/site-functions/_tracer
  tracer completions fish > /usr/share/fish/vendor_completions.d/tracer.fish";

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
    /// Show drops, retransmits, failed connects, resets and more as they happen
    #[command(after_help = EVENTS_EXAMPLES)]
    Events(events::Options),
    /// Show a recording of tracer events
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(replay::Options),
    /// Print completions for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(completions::Options),
    /// Write the manual pages
    #[command(hide = true)]
    Manual(manual::Options),
    /// Print docs/metrics.md
    #[command(hide = true)]
    MetricsDoc,
}

impl Cli {
    /// The command line of this process.
    pub fn from_arguments() -> Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut command().try_get_matches()?)
    }
}

/// The command line as it is shown: help names the exit codes of each command, from their table, and the defaults
/// that hold for it.
#[must_use]
pub fn command() -> clap::Command {
    let mut command = with_exit_codes(Cli::command());
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, |command| borrowed::fit(with_exit_codes(command)));
    }
    command
}

/// The same without hidden commands and flags, for completions and manual pages.
#[must_use]
pub fn visible() -> clap::Command {
    let all = command();
    let commands = all.get_subcommands().filter(|command| !command.is_hide_set());
    let commands: Vec<clap::Command> = commands
        .map(|command| borrowed::borrower(command).map_or_else(|| command.clone(), |name| seen(command, name)))
        .collect();
    seen(&all, "tracer").version(VERSION).subcommand_required(true).subcommands(commands)
}

/// A command anew with what is seen of it, since nothing can be taken away from one. Completions show hidden flags.
fn seen(command: &clap::Command, name: &'static str) -> clap::Command {
    let flags = command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned();
    let mut seen = clap::Command::new(name).args(flags);
    if let Some(about) = command.get_about() {
        seen = seen.about(about.clone());
    }
    if let Some(help) = command.get_after_help() {
        seen = seen.after_help(help.clone());
    }
    seen
}

/// Help with the exit codes before the examples, unless it has some.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    if command.is_hide_set() || help.contains(exit_codes::PARAGRAPH) {
        return command;
    }
    let codes = exit_codes::paragraph(exit_codes::of(command.get_name()));
    let at = help.find("Examples:").unwrap_or(help.len());
    let (words, examples) = help.split_at(at);
    command.after_help(format!("{words}{codes}\n\n{examples}"))
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
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
        visible().debug_assert();
    }

    #[test]
    fn every_command_shows_exit_codes_and_examples_of_its_own() {
        for command in visible().get_subcommands() {
            let name = command.get_name();
            let help = command.get_after_help().unwrap().to_string();
            assert_eq!(help.matches(exit_codes::PARAGRAPH).count(), 1, "{name}: {help}");
            let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name} has no examples"));
            assert!(examples.lines().count() >= 2, "{name}: {examples}");
            for example in examples.lines() {
                assert!(example.trim_start().starts_with(&format!("tracer {name}")), "{name}: {example}");
            }
        }
    }

    #[test]
    fn examples_of_tracer_itself_show_every_command() {
        let help = command().get_after_help().unwrap().to_string();
        for command in visible().get_subcommands().filter(|command| command.get_name() != "completions") {
            assert!(help.contains(&format!("\n  tracer {} ", command.get_name())), "{}: {help}", command.get_name());
        }
    }

    /// Examples are typed as they stand: each is parsed. docs/ have theirs in the integration tests.
    #[test]
    fn examples_are_command_lines() {
        for command in visible().get_subcommands().chain([&visible()]) {
            let help = command.get_after_help().unwrap().to_string();
            for line in help.split_once("Examples:\n").unwrap().1.lines() {
                let words = line.trim().split("  ").next().unwrap().replace('\'', "");
                let typed = words.split(['|', '>', '&']).next().unwrap();
                let parsed = super::command().try_get_matches_from(typed.split_whitespace());
                assert!(parsed.is_ok(), "{typed}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn output_has_the_same_names_everywhere() {
        for command in visible().get_subcommands() {
            let output = command.get_arguments().find(|argument| argument.get_long() == Some("output"));
            let values = output.map(clap::Arg::get_possible_values).unwrap_or_default();
            let names: Vec<&str> = values.iter().map(clap::builder::PossibleValue::get_name).collect();
            assert!(output.is_none() || names == ["text", "json"], "{}: {names:?}", command.get_name());
        }
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
