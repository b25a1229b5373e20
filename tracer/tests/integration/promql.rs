//! The names in a PromQL expression: metrics, matchers, labels that rows are grouped by. Belongs
//! here: as much of the language as the dashboards use. Whether an expression is valid is for
//! Prometheus to say.

/// The names that an expression uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Every selector, in the order of the expression.
    pub selectors: Vec<Selector>,
    /// Labels in `by`, `without`, `on`, `ignoring` and `group_left` lists.
    pub grouped_by: Vec<String>,
    /// Labels that the expression makes itself.
    pub made: Vec<String>,
}

/// A metric with its matchers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selector {
    pub metric: String,
    pub matchers: Vec<Matcher>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Matcher {
    pub label: String,
    /// `=`, `!=`, `=~` or `!~`
    pub operator: String,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A name, a keyword, a number or a dashboard variable (`$netns`).
    Word(String),
    /// The inside of a quoted string.
    Text(String),
    Sign(char),
}

/// Functions that make a label: it is their first text, after the series that they take.
const MAKERS: [&str; 2] = ["label_replace", "label_join"];
const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const KEYWORDS: [&str; 7] = ["and", "or", "unless", "bool", "offset", "Inf", "NaN"];

/// Finds the names in `expression`.
pub fn names(expression: &str) -> Result<Names, String> {
    let tokens = tokens(expression)?;
    let mut names = Names::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let next = tokens.get(at);
        match token {
            Token::Word(word) if GROUPINGS.contains(&word.as_str()) && next == Some(&Token::Sign('(')) => {
                let end = closing(&tokens, at, ')')?;
                names.grouped_by.extend(tokens[at..end].iter().filter_map(Token::word).map(str::to_owned));
                at = end;
            }
            Token::Word(word) if MAKERS.contains(&word.as_str()) && next == Some(&Token::Sign('(')) => {
                names.made.extend(made_label(&tokens[at + 1..]).map(str::to_owned));
            }
            Token::Word(word) if is_metric(word, next) => {
                let mut selector = Selector { metric: word.clone(), matchers: Vec::new() };
                if next == Some(&Token::Sign('{')) {
                    let end = closing(&tokens, at, '}')?;
                    selector.matchers = matchers(&tokens[at + 1..end - 1])?;
                    at = end;
                }
                names.selectors.push(selector);
            }
            Token::Sign('[') => at = closing(&tokens, at, ']')?,
            Token::Sign('{') => return Err(format!("a selector without a metric in {expression}")),
            _ => {}
        }
    }
    Ok(names)
}

/// A name that is no function, aggregation, keyword, number or variable.
fn is_metric(word: &str, next: Option<&Token>) -> bool {
    let called = next == Some(&Token::Sign('('));
    let aggregates = next.and_then(Token::word).is_some_and(|next| matches!(next, "by" | "without"));
    let named = word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    named && !called && !aggregates && !KEYWORDS.contains(&word) && !GROUPINGS.contains(&word)
}

/// The first text among the arguments that begin here, not among those of what they hold.
fn made_label(tokens: &[Token]) -> Option<&str> {
    let mut depth = 0_usize;
    for token in tokens {
        match token {
            Token::Sign('(' | '{' | '[') => depth += 1,
            Token::Sign(')' | '}' | ']') => depth = depth.checked_sub(1)?,
            Token::Text(text) if depth == 0 => return Some(text),
            _ => {}
        }
    }
    None
}

/// The index after the sign that closes the list which is open at `at`.
fn closing(tokens: &[Token], at: usize, sign: char) -> Result<usize, String> {
    let length = tokens[at..].iter().position(|token| *token == Token::Sign(sign));
    length.map(|length| at + length + 1).ok_or_else(|| format!("`{sign}` is missing"))
}

fn matchers(tokens: &[Token]) -> Result<Vec<Matcher>, String> {
    let matchers = tokens.split(|token| *token == Token::Sign(',')).filter(|tokens| !tokens.is_empty());
    matchers
        .map(|tokens| match tokens {
            [Token::Word(label), signs @ .., Token::Text(value)] => {
                let operator = signs.iter().filter_map(Token::sign).collect();
                Ok(Matcher { label: label.clone(), operator, value: value.clone() })
            }
            _ => Err(format!("not a matcher: {tokens:?}")),
        })
        .collect()
}

impl Token {
    fn word(&self) -> Option<&str> {
        if let Self::Word(word) = self { Some(word) } else { None }
    }

    fn sign(&self) -> Option<char> {
        if let Self::Sign(sign) = self { Some(*sign) } else { None }
    }
}

fn tokens(expression: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.' | '$');
        let (token, length) = if first == '"' {
            let length = rest[1..].find('"').ok_or_else(|| format!("a quote is open in {expression}"))?;
            (Token::Text(rest[1..=length].to_owned()), length + 2)
        } else if is_word(first) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            (Token::Word(rest[..length].to_owned()), length)
        } else {
            (Token::Sign(first), first.len_utf8())
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

#[test]
fn metrics_matchers_and_groupings_are_found() {
    let found = names(
        "100 * sum by (process, port) (rate(a_total{netns=~\"$netns\", reason!=\"other\"}[$__rate_interval]))\n\
         / on (port) group_left max without (x) (b) > 0 unless c offset 5m",
    )
    .unwrap();
    let matcher = |label: &str, operator: &str, value: &str| Matcher {
        label: label.to_owned(),
        operator: operator.to_owned(),
        value: value.to_owned(),
    };
    let metrics: Vec<_> = found.selectors.iter().map(|selector| selector.metric.as_str()).collect();
    assert_eq!(metrics, ["a_total", "b", "c"]);
    assert_eq!(found.selectors[0].matchers, [matcher("netns", "=~", "$netns"), matcher("reason", "!=", "other")]);
    assert_eq!(found.grouped_by, ["process", "port", "port", "x"]);
}

#[test]
fn labels_that_are_made_are_found() {
    let found = names(
        "sum by (owner) (label_replace(label_join(rate(a{b=\"c\"}[5m]), \"both\", \"/\", \"x\"), \"owner\", \"$1\", \"both\", \"(.+)\"))",
    )
    .unwrap();
    assert_eq!(found.made, ["owner", "both"]);
    assert_eq!(found.selectors.len(), 1);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    for expression in ["{a=\"b\"}", "a{b=\"c", "a{b}", "rate(a[5m", "sum by (a"] {
        assert!(names(expression).is_err(), "{expression}");
    }
}
