//! `tracer manual`: writes the manual pages, tracer.1 and one for each command, into a directory.
//!
//! Name, synopsis, description and options come from the definition of the command line, EXIT STATUS and EXAMPLES
//! from the paragraphs that its help ends with; files, environment and the rest are tables here.

use std::{fs, io, path::PathBuf};

use clap::Args;
use clap_mangen::{
    Man,
    roff::{Roff, bold, italic, roman},
};

use crate::{cli, exit_codes, failure::Failure};

/// Flags of `tracer manual`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where to put the pages
    directory: PathBuf,
    /// The date of the pages, for the foot of each
    #[arg(long, value_name = "YYYY-MM-DD", default_value = "")]
    date: String,
}

/// Files that a command reads.
const FILES: &[(&str, &str)] = &[
    (
        "/etc/tracer.toml",
        "Configuration, if --config names it, as the packaged unit does: the long flags of tracer run as keys, with _ for -.",
    ),
    ("/sys/kernel/btf/vmlinux", "The kernel's types, from which offsets of fields are taken."),
    ("/sys/fs/cgroup", "The cgroup hierarchy (v2, or the v2 part of a hybrid one), which names owners."),
    ("/var/log/containers, /var/log/pods", "Names of container logs, which name pods and containers; see --pod-logs."),
    ("/proc", "The kernel's own counters, limits and settings of each network namespace, and who holds what."),
];

/// Variables that every command obeys.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("NO_COLOR", "Not empty: no colours, wherever output goes."),
    ("CLICOLOR_FORCE", "Not empty: colours, wherever output goes, unless NO_COLOR is set."),
    ("CLICOLOR", "0: no colours, unless CLICOLOR_FORCE is set."),
    ("TERM", "Not set, or dumb: no colours."),
];

/// Writes all pages.
pub fn run(options: &Options) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        fs::create_dir_all(&options.directory)?;
        for (name, page) in pages(&options.date)? {
            fs::write(options.directory.join(name), page)?;
        }
        Ok(())
    };
    write().map_err(|error| {
        Failure::other(format!(
            "cannot write pages to {}: {error}; choose another directory",
            options.directory.display()
        ))
    })
}

/// The pages, with the names of their files.
fn pages(date: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut all = cli::visible();
    all.build();
    let names: Vec<String> = all.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let names: Vec<String> = names.into_iter().filter(|name| name != "help").collect();
    let first = cli::visible().subcommand_value_name("COMMAND").subcommand_help_heading("COMMANDS");
    let mut pages = vec![("tracer.1".to_owned(), page(first, "tracer", date, &names)?)];
    for command in all.get_subcommands().filter(|command| command.get_name() != "help") {
        let title = format!("tracer-{}", command.get_name());
        // Its usage is that of a command of tracer, not of a program of its own.
        let command = command.clone().bin_name(format!("tracer {}", command.get_name()));
        pages.push((format!("{title}.1"), page(command, &title, date, &names)?));
    }
    Ok(pages)
}

fn page(command: clap::Command, title: &str, date: &str, names: &[String]) -> io::Result<Vec<u8>> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let has_commands = command.has_subcommands();
    let man = Man::new(command.disable_help_subcommand(true))
        .title(title.to_uppercase())
        .date(date)
        .source(format!("tracer {}", env!("CARGO_PKG_VERSION")))
        .manual("tracer");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    let ending = Ending::of(&help);
    let mut more = Roff::new();
    for paragraph in &ending.words {
        more.control("PP", []).text([roman(paragraph)]);
    }
    more.to_writer(&mut out)?;
    man.render_options_section(&mut out)?;
    if has_commands {
        man.render_subcommands_section(&mut out)?;
    }
    sections(&ending, title, names).to_writer(&mut out)?;
    Ok(out)
}

/// What help ends with, by kind of paragraph.
struct Ending {
    words: Vec<String>,
    codes: Vec<(u8, String)>,
    examples: Vec<String>,
}

impl Ending {
    fn of(help: &str) -> Self {
        let mut ending = Self { words: Vec::new(), codes: Vec::new(), examples: Vec::new() };
        for paragraph in help.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            if let Some(examples) = paragraph.strip_prefix("Examples:\n") {
                ending.examples.extend(examples.lines().map(|line| line.trim_end().to_owned()));
            } else if paragraph.starts_with(exit_codes::PARAGRAPH) {
                ending.codes.extend(exit_codes::listed(paragraph));
            } else {
                ending.words.push(paragraph.replace('\n', " "));
            }
        }
        ending
    }
}

fn sections(ending: &Ending, title: &str, names: &[String]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in &ending.codes {
        roff.control("TP", []).text([bold(code.to_string())]).text([roman(capitalised(meaning))]);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (variable, meaning) in ENVIRONMENT {
        roff.control("TP", []).text([bold(*variable)]).text([roman(*meaning)]);
    }
    roff.control("SH", ["FILES"]);
    for (file, meaning) in FILES {
        roff.control("TP", []).text([italic(*file)]).text([roman(*meaning)]);
    }
    if !ending.examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]);
        examples(&mut roff, &ending.examples);
    }
    let all = std::iter::once("tracer".to_owned()).chain(names.iter().map(|name| format!("tracer-{name}")));
    let others: Vec<String> = all.filter(|name| name != title).collect();
    roff.control("SH", ["SEE ALSO"]);
    let mut words = Vec::new();
    for (number, name) in others.iter().enumerate() {
        let end = if number + 1 == others.len() { "(1)" } else { "(1), " };
        words.extend([bold(name), roman(end)]);
    }
    roff.text(words);
    roff
}

/// Each line of help is a command and, after two blanks, what it is for; or just a line.
fn examples(roff: &mut Roff, lines: &[String]) {
    for line in lines {
        let line = line.trim_start();
        match line.split_once("  ") {
            Some((command, purpose)) => {
                roff.control("TP", []).text([bold(command.trim())]).text([roman(capitalised(purpose.trim()))]);
            }
            None => {
                roff.control("PP", []).text([bold(line)]);
            }
        }
    }
}

fn capitalised(words: &str) -> String {
    let mut letters = words.replace('\n', " ");
    if let Some(first) = letters.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(String, String)> {
        let pages = pages("2026-01-02").unwrap();
        pages.into_iter().map(|(name, page)| (name, String::from_utf8(page).unwrap())).collect()
    }

    #[test]
    fn every_command_has_a_page_with_every_section() {
        let pages = all();
        let commands = cli::visible().get_subcommands().count();
        assert_eq!(pages.len(), 1 + commands);
        for (name, page) in pages {
            for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "FILES", "ENVIRONMENT"] {
                assert!(page.contains(&format!("\n.SH {section}\n")), "{name} lacks {section}:\n{page}");
            }
            assert!(page.contains("\n.SH \"EXIT STATUS\"\n.TP\n\\fB0\\fR\n"), "{page}");
            assert!(!page.contains("metrics\\-doc") && !page.contains("EXTRA"), "{page}");
            assert_eq!(page.contains("\\-\\-version"), name == "tracer.1", "{page}");
        }
    }

    #[test]
    fn what_help_ends_with_is_sorted_by_kind() {
        let ending = Ending::of("Words\nof it.\n\nExit codes: 0 fine; 2 not.\n\nExamples:\n  a b    what\n  c\n");
        assert_eq!(ending.words, ["Words of it."]);
        assert_eq!(ending.codes, [(0, "fine".to_owned()), (2, "not".to_owned())]);
        assert_eq!(ending.examples, ["  a b    what", "  c"]);
    }

    #[test]
    fn a_pages_synopsis_is_that_of_its_command() {
        let pages = all();
        let page = &pages.iter().find(|(name, _)| name == "tracer-doctor.1").unwrap().1;
        assert!(page.contains("tracer\\-doctor \\- Try every hook"), "{page}");
        assert!(page.contains("\\fBtracer doctor\\fR [\\fB\\-\\-output\\fR]"), "{page}");
    }
}
