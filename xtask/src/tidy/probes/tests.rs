//! Unit tests of what stands above programs, on samples of source.

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
}

#[test]
fn a_line_that_cannot_be_read_is_found() {
    for line in [
        "// match-proto: int f(void)",
        "// match-proto: 5.10",
        "// match-proto 5.10- int f(void)",
        "/// match-proto: 5.10- int f(void)",
        "// match-proto: 6.1-5.10 int f(void)",
        "// match-proto: 5.10- f(void)",
        "// match-proto: 5.10- int f(struct sock *sk",
    ] {
        assert_eq!(lines(&format!("{F}{line}\n#[fexit]\nfn d() {{}}\n"))[..1], [2], "{line}");
    }
}

#[test]
fn a_version_in_two_lines_is_found() {
    let two = |versions: &str| lines(&format!("{F}// match-proto: {versions} int f(void)\n#[fexit]\nfn a() {{}}\n"));
    assert_eq!(two("6.1.97-"), [2]);
    assert!(two("6.2-").is_empty());
}

#[test]
fn the_context_of_a_packet_program_is_prose() {
    let egress = "// match-proto: 4.10- BPF_CGROUP_INET_EGRESS, as sent\n#[cgroup_skb(egress)]\nfn a() {}\n";
    assert!(lines(egress).is_empty());
    assert_eq!(lines(&egress.replace("4.10-", "4.x")), [1]);
}

#[test]
fn docs_and_attributes_may_stand_between() {
    assert!(lines(&format!("{F}/// Why.\n#[expect(x)]\n#[fexit(function = \"f\")]\nfn a() {{}}\n")).is_empty());
    assert!(lines("#[inline]\nfn a() {}\n").is_empty());
}

const TWINS: &str =
    "macro_rules! twins {\n    ($f:literal, $a:ident) => {\n        #[fentry]\n        fn a() {}\n    };\n}\n";

#[test]
fn a_macro_that_makes_programs_is_checked_where_it_is_used() {
    assert!(lines(&format!("{TWINS}{F}twins!(\"f\", a);\n")).is_empty());
    assert_eq!(lines(&format!("{TWINS}twins!(\"f\", a);\n")), [7]);
}

/// Lines that do not agree with a table of these rows.
fn disagreements(rows: &str, text: &str) -> Vec<usize> {
    let mut sources = sample("tracer-ebpf/src/probes/state.rs", text);
    sources.extend(sample(ladder::FILE, &format!("const A: &[Hook] = &[{rows}];")));
    agree_with_the_ladders(&sources).iter().map(|finding| finding.line).collect()
}

#[test]
fn a_program_that_nothing_attaches_is_found() {
    let program = format!("{F}#[fentry(function = \"f\")]\npub fn a(ctx: C) {{}}\n");
    assert!(disagreements(r#"hook("a", Attach::Fentry("f"))"#, &program).is_empty());
    assert_eq!(disagreements(r#"hook("b", Attach::Fentry("f"))"#, &program), [2]);
    assert_eq!(agree_with_the_ladders(&sample("tracer-ebpf/src/probes/state.rs", &program)).len(), 1);
}

#[test]
fn an_attribute_of_another_hook_is_found() {
    let program = format!("{F}#[fentry(function = \"f\")]\npub fn a(ctx: C) {{}}\n");
    assert_eq!(disagreements(r#"hook("a", Attach::Fexit("f"))"#, &program), [2]);
    assert_eq!(disagreements(r#"hook("a", Attach::Fentry("g"))"#, &program), [2, 1]);
}

#[test]
fn the_prototype_of_another_function_is_found() {
    let row = r#"hook("a", Attach::Iterator("tcp"))"#;
    let program = "#[unsafe(link_section = \"iter/tcp\")]\n#[unsafe(no_mangle)]\npub extern \"C\" fn a() {}\n";
    assert_eq!(disagreements(row, &format!("{F}{program}")), [1]);
    assert!(disagreements(row, &format!("// match-proto: 5.10- int bpf_iter_tcp(void)\n{program}")).is_empty());
}

#[test]
fn what_a_macro_makes_is_looked_up_by_name() {
    let rows = r#"hook("g_entry", Attach::Fentry("g")), hook("f_entry", Attach::Fentry("f"))"#;
    let used = |function: &str| format!("{TWINS}{F}twins!(\n    /// Why.\n    \"{function}\", {function}_entry\n);\n");
    assert!(disagreements(rows, &used("f")).is_empty());
    assert_eq!(disagreements(rows, &used("g")), [7]);
    assert_eq!(disagreements(rows, &used("h")), [8]);
}
