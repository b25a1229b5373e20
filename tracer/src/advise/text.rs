//! Advice for people: one block for each finding, readable at 80 columns, most urgent first.
//!
//! Names in it were chosen by anybody, so no control character passes: a terminal would obey it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::finding::{Evidence, Finding, Severity, Step};
use super::{Advice, FINDINGS_MAX, Ruled, Source, Untold};
use crate::legible::legible;

/// Words are wrapped here. Commands are not: they are to be copied.
const WIDTH: usize = 80;
/// Findings of one rule and severity that are shown unless all are asked for.
const SHOWN: usize = 5;
/// Where the words of a finding begin.
const INDENT: &str = "       ";

/// How to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// With colours, for a terminal.
    pub color: bool,
    /// Every finding, and the rules that could not judge.
    pub verbose: bool,
}

/// Writes the advice.
pub fn write(out: &mut impl Write, source: &Source, advice: &Advice, style: Style) -> io::Result<()> {
    write_head(out, source, advice)?;
    let mut kinds: BTreeMap<(&str, Severity), usize> = BTreeMap::new();
    let mut hidden = 0;
    for ruled in &advice.findings {
        let of_kind = kinds.entry((ruled.rule.id, ruled.finding.severity)).or_default();
        *of_kind += 1;
        if !style.verbose && *of_kind > SHOWN {
            hidden += 1;
            continue;
        }
        writeln!(out)?;
        write_finding(out, ruled, style)?;
    }
    if hidden > 0 {
        writeln!(out, "\n{hidden} more of the same kinds; --verbose shows all")?;
    }
    if !advice.left_out.is_empty() {
        let left_out = advice.left_out.len();
        writeln!(out, "\n{left_out} findings are left out: {FINDINGS_MAX} of each rule are kept, the most urgent")?;
    }
    write_untold(out, &advice.untold, style)
}

fn write_head(out: &mut impl Write, source: &Source, advice: &Advice) -> io::Result<()> {
    let counts = [(Severity::Binds, "binds"), (Severity::Risk, "at risk"), (Severity::Note, "to know")];
    let counts = counts.map(|(severity, word)| format!("{} {word}", advice.count(severity)));
    writeln!(out, "{}", counts.join(", "))?;
    let mut seen = vec![format!("seen by {}", source.origin)];
    if let Some(seconds) = source.seconds {
        seen.push(format!("in {}", super::amount::seconds(whole(seconds))));
    }
    if let Some(since) = source.since {
        let since = std::time::UNIX_EPOCH + std::time::Duration::from_secs(since);
        seen.push(format!("since {}", humantime::format_rfc3339_seconds(since)));
    }
    write_wrapped(out, "", "", &seen.join(" "))
}

#[expect(clippy::cast_precision_loss, reason = "no agent runs for 2^53 seconds")]
const fn whole(seconds: u64) -> f64 {
    seconds as f64
}

fn write_finding(out: &mut impl Write, Ruled { rule, finding }: &Ruled, style: Style) -> io::Result<()> {
    let mark = painted(&format!("{:<6}", finding.severity.name()), finding.severity, style.color);
    writeln!(out, "{mark} {}", rule.id)?;
    write_wrapped(out, INDENT, INDENT, &finding.subject.describe())?;
    write_wrapped(out, INDENT, INDENT, &finding.summary)?;
    write_evidence(out, finding)?;
    for (number, step) in finding.remedy.iter().enumerate() {
        write_step(out, if number == 0 { "  do   " } else { INDENT }, step)?;
    }
    write_wrapped(out, "  why  ", INDENT, &format!("{}; docs/advise.md", rule.background))
}

/// Numbers in a column of their own.
fn write_evidence(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let facts: Vec<String> = finding.evidence.iter().map(|evidence| legible(&evidence.fact).into_owned()).collect();
    let width = facts.iter().map(|fact| fact.chars().count()).max().unwrap_or(0);
    for (number, (fact, evidence)) in facts.iter().zip(&finding.evidence).enumerate() {
        let start = if number == 0 { "  seen " } else { INDENT };
        writeln!(out, "{start}{fact:<width$}  {}", amount(evidence))?;
    }
    Ok(())
}

/// The number with its unit, and how much of it time alone will cure.
fn amount(Evidence { value, unit, destination, .. }: &Evidence) -> String {
    let number = unit.show(*value);
    match destination.as_ref().map_or(0, |destination| destination.time_wait) {
        0 => number,
        time_wait => format!("{number}, {time_wait} in TIME_WAIT"),
    }
}

fn write_step(out: &mut impl Write, start: &str, step: &Step) -> io::Result<()> {
    write_wrapped(out, start, INDENT, &step.text)?;
    match &step.command {
        Some(command) => writeln!(out, "{INDENT}  {}", legible(command)),
        None => Ok(()),
    }
}

fn write_untold(out: &mut impl Write, untold: &[Untold], style: Style) -> io::Result<()> {
    if untold.is_empty() {
        return Ok(());
    }
    let rules = if untold.len() == 1 { "1 rule".to_owned() } else { format!("{} rules", untold.len()) };
    if !style.verbose {
        return writeln!(out, "\n{rules} could not judge for want of facts; --verbose lists them");
    }
    writeln!(out, "\n{rules} could not judge for want of:")?;
    for Untold { rule, missing } in untold {
        writeln!(out, "  {}", rule.id)?;
        write_wrapped(out, "    ", "    ", &missing.join(", "))?;
    }
    Ok(())
}

/// Writes words in lines of [`WIDTH`], the first after `start` and others after `next`.
fn write_wrapped(out: &mut impl Write, start: &str, next: &str, words: &str) -> io::Result<()> {
    let text = legible(words);
    let mut line = start.to_owned();
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(out, "{}", line.trim_end())?;
            next.clone_into(&mut line);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    writeln!(out, "{}", line.trim_end())
}

fn painted(word: &str, severity: Severity, color: bool) -> String {
    let code = match severity {
        _ if !color => return word.to_owned(),
        Severity::Binds => "1;31",
        Severity::Risk => "1;33",
        Severity::Note => "1;36",
    };
    format!("\x1b[{code}m{word}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::super::destinations::Destinations;
    use super::super::exposition::Exposition;
    use super::super::facts::Facts;
    use super::super::{Origin, Source};
    use super::*;

    const TEXT: &str = "\
        tracer_netns_info{netns=\"4026532871\",name=\"blue\"} 1\n\
        tracer_sysctl_value{netns=\"4026532871\",name=\"net.core.somaxconn\",index=\"0\"} 128\n\
        tracer_sysctl_value{netns=\"host\",name=\"net.core.somaxconn\",index=\"0\"} 128\n\
        tracer_tcp_accept_queue_limit{netns=\"4026532871\",process=\"web\",address=\"::\",port=\"80\"} 128\n\
        tracer_tcp_accept_queue_length{netns=\"4026532871\",process=\"web\",address=\"::\",port=\"80\"} 129\n\
        tracer_tcp_listen_drops_total{netns=\"4026532871\",process=\"web\",address=\"::\",port=\"80\",reason=\"accept_queue_full_syn\"} 312\n";

    fn source() -> Source {
        Source { origin: Origin::Agent("http://[::1]:9795".into()), since: Some(1_700_000_000), seconds: Some(3661) }
    }

    fn shown(text: &str, style: Style) -> String {
        let advice = Advice::on(&Facts::new(Exposition::parse(text).unwrap(), None));
        let mut out = Vec::new();
        write(&mut out, &source(), &advice, style).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_finding_is_a_block_with_evidence_and_remedy() {
        let expected = "\
1 binds, 0 at risk, 0 to know
seen by the agent at http://[::1]:9795 in 1h 1m 1s since 2023-11-14T22:13:20Z

binds  accept_queue_clamped
       netns 4026532871 (blue), process web, [::]:80
       The accept queue was full and dropped handshakes; somaxconn limits it.
  seen accept queue limit          128 connections
       net.core.somaxconn          128
       accept queue length now     129 connections
       dropped, accept queue full  312 packets
  do   Raise the limit, which is for calls of listen() from then on.
         ip netns exec blue sysctl -w net.core.somaxconn=1024
       Restart web: an open socket keeps its limit until listen() is called
       again, and gets no more than the backlog it asks for.
  why  document 004, section 4.2; document 002; docs/advise.md

";
        let shown = shown(TEXT, Style::default());
        assert!(shown.starts_with(expected), "{shown}");
        assert!(
            shown[expected.len()..].ends_with(" rules could not judge for want of facts; --verbose lists them\n"),
            "{shown}"
        );
    }

    #[test]
    fn destinations_stand_in_the_column_of_facts() {
        let text = "tracer_tcp_ephemeral_ports_used{netns=\"host\"} 90\ntracer_tcp_ephemeral_ports_available{netns=\"host\"} 100\n";
        let status = r#"{ "ports": [{ "netns": "host", "destinations": [
            { "source": "10.0.0.1", "destination": "10.0.0.2:80", "used": 90, "time_wait": 80 },
            { "source": "10.0.0.1", "destination": "10.0.0.3:80", "used": 1, "time_wait": 0 }] }] }"#;
        let facts = Facts::new(Exposition::parse(text).unwrap(), None).beside(Destinations::parse(status));
        let mut out = Vec::new();
        write(&mut out, &source(), &Advice::on(&facts), Style::default()).unwrap();
        let expected = "
  seen ports used by one destination  90 ports
       ports in the range             100 ports
       now to 10.0.0.2:80             90 ports, 80 in TIME_WAIT
       now to 10.0.0.3:80             1 port
";
        let shown = String::from_utf8(out).unwrap();
        assert!(shown.contains(expected), "{shown}");
    }

    #[test]
    fn verbose_lists_what_could_not_be_judged() {
        let text = shown(TEXT, Style { verbose: true, ..Style::default() });
        assert!(text.contains("\n  keepalive\n    --lb-idle, net.ipv4.tcp_keepalive_time,"), "{text}");
        assert!(!text.contains("--verbose"), "{text}");
    }

    #[test]
    fn no_word_passes_the_last_column_and_no_name_steers_the_terminal() {
        let text = TEXT.replace("process=\"web\"", "process=\"\u{1b}[2Jevil\u{7}\"");
        let text = shown(&text, Style { verbose: true, ..Style::default() });
        assert!(!text.contains(['\u{1b}', '\u{7}']) && text.contains("[2Jevil"), "{text:?}");
        for line in text.lines().filter(|line| !line.starts_with("         ")) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn colours_are_for_those_who_ask() {
        assert!(
            shown(TEXT, Style { color: true, ..Style::default() })
                .contains("\x1b[1;31mbinds \x1b[0m accept_queue_clamped\n")
        );
        assert!(!shown(TEXT, Style::default()).contains('\x1b'));
    }

    #[test]
    fn many_of_a_kind_are_cut_short() {
        let (shared, listener) = TEXT.split_at(TEXT.find("tracer_tcp").unwrap());
        let listeners = (1..=8).map(|port| listener.replace("\"80\"", &format!("\"{port}\"")));
        let text = shared.to_owned() + &listeners.collect::<String>();
        let short = shown(&text, Style::default());
        assert_eq!(short.matches("accept_queue_clamped").count(), SHOWN);
        assert!(
            short.starts_with("8 binds") && short.contains("\n3 more of the same kinds; --verbose shows all\n"),
            "{short}"
        );
        assert_eq!(
            shown(&text, Style { verbose: true, ..Style::default() }).matches("accept_queue_clamped").count(),
            8
        );
    }

    #[test]
    fn what_is_beyond_all_reading_is_left_out_and_counted() {
        let (shared, listener) = TEXT.split_at(TEXT.find("tracer_tcp").unwrap());
        let listeners = (1..=1200).map(|port| listener.replace("\"80\"", &format!("\"{port}\"")));
        let text = shown(&(shared.to_owned() + &listeners.collect::<String>()), Style { verbose: true, color: false });
        assert_eq!(text.matches("\nbinds  accept_queue_clamped").count(), 1000);
        assert!(text.starts_with("1200 binds"), "{text:.100}");
        assert!(text.contains("\n200 findings are left out: 1000 of each rule are kept, the most urgent\n"));
    }

    #[test]
    fn nothing_found_is_said() {
        let text = shown("", Style::default());
        assert!(text.starts_with("0 binds, 0 at risk, 0 to know\nseen by "), "{text}");
    }
}
