//! What stands above each eBPF program: the prototype of the kernel function it is attached to, so
//! that a reader can check the program's arguments without a kernel tree, and a script can compare
//! them with one.
//!
//! The line is `// match-proto: <versions> <prototype>`, for example
//! `// match-proto: 5.10-6.1 int f(struct sock *sk)`.

use super::Finding;
use super::source::Source;

const PROBES: &str = "tracer-ebpf/src/probes/";

/// The attributes that make a function a program.
const ATTRIBUTES: &[&str] = &[
    "#[btf_tracepoint",
    "#[cgroup_skb",
    "#[fentry",
    "#[fexit",
    "#[kprobe",
    "#[kretprobe",
    "#[raw_tracepoint",
    "#[tracepoint",
    // aya has no attribute for iterators.
    "#[unsafe(link_section = \"iter/",
];

/// The comment above each program, or above each use of a macro that makes programs, quotes the
/// prototype of the function that the program names.
pub(super) fn quote_the_kernel_prototype(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && source.path.starts_with(PROBES)) {
        let makers = makers(source);
        // The comment lines right above the line that is looked at.
        let mut comment = String::new();
        let mut in_macro = false;
        for (number, line) in source.lines() {
            in_macro = line.starts_with("macro_rules!") || in_macro && line != "}";
            let line = line.trim();
            if line.starts_with("//") {
                comment.push_str(line);
                comment.push('\n');
                continue;
            }
            let is_use = makers.iter().any(|maker| line.starts_with(&format!("{maker}!")));
            if is_use || is_program(line) && !in_macro {
                findings.extend(problem(&comment, line).map(|problem| Finding::new(&source.path, number, problem)));
            }
            if !line.starts_with("#[") {
                comment.clear();
            }
        }
    }
    findings
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

/// What is wrong with the comment above a program with this attribute.
fn problem(comment: &str, attribute: &str) -> Option<String> {
    let prototypes: Vec<_> = comment.lines().filter_map(prototype).collect();
    if prototypes.is_empty() {
        return Some("no `// match-proto: <versions> <prototype>` above the program".to_owned());
    }
    let (_, function) = attribute.split_once("function = \"")?;
    let function = function.split('"').next()?;
    let is_quoted = prototypes.iter().any(|prototype| prototype.contains(function));
    (!is_quoted).then(|| format!("the prototype above the program is not that of `{function}`"))
}

/// The prototype in a line `// match-proto: 5.10- int f(struct sock *sk)`.
fn prototype(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("match-proto:")?;
    let (versions, prototype) = rest.trim().split_once(' ')?;
    let is_version = versions.starts_with(|c: char| c.is_ascii_digit()) && versions.contains('.');
    is_version.then_some(prototype)
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        quote_the_kernel_prototype(&sample("tracer-ebpf/src/probes/state.rs", text)).iter().map(|f| f.line).collect()
    }

    const F: &str = "// match-proto: 5.10-6.1 int f(struct sock *sk)\n";

    #[test]
    fn a_program_without_a_prototype_is_found() {
        assert_eq!(lines("/// Counts (see the map).\n#[fentry(function = \"f\")]\nfn a() {}\n"), [2]);
        assert_eq!(lines(&format!("{F}\n#[kprobe]\nfn b() {{}}\n")), [3]);
        assert_eq!(lines("#[unsafe(link_section = \"iter/tcp\")]\nfn c() {}\n"), [1]);
        assert_eq!(lines("// match-proto: int f(void)\n#[fexit]\nfn d() {}\n"), [2]);
    }

    #[test]
    fn the_prototype_of_another_function_is_found() {
        assert_eq!(lines(&format!("{F}#[fentry(function = \"tcp_v4_rcv\")]\nfn a() {{}}\n")), [2]);
    }

    #[test]
    fn docs_and_attributes_may_stand_between() {
        assert!(lines(&format!("{F}/// Why.\n#[expect(x)]\n#[fexit(function = \"f\")]\nfn a() {{}}\n")).is_empty());
        assert!(lines("#[inline]\nfn a() {}\n").is_empty());
    }

    #[test]
    fn a_macro_that_makes_programs_is_checked_where_it_is_used() {
        let twins = "macro_rules! twins {\n    () => {\n        #[fentry]\n        fn a() {}\n    };\n}\n";
        assert!(lines(&format!("{twins}{F}twins!();\n")).is_empty());
        assert_eq!(lines(&format!("{twins}twins!();\n")), [7]);
    }
}
