//! What stands above each eBPF program: the prototype of the kernel function it is attached to, so
//! that a reader can check the program's arguments without a kernel tree, and `compare` can check
//! them against a kernel.
//!
//! The line is `// match-proto: <versions> <prototype>`, for example
//! `// match-proto: 5.10-6.1 int f(struct sock *sk)`; `versions` has the grammar of the first part.
//! Where the prototype changed there is a line for each form, and no version is in two of them. Of a
//! packet program, whose context is a part of the ABI, the second part is prose.

use prototype::Prototype;
use versions::Versions;

use super::Finding;
use super::source::Source;

mod btf;
mod compare;
mod image;
mod ladder;
mod prototype;
mod versions;

pub(super) use compare::{compare, left_out};

const PROBES: &str = "tracer-ebpf/src/probes/";

/// The attributes that make a function a program.
const ATTRIBUTES: &[&str] = &[
    "#[btf_tracepoint",
    PACKETS,
    "#[fentry",
    "#[fexit",
    "#[kprobe",
    "#[kretprobe",
    "#[raw_tracepoint",
    "#[tracepoint",
    // aya has no attribute for iterators.
    "#[unsafe(link_section = \"iter/",
];

/// The attribute of programs that see packets.
const PACKETS: &str = "#[cgroup_skb";

/// What begins a line with a prototype.
const QUOTE: &str = "// match-proto:";

/// A program, or the use of a macro that makes some.
struct Program<'a> {
    path: &'a str,
    line: usize,
    /// The line with the attribute, or the first of the macro's use.
    head: &'a str,
    /// The words among which are the names of the functions: from there to the function's name, or to
    /// the end of the macro's use.
    words: Vec<&'a str>,
    /// The comment lines right above.
    comment: Vec<(usize, &'a str)>,
}

/// A prototype as it stands above a program.
struct Quote<'a> {
    line: usize,
    versions: Versions,
    prototype: &'a str,
}

impl<'a> Program<'a> {
    fn sees_packets(&self) -> bool {
        self.head.starts_with(PACKETS)
    }

    fn is_attribute(&self) -> bool {
        self.head.starts_with("#[")
    }

    /// The prototypes above, with those that cannot be read as findings.
    fn quotes(&self) -> impl Iterator<Item = Result<Quote<'a>, Finding>> {
        self.comment.iter().filter(|(_, text)| text.contains("match-proto")).map(|&(line, text)| {
            let quote = quote(line, text);
            quote.map_err(|problem| Finding::new(self.path, line, problem))
        })
    }
}

fn quote(line: usize, text: &str) -> Result<Quote<'_>, String> {
    let rest = text.strip_prefix(QUOTE).and_then(|rest| rest.trim_start().split_once(' '));
    let (versions, prototype) = rest.ok_or_else(|| format!("not of the form `{QUOTE} <versions> <prototype>`"))?;
    Ok(Quote { line, versions: Versions::parse(versions)?, prototype: prototype.trim() })
}

/// The comment above each program, or above each use of a macro that makes programs, quotes the
/// prototype of the function that the program names.
pub(super) fn quote_the_kernel_prototype(sources: &[Source]) -> Vec<Finding> {
    programs(sources).iter().flat_map(quote_problems).collect()
}

fn quote_problems(program: &Program) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut quotes: Vec<Quote> = Vec::new();
    for quote in program.quotes() {
        match quote {
            Err(finding) => findings.push(finding),
            Ok(quote) => {
                if let Some(problem) = quote_problem(program, &quote, &quotes) {
                    findings.push(Finding::new(program.path, quote.line, problem));
                }
                quotes.push(quote);
            }
        }
    }
    if quotes.is_empty() && findings.is_empty() {
        let problem = format!("no `{QUOTE} <versions> <prototype>` above the program");
        findings.push(Finding::new(program.path, program.line, problem));
    }
    findings
}

fn quote_problem(program: &Program, quote: &Quote, before: &[Quote]) -> Option<String> {
    if before.iter().any(|other| other.versions.overlap(&quote.versions)) {
        return Some("a version of this line is in one above as well".to_owned());
    }
    let parsed = (!program.sees_packets()).then(|| Prototype::parse(quote.prototype))?;
    parsed.err().map(|problem| format!("the prototype cannot be read: {problem}"))
}

/// Each program has a row in the table of ladders, and the row, the attribute and the quoted
/// prototypes are of one function.
pub(super) fn agree_with_the_ladders(sources: &[Source]) -> Vec<Finding> {
    let rows = match rows(sources) {
        Ok(rows) => rows,
        Err(problem) => return vec![Finding::new(ladder::FILE, 1, problem)],
    };
    let mut findings = Vec::new();
    for program in programs(sources) {
        let mut finding = |line, problem| findings.push(Finding::new(program.path, line, problem));
        let own = rows_of(&program, &rows);
        if own.is_empty() {
            finding(program.line, format!("{} has no row that attaches this program", ladder::FILE));
        }
        for row in own {
            let attribute = row.attach.attribute();
            if program.is_attribute() && !program.head.starts_with(&attribute) {
                finding(program.line, format!("its row in {} is for a program with `{attribute}…`", ladder::FILE));
            }
            for quote in program.quotes().flatten() {
                let quoted = Prototype::parse(quote.prototype).ok().map(|prototype| prototype.name);
                if let (Some(quoted), Some(name)) = (quoted, row.attach.prototype())
                    && quoted != name
                {
                    finding(quote.line, format!("the prototype is of `{quoted}`, and the program is for `{name}`"));
                }
            }
        }
    }
    findings.dedup();
    findings
}

fn rows(sources: &[Source]) -> Result<Vec<ladder::Row>, String> {
    let table = sources.iter().find(|source| source.path == ladder::FILE);
    ladder::rows(&table.ok_or("is not there, and is the table of ladders")?.text)
}

/// The rows of the functions that this makes.
fn rows_of<'r>(program: &Program, rows: &'r [ladder::Row]) -> Vec<&'r ladder::Row> {
    rows.iter().filter(|row| program.words.contains(&row.program.as_str())).collect()
}

/// All programs of the agent.
fn programs(sources: &[Source]) -> Vec<Program<'_>> {
    let probes = sources.iter().filter(|source| source.is_rust() && source.path.starts_with(PROBES));
    probes.flat_map(programs_of).collect()
}

fn programs_of(source: &Source) -> Vec<Program<'_>> {
    let makers = makers(source);
    let mut programs = Vec::new();
    // The comment lines right above the line that is looked at.
    let mut comment = Vec::new();
    let mut in_macro = false;
    for (number, line) in source.lines() {
        in_macro = line.starts_with("macro_rules!") || in_macro && line != "}";
        let line = line.trim();
        if line.starts_with("//") {
            comment.push((number, line));
            continue;
        }
        let is_use = makers.iter().any(|maker| line.starts_with(&format!("{maker}!")));
        if is_use || is_program(line) && !in_macro {
            let words = words(source, number, is_use);
            programs.push(Program { path: &source.path, line: number, head: line, words, comment: comment.clone() });
        }
        if !line.starts_with("#[") {
            comment.clear();
        }
    }
    programs
}

/// The macros of the file that make programs.
fn makers(source: &Source) -> Vec<&str> {
    let mut makers = Vec::new();
    let mut name = None;
    for (_, line) in source.lines() {
        if let Some(rest) = line.strip_prefix("macro_rules!") {
            name = rest.split_whitespace().next();
        } else if line == "}" {
            name = None;
        } else if is_program(line.trim()) {
            makers.extend(name.take());
        }
    }
    makers
}

fn is_program(line: &str) -> bool {
    ATTRIBUTES.iter().any(|attribute| line.starts_with(attribute))
}

/// The name of the function below this line, or all words of the macro's use that begins there.
fn words(source: &Source, from: usize, is_use: bool) -> Vec<&str> {
    let of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut words = Vec::new();
    for (_, line) in source.product().skip_while(|(number, _)| *number < from) {
        if is_use {
            words.extend(line.split(|c| !of_word(c)));
            if line.trim_end().ends_with(");") {
                break;
            }
        } else if let Some((_, name)) = line.split_once("fn ") {
            words.extend(name.split(|c| !of_word(c)).next());
            break;
        }
    }
    words
}

#[cfg(test)]
mod tests;
