//! A kernel's types, as `bpftool -j btf dump` prints them, and the prototypes in them.
//!
//! Looks functions and tracepoints up by name, the first of a name as the kernel itself does. Pure:
//! where the text comes from is `image`'s business.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::prototype::{Parameter, Prototype, Type};

/// What bpftool prints where a type or a parameter has no name.
const NAMELESS: &str = "(anon)";

/// Steps from a parameter's type down to a name; the kernel's own limit.
const DEPTH_MAX: usize = 32;

/// All types of a kernel.
#[derive(Deserialize)]
pub(super) struct Btf {
    types: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: u32,
    kind: String,
    name: String,
    /// What a pointer, a qualifier, a typedef or a function refers to.
    type_id: Option<u32>,
    /// Of a function's prototype.
    ret_type_id: Option<u32>,
    #[serde(default)]
    params: Vec<Param>,
    /// What is declared but not defined: a struct or a union.
    fwd_kind: Option<String>,
    #[serde(default)]
    values: Vec<Enumerator>,
}

#[derive(Deserialize)]
struct Param {
    name: String,
    type_id: u32,
}

#[derive(Deserialize)]
struct Enumerator {
    name: String,
}

impl Btf {
    pub(super) fn parse(json: &str) -> Result<Self> {
        let btf: Self = serde_json::from_str(json).context("reading what bpftool printed")?;
        let is_in_order = (1..).zip(&btf.types).all(|(id, entry)| entry.id == id);
        if !is_in_order {
            bail!("bpftool printed types out of order");
        }
        Ok(btf)
    }

    /// The prototype of a function, unless the kernel has none of this name.
    pub(super) fn function(&self, name: &str) -> Result<Option<Prototype>> {
        let Some(function) = self.named("FUNC", name) else { return Ok(None) };
        self.prototype(name, self.referred(function)?).map(Some)
    }

    /// What a tracepoint hands to programs; there are no names in it.
    pub(super) fn tracepoint(&self, name: &str) -> Result<Option<Prototype>> {
        let Some(typedef) = self.named("TYPEDEF", &format!("btf_trace_{name}")) else { return Ok(None) };
        let mut prototype = self.prototype(name, self.referred(self.referred(typedef)?)?)?;
        if prototype.parameters.is_empty() {
            bail!("the tracepoint {name} has no arguments, not even its own");
        }
        // The tracepoint's own `void *`, which programs do not get.
        prototype.parameters.remove(0);
        Ok(Some(prototype))
    }

    pub(super) fn has_enumerator(&self, name: &str, enumerator: &str) -> bool {
        let enums = self.types.iter().filter(|entry| entry.kind.starts_with("ENUM") && entry.name == name);
        enums.flat_map(|entry| &entry.values).any(|value| value.name == enumerator)
    }

    fn named(&self, kind: &str, name: &str) -> Option<&Entry> {
        self.types.iter().find(|entry| entry.kind == kind && entry.name == name)
    }

    fn entry(&self, id: u32) -> Result<&Entry> {
        let index = usize::try_from(id)?.checked_sub(1);
        index.and_then(|index| self.types.get(index)).with_context(|| format!("there is no type {id}"))
    }

    fn referred(&self, entry: &Entry) -> Result<&Entry> {
        self.entry(entry.type_id.with_context(|| format!("type {} refers to none", entry.id))?)
    }

    fn prototype(&self, name: &str, entry: &Entry) -> Result<Prototype> {
        let (returns, parameters) = self.signature(entry, DEPTH_MAX).with_context(|| format!("the types of {name}"))?;
        Ok(Prototype { name: name.to_owned(), returns, parameters })
    }

    fn signature(&self, entry: &Entry, depth: usize) -> Result<(Type, Vec<Parameter>)> {
        if entry.kind != "FUNC_PROTO" {
            bail!("type {} is a {}, not a prototype", entry.id, entry.kind);
        }
        let returns = self.ty(entry.ret_type_id.context("a prototype returns something")?, depth)?;
        let parameters = entry.params.iter().map(|param| {
            let is_named = param.name != NAMELESS && !param.name.is_empty();
            // Nothing but `...` is a parameter of no type.
            let ty = if param.type_id == 0 { Type::ellipsis() } else { self.ty(param.type_id, depth)? };
            Ok(Parameter { name: is_named.then(|| param.name.clone()), ty })
        });
        Ok((returns, parameters.collect::<Result<_>>()?))
    }

    fn ty(&self, id: u32, depth: usize) -> Result<Type> {
        if id == 0 {
            return Ok(Type::void());
        }
        let depth = depth.checked_sub(1).context("types refer to each other without end")?;
        let entry = self.entry(id)?;
        let inner = || self.ty(entry.type_id.context("a reference refers to something")?, depth);
        Ok(match entry.kind.as_str() {
            "INT" | "FLOAT" | "TYPEDEF" => Type::named(&entry.name),
            "STRUCT" => Type::named(&format!("struct {}", entry.name)),
            "UNION" => Type::named(&format!("union {}", entry.name)),
            "ENUM" | "ENUM64" => Type::named(&format!("enum {}", entry.name)),
            "FWD" => Type::named(&format!("{} {}", entry.fwd_kind.as_deref().unwrap_or("struct"), entry.name)),
            "PTR" => inner()?.pointer(),
            "CONST" => inner()?.qualified("const"),
            "VOLATILE" => inner()?.qualified("volatile"),
            "RESTRICT" => inner()?.qualified("restrict"),
            // `__user`, `__rcu` and the like, which are no part of C's type.
            "TYPE_TAG" => inner()?,
            "FUNC_PROTO" => {
                let (returns, parameters) = self.signature(entry, depth)?;
                Type::Function(Box::new(returns), parameters.into_iter().map(|parameter| parameter.ty).collect())
            }
            kind => bail!("type {id} is a {kind}, which no prototype here has had"),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    use serde_json::{Value, json};

    /// Types 1 to 13: `struct sock *`, `const struct sock *`, `void *`, `unsigned long`, `u32`, and others.
    pub(in super::super) fn sample(more: &[Value]) -> Btf {
        let mut types = vec![
            json!({"id": 1, "kind": "STRUCT", "name": "sock", "size": 8, "vlen": 0, "members": []}),
            json!({"id": 2, "kind": "PTR", "name": "(anon)", "type_id": 1}),
            json!({"id": 3, "kind": "CONST", "name": "(anon)", "type_id": 1}),
            json!({"id": 4, "kind": "PTR", "name": "(anon)", "type_id": 3}),
            json!({"id": 5, "kind": "PTR", "name": "(anon)", "type_id": 0}),
            json!({"id": 6, "kind": "INT", "name": "long unsigned int", "size": 8}),
            json!({"id": 7, "kind": "INT", "name": "unsigned int", "size": 4}),
            json!({"id": 8, "kind": "TYPEDEF", "name": "u32", "type_id": 7}),
            json!({"id": 9, "kind": "FUNC_PROTO", "name": "(anon)", "ret_type_id": 0, "vlen": 2, "params": [
                {"name": "(anon)", "type_id": 2}, {"name": "(anon)", "type_id": 4}]}),
            json!({"id": 10, "kind": "PTR", "name": "(anon)", "type_id": 9}),
            json!({"id": 11, "kind": "ENUM", "name": "reason", "vlen": 1, "values": [{"name": "FULL", "val": 3}]}),
            json!({"id": 12, "kind": "FWD", "name": "net", "fwd_kind": "struct"}),
            json!({"id": 13, "kind": "TYPE_TAG", "name": "rcu", "type_id": 12}),
        ];
        types.extend_from_slice(more);
        Btf::parse(&json!({ "types": types }).to_string()).unwrap()
    }

    /// Types 14 and 15, a function and its prototype.
    pub(in super::super) fn function(name: &str, returns: u32, params: &[(&str, u32)]) -> [Value; 2] {
        let params: Vec<_> = params.iter().map(|(name, id)| json!({"name": name, "type_id": id})).collect();
        [
            json!({"id": 14, "kind": "FUNC_PROTO", "name": "(anon)", "ret_type_id": returns, "params": params}),
            json!({"id": 15, "kind": "FUNC", "name": name, "type_id": 14, "linkage": "static"}),
        ]
    }

    /// Types 14 to 16, a tracepoint.
    pub(in super::super) fn tracepoint(name: &str, params: &[u32]) -> Vec<Value> {
        let nameless: Vec<_> = [5].iter().chain(params).map(|id| ("(anon)", *id)).collect();
        let mut types = function("unused", 0, &nameless).to_vec();
        types[1] = json!({"id": 15, "kind": "PTR", "name": "(anon)", "type_id": 14});
        types.push(json!({"id": 16, "kind": "TYPEDEF", "name": format!("btf_trace_{name}"), "type_id": 15}));
        types
    }

    #[test]
    fn a_function_reads_as_its_source_would() {
        let params = [("sk", 4), ("timeout", 6), ("seq", 8), ("init", 10), ("why", 11), ("data", 5), ("net", 13)];
        let btf = sample(&function("f", 2, &params));
        assert_eq!(
            btf.function("f").unwrap().unwrap().to_string(),
            "struct sock *f(const struct sock *sk, unsigned long timeout, u32 seq, \
             void (*init)(struct sock *, const struct sock *), enum reason why, void *data, struct net net)"
        );
        assert_eq!(btf.function("g").unwrap(), None);
    }

    #[test]
    fn it_equals_what_was_written() {
        let btf = sample(&function("f", 0, &[("timeout", 6), ("init", 10), ("(anon)", 0)]));
        let written = "void f(unsigned long timeout, void (*init)(struct sock *newsk, const struct sock *sk), ...)";
        assert_eq!(btf.function("f").unwrap(), Some(Prototype::parse(written).unwrap()));
    }

    #[test]
    fn a_tracepoint_is_without_its_own_argument() {
        let btf = sample(&tracepoint("f", &[4, 8]));
        assert_eq!(btf.tracepoint("f").unwrap().unwrap().to_string(), "void f(const struct sock *, u32)");
        assert_eq!(btf.function("f").unwrap(), None);
        assert_eq!(btf.tracepoint("g").unwrap(), None);
    }

    #[test]
    fn enumerators_are_of_their_enum() {
        let btf = sample(&[]);
        assert!(btf.has_enumerator("reason", "FULL"));
        assert!(!btf.has_enumerator("reason", "EMPTY") && !btf.has_enumerator("other", "FULL"));
    }

    #[test]
    fn types_that_make_no_sense_are_refused() {
        assert!(Btf::parse("{}").is_err());
        assert!(Btf::parse(r#"{"types": [{"id": 2, "kind": "PTR", "name": "(anon)", "type_id": 0}]}"#).is_err());
        let endless = json!({"id": 16, "kind": "PTR", "name": "(anon)", "type_id": 16});
        let [prototype, function] = function("f", 16, &[]);
        assert!(sample(&[prototype, function, endless]).function("f").is_err());
        assert!(sample(&super::tests::function("f", 99, &[])).function("f").is_err());
        let array = json!({"id": 14, "kind": "FUNC", "name": "f", "type_id": 1});
        assert!(sample(&[array]).function("f").is_err());
    }
}
