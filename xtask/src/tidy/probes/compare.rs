//! The quoted prototypes against the types of a kernel.
//!
//! The rule: a prototype is quoted for the kernels to which the agent tries to attach the program, for
//! all of them and for no other, and it equals what they have.
//!
//! - A function, and an iterator's `bpf_iter_<target>`, is a BTF FUNC: return type, argument types and
//!   argument names are compared, names because they tell apart arguments of one type that were
//!   swapped. A tracepoint is the typedef `btf_trace_<name>`: there are no names in it.
//! - The agent tries a program wherever the function or tracepoint is in BTF and the condition of the
//!   program's row in the table of ladders holds. A function that the kernel has and BTF has not (so that
//!   a kprobe could be attached all the same) counts as absent.
//! - Packet programs are left out: their context is a part of the ABI, and not in BTF.

use std::path::Path;

use anyhow::{Context as _, Error, Result, anyhow};

use super::btf::Btf;
use super::ladder::{self, Attach, Row};
use super::prototype::Prototype;
use super::versions::Version;
use super::{Program, Quote, image, programs, rows, rows_of};
use crate::tidy::Finding;
use crate::tidy::source::Source;

/// A kernel to compare with.
struct Kernel<'a> {
    /// As it is reported.
    name: &'a str,
    version: Version,
    btf: Btf,
}

/// Where the prototypes above the programs differ from those of the kernel in this image.
pub(in crate::tidy) fn compare(kernel_version: &str, vmlinuz: &Path, sources: &[Source]) -> Result<Vec<Finding>> {
    let version = Version::parse(kernel_version).map_err(Error::msg)?;
    let kernel = Kernel { name: kernel_version, version, btf: Btf::parse(&image::types(vmlinuz)?)? };
    compare_with(&kernel, sources).with_context(|| format!("the types of {kernel_version}"))
}

/// The programs that are not compared, by their lines.
pub(in crate::tidy) fn left_out(sources: &[Source]) -> Vec<String> {
    let packets = programs(sources).into_iter().filter(Program::sees_packets);
    packets.map(|program| format!("{}:{}: sees packets", program.path, program.line)).collect()
}

fn compare_with(kernel: &Kernel, sources: &[Source]) -> Result<Vec<Finding>> {
    let rows = rows(sources).map_err(|problem| anyhow!("{} {problem}", ladder::FILE))?;
    let mut findings = Vec::new();
    for program in programs(sources) {
        let quote = program.quotes().flatten().find(|quote| quote.versions.cover(kernel.version));
        for row in rows_of(&program, &rows) {
            findings.extend(finding(kernel, &program, row, quote.as_ref())?);
        }
    }
    // The programs that one macro makes are for one function.
    findings.dedup();
    Ok(findings)
}

fn finding(kernel: &Kernel, program: &Program, row: &Row, quote: Option<&Quote>) -> Result<Option<Finding>> {
    let real = match (&row.attach, row.attach.prototype()) {
        (_, None) => return Ok(None),
        (Attach::Tracepoint(name), _) => kernel.btf.tracepoint(name)?,
        (_, Some(name)) => kernel.btf.function(&name)?,
    };
    let is_attached = real.as_ref().is_some_and(|real| row.when.holds(real, &kernel.btf));
    let (name, hook) = (kernel.name, row.attach.describe());
    let problem = match (real, quote) {
        (Some(real), None) if is_attached => {
            Some((program.line, format!("{hook}: no prototype is quoted for {name}, where it is `{real}`")))
        }
        (_, None) => None,
        (None, Some(quote)) => Some((quote.line, format!("{hook}: quoted for {name}, which has none"))),
        (Some(real), Some(quote)) if !is_attached => {
            let problem = format!("{hook}: quoted for {name}, to which the agent does not attach it (`{real}`)");
            Some((quote.line, problem))
        }
        (Some(real), Some(quote)) => mismatch(name, &row.attach, quote, &real).map(|problem| (quote.line, problem)),
    };
    Ok(problem.map(|(line, problem)| Finding::new(program.path, line, problem)))
}

/// How the two differ, if they do.
fn mismatch(kernel: &str, attach: &Attach, quote: &Quote, real: &Prototype) -> Option<String> {
    // One that cannot be read is a finding of the check that needs no kernel.
    let quoted = Prototype::parse(quote.prototype).ok()?;
    let differences = differences(&quoted, real);
    if differences.is_empty() {
        return None;
    }
    let (hook, differences) = (attach.describe(), differences.join(", "));
    Some(format!("{hook}: quoted for {kernel} is `{quoted}`, but there it is `{real}`: {differences}"))
}

fn differences(quoted: &Prototype, real: &Prototype) -> Vec<String> {
    let mut differences = Vec::new();
    if quoted.returns != real.returns {
        differences.push(format!("it returns `{}`", real.returns));
    }
    if quoted.parameters.len() != real.parameters.len() {
        differences.push(format!("it takes {}, not {}", real.parameters.len(), quoted.parameters.len()));
    }
    for (number, (quoted, real)) in (1..).zip(quoted.parameters.iter().zip(&real.parameters)) {
        if quoted.ty != real.ty {
            differences.push(format!("argument {number} is `{}`", real.ty));
        }
        if let (Some(quoted), Some(real)) = (&quoted.name, &real.name)
            && quoted != real
        {
            differences.push(format!("argument {number} is called `{real}`"));
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::super::btf::tests::{function, sample, tracepoint};
    use super::*;
    use crate::tidy::source;

    /// What is found about one program: its row, its quotes, a kernel.
    fn found(row: &str, quotes: &[&str], version: &str, types: &[serde_json::Value]) -> Vec<String> {
        let quotes = quotes.iter().map(|quote| format!("// match-proto: {quote}")).collect::<Vec<_>>().join("\n");
        let text = format!("{quotes}\n/// Why.\n#[fexit(function = \"f\")]\npub fn a(ctx: C) {{}}\n");
        let mut sources = source::sample("tracer-ebpf/src/probes/state.rs", &text);
        sources.extend(source::sample(ladder::FILE, &format!("const A: &[Hook] = &[{row}];")));
        let kernel = Kernel { name: version, version: Version::parse(version).unwrap(), btf: sample(types) };
        let findings = compare_with(&kernel, &sources).unwrap();
        findings.into_iter().map(|finding| format!("{}: {}", finding.line, finding.message)).collect()
    }

    const ALWAYS: &str = r#"hook("a", Attach::Fexit("f"))"#;
    const TWO: &str = r#"hook_when("a", Attach::Fexit("f"), When::FunctionArgs(2))"#;

    /// `void f(u32 seq, u32 ack)`.
    fn f() -> [serde_json::Value; 2] {
        function("f", 0, &[("seq", 8), ("ack", 8)])
    }

    #[test]
    fn what_is_quoted_as_it_is_passes() {
        assert!(found(ALWAYS, &["5.10- void f(u32 seq, u32 ack)"], "6.1.192", &f()).is_empty());
        let both = ["5.10-6.1.96 void f(u32 seq)", "6.1.97- void f(u32 seq, u32 ack)"];
        assert!(found(ALWAYS, &both, "6.1.192", &f()).is_empty());
    }

    #[test]
    fn each_difference_is_named() {
        for (quoted, difference) in [
            ("int f(u32 seq, u32 ack)", "it returns `void`"),
            ("void f(u32 seq)", "it takes 2, not 1"),
            ("void f(u32 seq, u32 ack, bool abort)", "it takes 2, not 3"),
            ("void f(__u32 seq, u32 ack)", "argument 1 is `u32`"),
            ("void f(u32 seq, const u32 ack)", "argument 2 is `u32`"),
            ("void f(u32 ack, u32 seq)", "argument 1 is called `seq`, argument 2 is called `ack`"),
        ] {
            let found = found(ALWAYS, &[&format!("5.10- {quoted}")], "6.1.192", &f());
            let whole = format!(
                "1: function f: quoted for 6.1.192 is `{quoted}`, but there it is `void f(u32 seq, u32 ack)`: {difference}"
            );
            assert_eq!(found, [whole]);
        }
    }

    #[test]
    fn the_line_of_the_kernels_version_is_compared() {
        let quotes = ["5.10 void f(u32 seq, u32 ack)", "6.1- void f(u32 seq)"];
        assert!(found(ALWAYS, &quotes, "5.10.262", &f()).is_empty());
        assert!(found(ALWAYS, &quotes, "6.1.192", &f())[0].starts_with("2: function f: quoted for 6.1.192"));
    }

    #[test]
    fn a_kernel_that_is_not_quoted_must_not_be_attached_to() {
        let found_on = |row, types: &[_]| found(row, &["5.10 void f(u32 seq, u32 ack)"], "6.1.192", types);
        let problem = "3: function f: no prototype is quoted for 6.1.192, where it is `void f(u32 seq, u32 ack)`";
        assert_eq!(found_on(ALWAYS, &f()), [problem]);
        assert_eq!(found_on(TWO, &f()), [problem]);
        assert!(found_on(ALWAYS, &[]).is_empty());
        assert!(found_on(TWO, &function("f", 0, &[("seq", 8)])).is_empty());
    }

    #[test]
    fn a_kernel_that_is_quoted_must_be_attached_to() {
        let found_on = |row, types: &[_]| found(row, &["5.10- void f(u32 seq)"], "6.1.192", types);
        assert_eq!(found_on(ALWAYS, &[]), ["1: function f: quoted for 6.1.192, which has none"]);
        let one = function("f", 0, &[("seq", 8)]);
        let problem = "1: function f: quoted for 6.1.192, to which the agent does not attach it (`void f(u32 seq)`)";
        assert_eq!(found_on(TWO, &one), [problem]);
    }

    #[test]
    fn a_tracepoint_has_types_alone() {
        let row = r#"hook("a", Attach::BtfTracepoint("f"))"#;
        let found_for = |quoted: &str| found(row, &[&format!("5.10- {quoted}")], "6.1.192", &tracepoint("f", &[4, 8]));
        assert!(found_for("void f(const struct sock *any, u32 name)").is_empty());
        assert!(found_for("void f(struct sock *sk, u32 seq)")[0].ends_with("argument 1 is `const struct sock *`"));
        assert!(found_for("void f(const struct sock *sk)")[0].ends_with("it takes 2, not 1"));
    }

    #[test]
    fn an_iterator_is_a_function() {
        let row = r#"hook("a", Attach::Iterator("tcp"))"#;
        let found_on =
            |name| found(row, &["5.10- void bpf_iter_tcp(u32 uid)"], "6.1.192", &function(name, 0, &[("uid", 8)]));
        assert!(found_on("bpf_iter_tcp").is_empty());
        assert_eq!(found_on("tcp"), ["1: iterator tcp: quoted for 6.1.192, which has none"]);
    }

    #[test]
    fn packets_are_left_out_and_listed() {
        assert!(found(r#"hook("a", Attach::CgroupEgress)"#, &["5.10- prose"], "6.1.192", &f()).is_empty());
        let text = "#[cgroup_skb(egress)]\nfn a() {}\n#[fexit]\nfn b() {}\n";
        let sources = source::sample("tracer-ebpf/src/probes/packet.rs", text);
        assert_eq!(left_out(&sources), ["tracer-ebpf/src/probes/packet.rs:1: sees packets"]);
    }

    #[test]
    fn versions_that_cannot_be_read_cover_no_kernel() {
        assert_eq!(found(ALWAYS, &["v5- void f(u32 seq, u32 ack)"], "6.1.192", &f()).len(), 1);
    }
}
