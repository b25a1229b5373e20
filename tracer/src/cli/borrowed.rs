//! Help of the flags that commands share, as it holds for each of them: what is in force there without a flag, and
//! which flags of `tracer run` change nothing there.
//!
//! A flag that changes nothing is taken all the same, so that the flags of an agent can be given to any command; no
//! help, manual page or completion shows it. What is in force comes from the constants that the commands use.

use clap::{Arg, ValueEnum};

use crate::{
    command::{events, replay, top},
    config::Defaults,
    events::kind::EventKind,
};

/// What a command makes of shared flags.
struct Borrower {
    command: &'static str,
    /// In force unless flags of `tracer run` say otherwise; `None` where there are no such flags.
    defaults: Option<Defaults>,
    /// Kinds of events that are shown unless others are asked for.
    kinds: Option<&'static [EventKind]>,
    /// Flags that change nothing, by the names of their fields.
    idle: &'static [&'static str],
}

const BORROWERS: &[Borrower] = &[
    Borrower { command: "run", defaults: Some(Defaults::AGENT), kinds: None, idle: &[] },
    Borrower {
        command: "doctor",
        defaults: Some(Defaults::AGENT),
        kinds: None,
        // It loads what the agent would, with maps of that size, and leaves before anything is counted.
        idle: &[
            "listen",
            "pass_interval",
            "pass_cpu_percent",
            "retain",
            "rate_limit",
            "max_ports",
            "pod_logs",
            "log_level",
        ],
    },
    Borrower {
        command: "advise",
        defaults: Some(Defaults::AGENT),
        kinds: None,
        // A look has passes, a ring and a log of its own kind.
        idle: &["listen", "pass_interval", "pass_cpu_percent", "ring_bytes", "rate_limit", "log_level"],
    },
    Borrower {
        command: "top",
        defaults: Some(top::DEFAULTS),
        kinds: None,
        // The same, but for passes that share the processor with whoever looks on for hours.
        idle: &["listen", "pass_interval", "ring_bytes", "rate_limit", "log_level"],
    },
    Borrower {
        command: "events",
        defaults: Some(events::DEFAULTS),
        kinds: Some(events::KINDS),
        // Nothing is served, and no row is made.
        idle: &["listen", "pass_interval", "pass_cpu_percent", "retain", "max_listeners", "max_workloads", "max_ports"],
    },
    Borrower { command: "replay", defaults: None, kinds: Some(replay::KINDS), idle: &[] },
];

/// The command with help that holds for it.
pub(super) fn fit(command: clap::Command) -> clap::Command {
    match of(command.get_name()) {
        Some(borrower) => command.mut_args(|argument| borrower.fit(argument)),
        None => command,
    }
}

/// The name of a command that has shared flags.
pub(super) fn borrower(command: &clap::Command) -> Option<&'static str> {
    of(command.get_name()).map(|borrower| borrower.command)
}

fn of(command: &str) -> Option<&'static Borrower> {
    BORROWERS.iter().find(|borrower| borrower.command == command)
}

impl Borrower {
    fn fit(&self, argument: Arg) -> Arg {
        let id = argument.get_id().as_str();
        let is_idle = argument.is_hide_set() || self.idle.contains(&id);
        let argument = match self.default_of(id) {
            Some(default) => with_default(argument, &default),
            None => argument,
        };
        argument.hide(is_idle)
    }

    /// What is in force without this flag, where that is not the same for all commands.
    fn default_of(&self, id: &str) -> Option<String> {
        let defaults = self.defaults.as_ref();
        match id {
            "kinds" => self.kinds.map(in_words),
            "pass_cpu_percent" => defaults.map(|defaults| defaults.pass_cpu_percent.to_string()),
            "ring_bytes" => defaults.map(|defaults| defaults.ring_bytes.to_string()),
            "rate_limit" => defaults.map(|defaults| defaults.rate_limit.to_string()),
            "log_level" => defaults.map(|defaults| defaults.log_level.name().to_owned()),
            _ => None,
        }
    }
}

/// Help that ends with this default, whatever it ended with.
fn with_default(argument: Arg, default: &str) -> Arg {
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let words = help.split(" [default: ").next().unwrap_or_default();
    argument.help(format!("{words} [default: {default}]"))
}

/// Kinds in words; none are all, as in a filter.
fn in_words(kinds: &[EventKind]) -> String {
    let is_left_out = |kind: &&EventKind| !kinds.is_empty() && !kinds.contains(kind);
    let left_out: Vec<&str> = EventKind::value_variants().iter().filter(is_left_out).map(|kind| kind.name()).collect();
    if left_out.is_empty() { "all".to_owned() } else { format!("all but {}", left_out.join(", ")) }
}

#[cfg(test)]
mod tests {
    use clap::Args;

    use super::*;
    use crate::{
        cli,
        config::{Config, Flags},
    };

    /// The flags of `tracer run`, by the names of their fields.
    fn lent() -> Vec<String> {
        let flags = Flags::augment_args(clap::Command::new("run"));
        flags.get_arguments().map(|argument| argument.get_id().to_string()).collect()
    }

    /// What is in force for a flag, as help writes it; `None` for those without a default.
    fn in_force(config: &Config, id: &str) -> Option<String> {
        let time = |time| humantime::format_duration(time).to_string();
        match id {
            "config" | "disable_hooks" | "no_packet_hook" => None,
            "listen" => Some(config.listen.to_string()),
            "pass_interval" => Some(time(config.pass_interval)),
            "pass_cpu_percent" => Some(config.pass_cpu_percent.to_string()),
            "retain" => Some(time(config.retain)),
            "ring_bytes" => Some(config.ring_bytes.to_string()),
            "rate_limit" => Some(config.rate_limit.to_string()),
            "max_listeners" => Some(config.max_listeners.to_string()),
            "max_workloads" => Some(config.max_workloads.to_string()),
            "max_ports" => Some(config.max_ports.to_string()),
            "pod_logs" => Some(config.pod_logs.display().to_string()),
            "log_level" => Some(config.log_level.name().to_owned()),
            _ => panic!("what does {id} default to?"),
        }
    }

    fn default_said(argument: &Arg) -> Option<String> {
        let help = argument.get_help().unwrap().to_string();
        let (_, default) = help.split_once(" [default: ")?;
        Some(default.strip_suffix(']').unwrap().to_owned())
    }

    #[test]
    fn help_says_the_defaults_that_are_in_force() {
        let (command, lent) = (cli::command(), lent());
        for borrower in BORROWERS {
            let shown = command.find_subcommand(borrower.command).unwrap();
            let config = borrower.defaults.map(|defaults| Config::load_or(&Flags::default(), defaults).unwrap());
            for argument in shown.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let id = argument.get_id().to_string();
                let expected = match &config {
                    Some(config) if lent.contains(&id) => in_force(config, &id),
                    _ if id == "kinds" => borrower.kinds.map(in_words),
                    // clap writes these.
                    _ => continue,
                };
                assert_eq!(default_said(argument), expected, "tracer {} --{id}", borrower.command);
            }
        }
    }

    #[test]
    fn help_of_each_command_is_its_own() {
        let help = |name: &str| {
            let help = cli::command().find_subcommand_mut(name).unwrap().render_long_help().to_string();
            help.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let (run, events, top) = (help("run"), help("events"), help("top"));
        assert!(run.contains("[default: 1048576]") && run.contains("[default: 10000]"), "{run}");
        assert!(events.contains("[default: 8388608]") && events.contains("0 = no limit [default: 0]"), "{events}");
        assert!(events.contains("Kinds of events [default: all but state]"), "{events}");
        assert!(help("replay").contains("Kinds of events [default: all] "), "{}", help("replay"));
        assert!(top.contains("they come less often to keep to it [default: 5]"), "{top}");
    }

    #[test]
    fn a_flag_that_changes_nothing_is_taken_and_not_shown() {
        let lent = lent();
        for borrower in BORROWERS {
            for id in borrower.idle {
                assert!(lent.iter().any(|lent| lent == id), "{}: no flag {id}", borrower.command);
                let flag = format!("--{}", id.replace('_', "-"));
                let long = cli::command().find_subcommand_mut(borrower.command).unwrap().render_long_help();
                assert!(!long.to_string().contains(&format!("{flag} ")), "{}: {long}", borrower.command);
                let visible = cli::visible();
                let shown = visible.find_subcommand(borrower.command).unwrap();
                assert!(shown.get_arguments().all(|shown| shown.get_id() != id), "{}: {flag}", borrower.command);
                let value = match *id {
                    "listen" => "127.0.0.1:1",
                    "pass_interval" | "retain" => "7s",
                    "log_level" => "warn",
                    _ => "7",
                };
                let parsed = cli::command().try_get_matches_from(["tracer", borrower.command, &flag, value]);
                assert!(parsed.is_ok(), "tracer {} {flag}: {}", borrower.command, parsed.unwrap_err());
            }
        }
    }

    /// Whoever gives a command the flags of `tracer run` says here what it makes of them.
    #[test]
    fn every_command_with_shared_flags_is_listed() {
        for command in cli::command().get_subcommands() {
            let is_shared = |argument: &Arg| ["config", "kinds"].contains(&argument.get_id().as_str());
            let borrows = command.get_arguments().any(is_shared);
            assert_eq!(borrows, of(command.get_name()).is_some(), "{}", command.get_name());
        }
    }
}
