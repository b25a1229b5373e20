//! docs/tuning.md and docs/coverage.md name only what there is, the one leaves no rule of `tracer advise` out and the
//! other no limit; what pages tell to type is a command line. Belongs here: what pages written by hand say about names
//! that code and rules define.

use std::fs;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use tracer::advise::rules::RULES;
use tracer::cli;
use tracer::export::metrics::METRICS;

use crate::names::Known;
use crate::{promql, rules};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../");

/// Rules that are about the agent and not about a limit.
const NO_LIMIT: [&str; 1] = ["blind_spots"];

/// What stands in backticks, outside blocks of code.
fn quoted(page: &str) -> Vec<String> {
    let page = page.replace('\n', " ");
    page.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn tuning() -> Vec<String> {
    quoted(&fs::read_to_string(format!("{ROOT}docs/tuning.md")).unwrap())
}

#[test]
fn metrics_and_labels_of_the_tuning_page_exist() {
    let mut metrics = 0;
    for word in tuning().iter().filter(|word| word.starts_with("tracer_")) {
        let (name, selector) = word.split_once('{').unwrap_or((word, ""));
        let metric = METRICS.iter().find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("docs/tuning.md: no metric `{name}`"));
        for matcher in selector.trim_end_matches('}').split(',').filter(|matcher| !matcher.is_empty()) {
            let label = matcher.trim().split(['=', '!']).next().unwrap();
            assert!(metric.labels().any(|known| known.name == label), "docs/tuning.md: {name} has no label {label}");
        }
        metrics += 1;
    }
    assert!(metrics >= 30, "{metrics}");
}

#[test]
fn every_rule_about_a_limit_is_on_the_tuning_page() {
    let words = tuning();
    for rule in RULES.iter().filter(|rule| !NO_LIMIT.contains(&rule.id)) {
        assert!(words.iter().any(|word| word == rule.id), "docs/tuning.md does not mention `{}`", rule.id);
    }
}

#[test]
fn alerts_and_dashboards_of_the_tuning_page_are_shipped() {
    let rules = fs::read_to_string(format!("{ROOT}dashboards/rules/tracer-alerts.yaml")).unwrap();
    for word in tuning() {
        if word.starts_with("Tracer") {
            assert!(rules.contains(&format!("alert: {word}\n")), "docs/tuning.md: no alert `{word}`");
        } else if word.starts_with("tracer-") {
            assert!(fs::exists(format!("{ROOT}dashboards/{word}.json")).unwrap(), "docs/tuning.md: no `{word}`");
        }
    }
}

/// A command line of ours on a page.
#[derive(Debug)]
struct Typed {
    page: String,
    /// Without the program's name.
    words: Vec<String>,
    /// In a sentence it may stop before a value: `tracer events --record`.
    is_mention: bool,
}

impl Typed {
    /// What follows the program in a line of a shell, up to the next program or what the line is for.
    fn new(page: &str, after_program: &str, is_mention: bool) -> Self {
        let line = after_program.split("  ").next().unwrap().replace('\'', "");
        let line = line.split(['|', '>', '&', '#', ';']).next().unwrap();
        // The one placeholder that has to be a number.
        let words = line.split_whitespace().map(|word| if word == "PORT" { "1" } else { word });
        Self { page: page.to_owned(), words: words.map(str::to_owned).collect(), is_mention }
    }

    fn is_wrong(&self) -> Option<clap::Error> {
        let words = std::iter::once("tracer").chain(self.words.iter().map(String::as_str));
        let error = cli::command().try_get_matches_from(words).err()?;
        let lacks_value =
            matches!(error.get(ContextKind::InvalidValue), Some(ContextValue::String(value)) if value.is_empty());
        let is_fine = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
            ErrorKind::MissingRequiredArgument => self.is_mention,
            ErrorKind::InvalidValue => self.is_mention && lacks_value,
            _ => false,
        };
        (!is_fine).then_some(error)
    }
}

/// What follows our program, as it is typed on a host, in a checkout or in the image.
fn after_program(line: &str) -> Option<&str> {
    let line = line.strip_prefix("# ").or_else(|| line.strip_prefix("$ "))?;
    let line = line.split_once(" -- /").map_or(line, |(_, in_container)| in_container);
    let (program, rest) = line.split_once(' ').unwrap_or((line, ""));
    (program == "tracer" || program.ends_with("/tracer")).then_some(rest)
}

fn typed(name: &str, page: &str) -> Vec<Typed> {
    let mut typed = Vec::new();
    let mut prose = String::new();
    let mut fence: Option<&str> = None;
    for line in page.lines() {
        match (line.trim_start().strip_prefix("```"), fence) {
            (Some(language), None) => fence = Some(language),
            (Some(_), Some(_)) => fence = None,
            (None, Some("console")) => {
                typed.extend(after_program(line.trim_start()).map(|rest| Typed::new(name, rest, false)));
            }
            (None, Some(_)) => {}
            (None, None) => prose = prose + line.trim_start() + "\n",
        }
    }
    // A paragraph at a time, so that a lone backtick spoils no more than its own.
    for words in prose.split("\n\n").flat_map(quoted) {
        typed.extend(words.strip_prefix("tracer ").map(|rest| Typed::new(name, rest, true)));
    }
    typed
}

/// The pages that tell users what to type, by their names.
fn pages() -> Vec<(String, String)> {
    let mut pages = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    for directory in ["docs", "docs/runbooks", "deploy", "dashboards"] {
        for entry in fs::read_dir(format!("{ROOT}{directory}")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(format!("{directory}/{}", path.file_name().unwrap().display()));
            }
        }
    }
    let read = |name: String| {
        let text = fs::read_to_string(format!("{ROOT}{name}")).unwrap();
        (name, text)
    };
    pages.into_iter().map(read).collect()
}

#[test]
fn what_pages_tell_to_type_is_a_command_line() {
    let typed: Vec<Typed> = pages().iter().flat_map(|(name, page)| typed(name, page)).collect();
    for typed in &typed {
        if let Some(error) = typed.is_wrong() {
            panic!("{}: tracer {}: {error}", typed.page, typed.words.join(" "));
        }
    }
    let mentions = typed.iter().filter(|typed| typed.is_mention).count();
    assert!(typed.len() - mentions >= 40 && mentions >= 40, "{} and {mentions} found", typed.len() - mentions);
}

#[test]
fn what_is_no_command_line_is_found() {
    let of = |page: &str| typed("page.md", page);
    let console = |line: &str| of(&format!("Type:\n\n```console\n{line}\n```\n"));
    for (line, words) in [
        ("# tracer events --kind drop    what drops", &["events", "--kind", "drop"][..]),
        ("$ kubectl exec POD -- /tracer doctor", &["doctor"]),
        ("# target/release/tracer run", &["run"]),
        ("$ tracer replay bug.rec | less", &["replay", "bug.rec"]),
    ] {
        let typed = console(line);
        assert!(typed.len() == 1 && typed[0].words == words && typed[0].is_wrong().is_none(), "{line}: {typed:?}");
    }
    for line in ["tracer: watching drop", "# ss -ltn", "$ cargo xtask run"] {
        assert!(console(line).is_empty(), "{line}");
    }
    assert!(of("```\n# tracer nonsense\n```\n").is_empty(), "no console");
    let mention = &of("`tracer events\n--record` writes a file.\n")[0];
    assert!(mention.words == ["events", "--record"] && mention.is_wrong().is_none(), "{mention:?}");
    for wrong in
        ["# tracer event --kind drop", "# tracer events --kind drops", "# tracer events --record", "# tracer replay"]
    {
        assert!(console(wrong)[0].is_wrong().is_some(), "{wrong}");
    }
    for wrong in ["`tracer evnts`", "`tracer events --kid drop`", "`tracer top --rows many`"] {
        assert!(of(wrong)[0].is_wrong().is_some(), "{wrong}");
    }
}

/// Limits of TCP that this tracer is about.
const LIMITS: usize = 15;

/// One limit's row of docs/coverage.md.
struct Covered {
    limit: String,
    metrics: String,
    alerts: String,
    tests: String,
}

fn coverage() -> String {
    fs::read_to_string(format!("{ROOT}docs/coverage.md")).unwrap()
}

/// The rows of the table, which are numbered from 1 on.
fn covered(page: &str) -> Vec<Covered> {
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| # ");
    let rows = page.lines().filter(is_row).enumerate().map(|(index, line)| {
        let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        let [number, limit, metrics, alerts, tests]: [String; 5] = cells.try_into().unwrap();
        assert_eq!(number, (index + 1).to_string(), "{limit}");
        Covered { limit, metrics, alerts, tests }
    });
    rows.collect()
}

/// The metrics of a cell as selectors. `_limit` after another one stands for its sibling.
fn selectors(cell: &str) -> Vec<String> {
    let is_metric = |name: &str| METRICS.iter().any(|metric| metric.name == name);
    let mut selectors: Vec<String> = Vec::new();
    for word in quoted(cell) {
        let before = selectors.last().map_or("", String::as_str);
        let (stem, _) = before.rsplit_once('_').unwrap_or_default();
        let siblings = [format!("{before}{word}"), format!("{stem}{word}")];
        let sibling = siblings.into_iter().find(|name| word.starts_with('_') && is_metric(name));
        selectors.push(sibling.unwrap_or(word));
    }
    selectors
}

/// What is wrong with a selector, or with the bare name of a histogram.
fn misnamed(selector: &str) -> Vec<String> {
    let is_whole = METRICS.iter().any(|metric| metric.name == selector);
    let judge = |names| Known::exported().misnamed(&names);
    if is_whole { Vec::new() } else { promql::names(selector).map_or_else(|error| vec![error], judge) }
}

/// Whether `module::name` is a test of `tests/live`.
fn is_live_test(path: &str) -> bool {
    let Some((module, name)) = path.split_once("::") else { return false };
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live");
    let is_built = fs::read_to_string(format!("{directory}/main.rs")).unwrap().contains(&format!("\nmod {module};\n"));
    let code = fs::read_to_string(format!("{directory}/{module}.rs")).unwrap_or_default();
    let attributes = code.split_once(&format!("\nfn {name}() {{")).map(|(before, _)| before.rsplit("\n\n").next());
    is_built && attributes.flatten().is_some_and(|attributes| attributes.contains("#[test]"))
}

#[test]
fn every_limit_has_metrics_an_alert_and_a_live_test() {
    let rows = covered(&coverage());
    assert_eq!(rows.len(), LIMITS);
    for row in rows {
        let metrics = selectors(&row.metrics);
        assert!(!metrics.is_empty() && metrics.iter().all(|metric| metric.starts_with("tracer_")), "{}", row.limit);
        assert!(row.alerts.contains("[Tracer"), "no alert on {}", row.limit);
        assert!(quoted(&row.tests).iter().any(|word| is_live_test(word)), "no live test of {}", row.limit);
    }
}

#[test]
fn metrics_and_labels_of_the_coverage_page_exist() {
    for row in covered(&coverage()) {
        for selector in selectors(&row.metrics) {
            assert_eq!(misnamed(&selector), Vec::<String>::new(), "docs/coverage.md: {selector} of {}", row.limit);
        }
    }
}

#[test]
fn alerts_of_the_coverage_page_are_shipped_and_all_are_there() {
    let page = coverage();
    let links = page.split('[').skip(1).filter_map(|link| link.split_once("](runbooks/"));
    let named: Vec<(&str, &str)> = links.filter(|(name, _)| name.starts_with("Tracer")).collect();
    let alerts: Vec<String> = rules::alerts().into_iter().map(|alert| alert.name).collect();
    for (name, rest) in &named {
        assert!(alerts.iter().any(|alert| alert == name), "docs/coverage.md: no alert {name}");
        assert!(rest.starts_with(&format!("{name}.md)")), "docs/coverage.md: {name} leads elsewhere");
    }
    for alert in alerts {
        assert!(named.iter().any(|(name, _)| *name == alert), "docs/coverage.md does not mention {alert}");
    }
}

#[test]
fn tests_of_the_coverage_page_are_live_tests() {
    let words = quoted(&coverage());
    let paths = words.iter().filter(|word| word.contains("::") && *word != "module::name");
    for path in paths {
        assert!(is_live_test(path), "docs/coverage.md: no live test {path}");
    }
}

#[test]
fn a_page_that_names_what_is_not_there_is_noticed() {
    assert_eq!(misnamed("tracer_tcp_resets_total{direction=\"sent\"}"), Vec::<String>::new());
    for wrong in
        ["tracer_tcp_resets", "tracer_tcp_resets_total{way=\"sent\"}", "tracer_tcp_resets_total{direction=\"up\"}"]
    {
        assert!(!misnamed(wrong).is_empty(), "{wrong}");
    }
    assert_eq!(selectors("`tracer_file_handles`, `_limit`")[1], "tracer_file_handles_limit");
    assert_eq!(selectors("`tracer_tcp_accept_queue_length`, `_limit`")[1], "tracer_tcp_accept_queue_limit");
    assert!(is_live_test("ports::one_destination_uses_up_the_range_until_time_wait_is_reused"));
    // Neither a module that is not there, nor a function that is no test.
    for wrong in ["nowhere::at_all", "accept_queue::no_such_test", "accept_queue::give_up", "lab::new"] {
        assert!(!is_live_test(wrong), "{wrong}");
    }
}
