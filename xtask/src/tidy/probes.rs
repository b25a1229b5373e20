//! What stands above each eBPF program: the prototype of the kernel function it is attached to, so
//! that a reader can check the program's arguments without a kernel tree.

use super::Finding;
use super::source::Source;

const PROBES: &str = "tracer-ebpf/src/probes/";

/// The attributes that make a function a program.
const ATTRIBUTES: &[&str] = &[
    "btf_tracepoint",
    "cgroup_skb",
    "fentry",
    "fexit",
    "kprobe",
    "kretprobe",
    "raw_tracepoint",
    "tracepoint",
];

/// The comment above each program quotes a prototype in C.
pub(super) fn quote_the_kernel_prototype(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources
        .iter()
        .filter(|source| source.is_rust() && source.path.starts_with(PROBES))
    {
        // The comment lines right above the line that is looked at.
        let mut comment = String::new();
        for (number, line) in source.lines() {
            let line = line.trim();
            if let Some(text) = line.strip_prefix("//") {
                comment.push_str(text.trim_start_matches(['/', '!']));
                continue;
            }
            if is_program(line) && !has_prototype(&comment) {
                findings.push(Finding::new(
                    &source.path,
                    number,
                    "no kernel prototype above the program",
                ));
            }
            if !line.starts_with("#[") {
                comment.clear();
            }
        }
    }
    findings
}

fn is_program(line: &str) -> bool {
    let Some(attribute) = line.strip_prefix("#[") else {
        return false;
    };
    let name = attribute
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next();
    name.is_some_and(|name| ATTRIBUTES.contains(&name))
}

/// Whether the text holds something like `int tcp_v4_rcv(struct sk_buff *skb)`: a name, and a list
/// whose first word is a type of the kernel.
fn has_prototype(comment: &str) -> bool {
    const TYPES: &[&str] = &[
        "struct", "const", "void", "int", "bool", "unsigned", "u8", "u16", "u32", "u64", "enum",
    ];
    comment.match_indices('(').any(|(at, _)| {
        let is_named = comment[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let first_word = comment[at + 1..]
            .split(|c: char| !c.is_alphanumeric())
            .next();
        is_named && first_word.is_some_and(|word| TYPES.contains(&word))
    })
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        quote_the_kernel_prototype(&sample("tracer-ebpf/src/probes/state.rs", text))
            .iter()
            .map(|f| f.line)
            .collect()
    }

    #[test]
    fn a_program_without_a_prototype_is_found() {
        assert_eq!(
            lines("/// Counts (see the map).\n#[fentry]\nfn a() {}\n"),
            [2]
        );
        assert_eq!(
            lines("/// `int f(struct sock *sk)`\n\n#[kprobe]\nfn b() {}\n"),
            [3]
        );
        assert_eq!(
            lines("#[btf_tracepoint(function = \"x\")]\nfn c() {}\n"),
            [1]
        );
    }

    #[test]
    fn a_prototype_may_span_lines_and_attributes() {
        let text = "/// ```c\n/// int f(const struct sock *sk,\n///       int state)\n/// ```\n#[expect(x)]\n#[fexit]\nfn a() {}\n";
        assert!(lines(text).is_empty());
    }

    #[test]
    fn other_attributes_are_no_programs() {
        assert!(lines("#[inline]\nfn a() {}\n").is_empty());
    }
}
