//! Prototypes of C functions as values that can be compared, and as C.
//!
//! Parses the subset in which kernel prototypes are written: qualified names, pointers and pointers to
//! functions; no arrays and no attributes. Integer types have one spelling here (`unsigned long`),
//! whatever order their words came in. Pure.

use std::fmt;

/// A type as C knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// `void`, an integer, a typedef, or a `struct x`.
    Named(String),
    /// `const` or the like, and what it is said of.
    Qualified(&'static str, Box<Type>),
    Pointer(Box<Type>),
    /// What it returns and what it takes.
    Function(Box<Type>, Vec<Type>),
}

const QUALIFIERS: &[&str] = &["const", "volatile", "restrict"];

/// What stands for further arguments.
const ELLIPSIS: &str = "...";

impl Type {
    pub(super) fn void() -> Self {
        Self::Named("void".to_owned())
    }

    pub(super) fn ellipsis() -> Self {
        Self::Named(ELLIPSIS.to_owned())
    }

    /// A type by its name; the words of integer types may come in any order.
    pub(super) fn named(name: &str) -> Self {
        let words: Vec<_> = name.split_whitespace().collect();
        Self::Named(integer(&words).unwrap_or_else(|| name.to_owned()))
    }

    pub(super) fn pointer(self) -> Self {
        Self::Pointer(Box::new(self))
    }

    pub(super) fn qualified(self, qualifier: &'static str) -> Self {
        Self::Qualified(qualifier, Box::new(self))
    }

    /// C's declaration of something of this type.
    fn declare(&self, what: &str) -> String {
        match self {
            Self::Named(name) if what.is_empty() => name.clone(),
            Self::Named(name) => format!("{name} {what}"),
            Self::Qualified(qualifier, inner) => match &**inner {
                Self::Pointer(_) if what.is_empty() => inner.declare(qualifier),
                Self::Pointer(_) => inner.declare(&format!("{qualifier} {what}")),
                inner => format!("{qualifier} {}", inner.declare(what)),
            },
            Self::Pointer(inner) => match &**inner {
                Self::Function(..) => inner.declare(&format!("(*{what})")),
                inner => inner.declare(&format!("*{what}")),
            },
            Self::Function(returns, takes) => {
                let takes: Vec<_> = takes.iter().map(Self::to_string).collect();
                returns.declare(&format!("{what}({})", list(&takes)))
            }
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.declare(""))
    }
}

fn list(parameters: &[String]) -> String {
    if parameters.is_empty() { "void".to_owned() } else { parameters.join(", ") }
}

/// The one spelling of an integer type, if these are the words of one.
fn integer(words: &[&str]) -> Option<String> {
    const KEYWORDS: &[&str] = &["char", "int", "long", "short", "signed", "unsigned"];
    if words.is_empty() || !words.iter().all(|word| KEYWORDS.contains(word)) {
        return None;
    }
    let has = |keyword| words.contains(&keyword);
    let longs = words.iter().filter(|word| **word == "long").count();
    let size = match longs {
        _ if has("char") => "char",
        _ if has("short") => "short",
        0 => "int",
        1 => "long",
        _ => "long long",
    };
    // A plain char has a sign of its own; all others are signed unless said otherwise.
    let sign = match size {
        _ if has("unsigned") => "unsigned ",
        "char" if has("signed") => "signed ",
        _ => "",
    };
    Some(format!("{sign}{size}"))
}

/// A parameter; tracepoints have no names for theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: Option<String>,
    pub(super) ty: Type,
}

/// What a function returns and takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prototype {
    pub(super) name: String,
    pub(super) returns: Type,
    pub(super) parameters: Vec<Parameter>,
}

impl Prototype {
    /// Reads C without the semicolon: `int f(struct sock *sk)`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text)?;
        let mut parser = Parser { tokens: &tokens };
        let returns = parser.specifiers()?;
        let returns = parser.pointers(returns);
        let name = parser.word().ok_or("a function has a name")?.to_owned();
        let parameters = parser.parentheses().ok_or("a prototype has its parameters in parentheses")?.parameters()?;
        parser.end()?;
        Ok(Self { name, returns, parameters })
    }
}

impl fmt::Display for Prototype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let declare = |parameter: &Parameter| parameter.ty.declare(parameter.name.as_deref().unwrap_or_default());
        let parameters: Vec<_> = self.parameters.iter().map(declare).collect();
        f.write_str(&self.returns.declare(&format!("{}({})", self.name, list(&parameters))))
    }
}

/// Words, `...` and single characters.
fn tokens(text: &str) -> Result<Vec<&str>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            c if is_of_word(c) => rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()),
            _ if rest.starts_with(ELLIPSIS) => ELLIPSIS.len(),
            '*' | '(' | ')' | ',' => 1,
            other => return Err(format!("`{other}` is not understood in a prototype")),
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    Ok(tokens)
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

struct Parser<'a> {
    tokens: &'a [&'a str],
}

impl<'a> Parser<'a> {
    fn next(&self) -> Option<&'a str> {
        self.tokens.first().copied()
    }

    fn take(&mut self, wanted: impl Fn(&str) -> bool) -> Option<&'a str> {
        let token = self.next().filter(|token| wanted(token))?;
        self.tokens = &self.tokens[1..];
        Some(token)
    }

    fn word(&mut self) -> Option<&'a str> {
        self.take(|token| token.starts_with(is_of_word))
    }

    fn qualifier(&mut self) -> Option<&'static str> {
        let token = self.take(|token| QUALIFIERS.contains(&token))?;
        QUALIFIERS.iter().find(|qualifier| **qualifier == token).copied()
    }

    fn end(&self) -> Result<(), String> {
        self.next().map_or(Ok(()), |token| Err(format!("`{token}` is not expected there")))
    }

    /// What is between this parenthesis and the one that closes it.
    fn parentheses(&mut self) -> Option<Self> {
        let mut depth = 0;
        for (index, token) in self.tokens.iter().enumerate() {
            match *token {
                "(" => depth += 1,
                ")" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                let inner = self.tokens.get(1..index)?;
                self.tokens = &self.tokens[index + 1..];
                return Some(Self { tokens: inner });
            }
        }
        None
    }

    /// What stands before the declared name and its stars.
    fn specifiers(&mut self) -> Result<Type, String> {
        let mut qualifiers = Vec::new();
        let mut base: Vec<&str> = Vec::new();
        loop {
            if let Some(qualifier) = self.qualifier() {
                qualifiers.push(qualifier);
                continue;
            }
            // A further word belongs to the type only among those of an integer.
            let goes_on = |token: &str| base.is_empty() || integer(&base).is_some() && integer(&[token]).is_some();
            let Some(word) = self.take(|token| token.starts_with(is_of_word) && goes_on(token)) else { break };
            base.push(word);
            if ["struct", "union", "enum"].contains(&word) {
                base.push(self.word().ok_or_else(|| format!("`{word}` without a name"))?);
            }
        }
        if base.is_empty() {
            return Err("a type is missing".to_owned());
        }
        let named = Type::named(&base.join(" "));
        Ok(qualifiers.into_iter().rev().fold(named, Type::qualified))
    }

    fn pointers(&mut self, mut ty: Type) -> Type {
        while self.take(|token| token == "*").is_some() {
            ty = ty.pointer();
            while let Some(qualifier) = self.qualifier() {
                ty = ty.qualified(qualifier);
            }
        }
        ty
    }

    /// The name, if any, and the type of what is declared with this base.
    fn declarator(&mut self, base: Type) -> Result<(Option<String>, Type), String> {
        let base = self.pointers(base);
        if self.next() != Some("(") {
            return Ok((self.word().map(str::to_owned), base));
        }
        let mut inner = self.parentheses().ok_or("a parenthesis is not closed")?;
        let takes = self.parentheses().ok_or("a pointer to a function has its parameters in parentheses")?;
        let takes = takes.parameters()?.into_iter().map(|parameter| parameter.ty).collect();
        let declared = inner.declarator(Type::Function(Box::new(base), takes))?;
        inner.end()?;
        Ok(declared)
    }

    fn parameters(mut self) -> Result<Vec<Parameter>, String> {
        if self.tokens == ["void"] {
            return Ok(Vec::new());
        }
        let mut parameters = vec![self.parameter()?];
        while self.take(|token| token == ",").is_some() {
            parameters.push(self.parameter()?);
        }
        self.end()?;
        Ok(parameters)
    }

    fn parameter(&mut self) -> Result<Parameter, String> {
        if self.take(|token| token == ELLIPSIS).is_some() {
            return Ok(Parameter { name: None, ty: Type::ellipsis() });
        }
        let base = self.specifiers()?;
        let (name, ty) = self.declarator(base)?;
        Ok(Parameter { name, ty })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Prototype {
        Prototype::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for text in [
            "int f(void)",
            "void f(struct sock *sk, u32 seq, bool abort)",
            "struct dst_entry *f(const struct sock *sk, struct sk_buff **skbs, const int state)",
            "void f(enum skb_drop_reason reason, union u *const fixed, volatile int seen)",
            "struct sock *f(bool *own, void (*init)(struct sock *, const struct sock *), unsigned long timeout)",
            "void f(const char *format, ...)",
            "void *f(int (**table)(void))",
        ] {
            assert_eq!(parsed(text).to_string(), text);
        }
    }

    #[test]
    fn parts_are_told_apart() {
        let prototype = parsed("struct sock *f(const struct sock *sk, unsigned long timeout)");
        assert_eq!(prototype.name, "f");
        assert_eq!(prototype.returns, Type::named("struct sock").pointer());
        let sk = Parameter { name: Some("sk".into()), ty: Type::named("struct sock").qualified("const").pointer() };
        assert_eq!(prototype.parameters[0], sk);
        assert_eq!(prototype.parameters[1].name.as_deref(), Some("timeout"));
    }

    #[test]
    fn a_pointer_to_a_function_has_types_alone() {
        let named = parsed("void f(void (*init)(struct sock *newsk, const struct sock *sk))");
        assert_eq!(named, parsed("void f(void (*init)(struct sock *, struct sock const *))"));
        assert_ne!(named, parsed("void f(void (*init)(struct sock *, struct sock *))"));
        assert_eq!(named.parameters[0].name.as_deref(), Some("init"));
    }

    #[test]
    fn the_words_of_an_integer_may_come_in_any_order() {
        for (written, spelt) in [
            ("long unsigned int", "unsigned long"),
            ("unsigned", "unsigned int"),
            ("short int", "short"),
            ("long long unsigned int", "unsigned long long"),
            ("signed char", "signed char"),
            ("unsigned char", "unsigned char"),
            ("char", "char"),
            ("signed", "int"),
            ("_Bool", "_Bool"),
        ] {
            assert_eq!(Type::named(written).to_string(), spelt);
        }
    }

    #[test]
    fn names_types_and_constness_make_a_difference() {
        let f = parsed("int f(struct sock *sk, u32 seq)");
        for other in ["int f(struct sock *sk, u32 ack)", "int f(const struct sock *sk, u32 seq)"] {
            assert_ne!(f, parsed(other));
        }
        for other in ["bool f(struct sock *sk, u32 seq)", "int f(struct sock *sk, __u32 seq)", "int f(struct sock *sk)"]
        {
            assert_ne!(f, parsed(other));
        }
        assert_ne!(parsed("int f(char *const a)"), parsed("int f(const char *a)"));
    }

    #[test]
    fn what_is_no_prototype_is_refused() {
        for text in [
            "",
            "f(void)",
            "int f",
            "int f()",
            "int f(struct)",
            "int f(int a",
            "int f(int a) extra",
            "int f(int a,)",
            "int f(int a b)",
            "int f(int a);",
            "int f(char a[4])",
            "int f(void (*g))",
            "BPF_CGROUP_INET_EGRESS, struct __sk_buff with `sk` = the sending full socket",
        ] {
            assert!(Prototype::parse(text).is_err(), "{text}");
        }
    }
}
