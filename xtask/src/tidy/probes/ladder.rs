//! The table of ladders, read from the agent's source: to what each program is attached, and when.
//!
//! The source is read as tokens, since this crate does not depend on the agent. Rows are calls of
//! `hook` and `hook_when`, in the open or within a macro of the file; a row that is written in another
//! way is not seen, and its program is then reported as one without a row. Pure.

use std::collections::HashMap;

use proc_macro2::{Group, TokenStream, TokenTree};

use super::btf::Btf;
use super::prototype::Prototype;

/// Where the table is.
pub(super) const FILE: &str = "tracer/src/kernel/hooks/ladders.rs";

/// A program and what the agent does with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) program: String,
    pub(super) attach: Attach,
    pub(super) when: When,
}

/// How a program is attached, and to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attach {
    /// To a function of the kernel, by its name: the variant of the agent's `Attach`, and the name.
    Function(String, String),
    /// To a tracepoint with types, by its name.
    Tracepoint(String),
    /// To a walk over kernel objects, by its target.
    Iterator(String),
    /// To packets of a cgroup. The context is a part of the ABI, and not in the kernel's types.
    Packets,
}

/// On which kernels a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// There are so many arguments.
    Arguments(usize),
    /// There is a reason for drops by a full accept queue, and an argument with the listener.
    ListenOverflowReason,
    /// TIME_WAIT sockets hand a sequence number over.
    TimeWaitSkipsSynQueue,
}

impl Attach {
    /// The name of the function whose prototype stands above the program; none has one for packets.
    pub(super) fn prototype(&self) -> Option<String> {
        match self {
            Self::Function(_, name) | Self::Tracepoint(name) => Some(name.clone()),
            Self::Iterator(target) => Some(format!("bpf_iter_{target}")),
            Self::Packets => None,
        }
    }

    /// As the attribute above the program begins.
    pub(super) fn attribute(&self) -> String {
        match self {
            Self::Function(variant, name) => format!("#[{}(function = \"{name}\"", variant.to_lowercase()),
            Self::Tracepoint(name) => format!("#[btf_tracepoint(function = \"{name}\""),
            Self::Iterator(target) => format!("#[unsafe(link_section = \"iter/{target}\""),
            Self::Packets => "#[cgroup_skb(".to_owned(),
        }
    }

    /// What it is called in a report.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Function(_, name) => format!("function {name}"),
            Self::Tracepoint(name) => format!("tracepoint {name}"),
            Self::Iterator(target) => format!("iterator {target}"),
            Self::Packets => "packets".to_owned(),
        }
    }
}

impl When {
    /// Whether the agent attaches to a function or tracepoint of this form.
    pub(super) fn holds(self, real: &Prototype, btf: &Btf) -> bool {
        match self {
            Self::Always => true,
            Self::Arguments(count) => real.parameters.len() == count,
            Self::ListenOverflowReason => {
                btf.has_enumerator("skb_drop_reason", "SKB_DROP_REASON_TCP_LISTEN_OVERFLOW")
                    && real.parameters.len() >= 4
            }
            Self::TimeWaitSkipsSynQueue => {
                let process = btf.function("tcp_timewait_state_process");
                process.is_ok_and(|process| process.is_some_and(|process| process.parameters.len() >= 4))
            }
        }
    }
}

/// The rows of the table; what cannot be read in it as an error.
pub(super) fn rows(source: &str) -> Result<Vec<Row>, String> {
    let stream: TokenStream = source.parse().map_err(|problem| format!("is no Rust: {problem}"))?;
    let mut reader = Reader::default();
    reader.read(&stream.into_iter().collect::<Vec<_>>())?;
    Ok(reader.rows)
}

#[derive(Default)]
struct Reader {
    macros: HashMap<String, Macro>,
    rows: Vec<Row>,
}

/// A macro of one arm without repetitions: the names of its parameters, and what it expands to.
#[derive(Clone)]
struct Macro {
    parameters: Vec<String>,
    body: Vec<TokenTree>,
}

impl Reader {
    fn read(&mut self, tokens: &[TokenTree]) -> Result<(), String> {
        let mut rest = tokens;
        while let [first, after @ ..] = rest {
            rest = match rest {
                [word, bang, name, TokenTree::Group(arms), after @ ..] if is(word, "macro_rules") && is(bang, "!") => {
                    self.macros.insert(name.to_string(), definition(&trees(arms))?);
                    after
                }
                [name, bang, TokenTree::Group(arguments), after @ ..] if is(bang, "!") => {
                    let used = self.macros.get(&name.to_string()).cloned();
                    // Other macros, `assert!` and the like, are looked into as they are.
                    let tokens = used.map_or_else(|| Ok(trees(arguments)), |used| used.expand(arguments))?;
                    self.read(&tokens)?;
                    after
                }
                // The definition of `hook` itself.
                [word, _, after @ ..] if is(word, "fn") => after,
                [call, TokenTree::Group(arguments), after @ ..] if is(call, "hook") || is(call, "hook_when") => {
                    self.rows.push(row(arguments)?);
                    after
                }
                _ => {
                    if let TokenTree::Group(group) = first {
                        self.read(&trees(group))?;
                    }
                    after
                }
            };
        }
        Ok(())
    }
}

impl Macro {
    fn expand(&self, arguments: &Group) -> Result<Vec<TokenTree>, String> {
        let arguments = arguments_of(arguments);
        if arguments.len() != self.parameters.len() {
            return Err(format!("has a macro of {} arguments used with {}", self.parameters.len(), arguments.len()));
        }
        let values = self.parameters.iter().map(String::as_str).zip(arguments).collect();
        Ok(substitute(&self.body, &values))
    }
}

/// Reads `(parameters) => { body }`.
fn definition(arms: &[TokenTree]) -> Result<Macro, String> {
    let [TokenTree::Group(pattern), equals, greater, TokenTree::Group(body), rest @ ..] = arms else {
        return Err("has a macro that is not understood".to_owned());
    };
    if !is(equals, "=") || !is(greater, ">") || rest.iter().any(|token| !is(token, ";")) {
        return Err("has a macro with more than one arm, which is not understood".to_owned());
    }
    let mut parameters = Vec::new();
    for parameter in arguments_of(pattern) {
        match parameter.as_slice() {
            [dollar, TokenTree::Ident(name), colon, _] if is(dollar, "$") && is(colon, ":") => {
                parameters.push(name.to_string());
            }
            _ => return Err("has a macro with parameters that are not understood".to_owned()),
        }
    }
    Ok(Macro { parameters, body: trees(body) })
}

fn substitute(body: &[TokenTree], values: &HashMap<&str, Vec<TokenTree>>) -> Vec<TokenTree> {
    let mut substituted = Vec::new();
    let mut rest = body;
    while let [first, after @ ..] = rest {
        let value = match rest {
            [dollar, TokenTree::Ident(name), ..] if is(dollar, "$") => values.get(name.to_string().as_str()),
            _ => None,
        };
        rest = match (value, first) {
            (Some(value), _) => {
                substituted.extend_from_slice(value);
                &after[1..]
            }
            (None, TokenTree::Group(group)) => {
                let inner = substitute(&trees(group), values).into_iter().collect();
                substituted.push(Group::new(group.delimiter(), inner).into());
                after
            }
            (None, token) => {
                substituted.push(token.clone());
                after
            }
        };
    }
    substituted
}

/// Reads `("program", Attach::Fexit("f"), When::FunctionArgs(6))`, the last of which may be absent.
fn row(arguments: &Group) -> Result<Row, String> {
    let arguments = arguments_of(arguments);
    let program = arguments.first().and_then(|argument| text(argument));
    let program = program.ok_or("has a hook whose program is no literal")?;
    let problem =
        |what: &str| format!("has for `{program}` {what} that is not known to xtask/src/tidy/probes/ladder.rs");
    let attach = arguments.get(1).and_then(|argument| attach(argument)).ok_or_else(|| problem("an `Attach`"))?;
    let when = match arguments.get(2) {
        None => When::Always,
        Some(argument) => when(argument).ok_or_else(|| problem("a `When`"))?,
    };
    Ok(Row { program, attach, when })
}

fn attach(argument: &[TokenTree]) -> Option<Attach> {
    let (variant, value) = variant(argument, "Attach")?;
    let target = || text(&value.clone()?);
    Some(match variant.as_str() {
        "Fentry" | "Fexit" | "Kprobe" | "Kretprobe" => Attach::Function(variant, target()?),
        "BtfTracepoint" => Attach::Tracepoint(target()?),
        "Iterator" => Attach::Iterator(target()?),
        "CgroupIngress" | "CgroupEgress" => Attach::Packets,
        _ => return None,
    })
}

fn when(argument: &[TokenTree]) -> Option<When> {
    let (variant, value) = variant(argument, "When")?;
    let count = || value.as_deref()?.first()?.to_string().parse().ok();
    Some(match variant.as_str() {
        "Always" => When::Always,
        "FunctionArgs" | "TracepointArgs" => When::Arguments(count()?),
        "ListenOverflowReason" => When::ListenOverflowReason,
        "TimeWaitSkipsSynQueue" => When::TimeWaitSkipsSynQueue,
        _ => return None,
    })
}

/// Reads `Name::Variant` and `Name::Variant(value)`.
fn variant(tokens: &[TokenTree], name: &str) -> Option<(String, Option<Vec<TokenTree>>)> {
    match tokens {
        [first, colon, colons, TokenTree::Ident(variant), value @ ..]
            if is(first, name) && is(colon, ":") && is(colons, ":") =>
        {
            let value = match value {
                [] => None,
                [TokenTree::Group(value)] => Some(trees(value)),
                _ => return None,
            };
            Some((variant.to_string(), value))
        }
        _ => None,
    }
}

/// The text of a string literal.
fn text(tokens: &[TokenTree]) -> Option<String> {
    let [token] = tokens else { return None };
    Some(token.to_string().strip_prefix('"')?.strip_suffix('"')?.to_owned())
}

/// The arguments within parentheses, of which the last may have a comma after it.
fn arguments_of(group: &Group) -> Vec<Vec<TokenTree>> {
    let tokens = trees(group);
    let arguments = tokens.split(|token| is(token, ",")).map(<[TokenTree]>::to_vec);
    arguments.filter(|argument| !argument.is_empty()).collect()
}

fn trees(group: &Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

fn is(token: &TokenTree, text: &str) -> bool {
    match token {
        TokenTree::Ident(ident) => *ident == text,
        TokenTree::Punct(punct) => text.len() == 1 && text.starts_with(punct.as_char()),
        TokenTree::Group(_) | TokenTree::Literal(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::btf::tests::{sample, tracepoint};
    use super::*;
    use serde_json::json;

    fn function(program: &str, variant: &str, name: &str, when: When) -> Row {
        Row { program: program.into(), attach: Attach::Function(variant.into(), name.into()), when }
    }

    #[test]
    fn rows_are_read_in_the_open() {
        let source = r#"
            const fn hook(program: &'static str, attach: Attach) -> Hook { Hook { program, attach, when: When::Always } }
            const A: &[Point] = &[point(&[&[hook("a", Attach::Fentry("f"))], &[hook("b", Attach::CgroupIngress)]])];
            const B: Ladder = Ladder { rungs: &[hook_when("c", Attach::BtfTracepoint("t"), When::TracepointArgs(3),)] };
        "#;
        let packets = Row { program: "b".into(), attach: Attach::Packets, when: When::Always };
        let traced = Row { program: "c".into(), attach: Attach::Tracepoint("t".into()), when: When::Arguments(3) };
        assert_eq!(rows(source), Ok(vec![function("a", "Fentry", "f", When::Always), packets, traced]));
    }

    #[test]
    fn rows_are_read_out_of_macros() {
        let source = r#"
            macro_rules! both {
                ($function:literal, $exit:literal, $probe:literal) => {
                    &[
                        &[hook_when($exit, Attach::Fexit($function), When::FunctionArgs(6))],
                        &[hook($probe, Attach::Kprobe($function))],
                    ]
                };
            }
            const A: &[Point] = &[point(both!("f", "e", "p")), optional(both!("g", "x", "q"))];
        "#;
        let expected = vec![
            function("e", "Fexit", "f", When::Arguments(6)),
            function("p", "Kprobe", "f", When::Always),
            function("x", "Fexit", "g", When::Arguments(6)),
            function("q", "Kprobe", "g", When::Always),
        ];
        assert_eq!(rows(source), Ok(expected));
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for row in [
            r#"hook("a", Attach::Lsm("f"))"#,
            r#"hook("a", Attach::Fentry(NAME))"#,
            r#"hook_when("a", Attach::Fentry("f"), When::Tuesday)"#,
            r#"hook_when("a", Attach::Fentry("f"), When::FunctionArgs(SIX))"#,
            r#"hook(NAME, Attach::Fentry("f"))"#,
        ] {
            assert!(rows(&format!("const A: Hook = {row};")).is_err(), "{row}");
        }
        assert!(rows("macro_rules! a { ($($x:expr),*) => { 1 }; }").is_err());
        assert!(rows("const A: (").is_err());
    }

    #[test]
    fn the_table_of_this_checkout_is_read() {
        let source = std::fs::read_to_string(crate::workspace::root().join(FILE)).unwrap();
        let rows = rows(&source).unwrap();
        let exit7 = function("tcp_v4_syn_recv_sock_exit7", "Fexit", "tcp_v4_syn_recv_sock", When::Arguments(7));
        assert!(rows.contains(&exit7), "{rows:?}");
        assert!(rows.contains(&function("tcp_conn_request_kprobe", "Kprobe", "tcp_conn_request", When::Always)));
    }

    #[test]
    fn a_condition_looks_at_the_kernel() {
        let drop = |arguments: &[u32], reason: &str| {
            let mut types = tracepoint("kfree_skb", arguments);
            types.push(json!({"id": 17, "kind": "ENUM", "name": "skb_drop_reason", "values": [{"name": reason}]}));
            let btf = sample(&types);
            When::ListenOverflowReason.holds(&btf.tracepoint("kfree_skb").unwrap().unwrap(), &btf)
        };
        assert!(drop(&[2, 5, 11, 4], "SKB_DROP_REASON_TCP_LISTEN_OVERFLOW"));
        assert!(!drop(&[2, 5, 11, 4], "SKB_DROP_REASON_NO_SOCKET"));
        assert!(!drop(&[2, 5, 11], "SKB_DROP_REASON_TCP_LISTEN_OVERFLOW"));

        let two = Prototype::parse("int f(int a, int b)").unwrap();
        assert!(When::Arguments(2).holds(&two, &sample(&[])) && !When::Arguments(3).holds(&two, &sample(&[])));
    }
}
