//! Events for people: aligned columns, coloured where that is asked for. Pure.
//!
//! Names come from processes and files that anybody may have made, so nothing of them reaches a terminal but
//! what can be printed.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
};

use super::{clock::Clock, kind::EventKind, names::Origin};
use crate::errno;
use crate::legible::legible;
use crate::pipeline::decode::{Detail, Endpoint, Event};

const HEADINGS: [&str; 7] = ["TIME (UTC)", "KIND", "OWNER", "PROCESS", "LOCAL", "REMOTE", "STATE"];
/// Columns grow with what they hold, up to this; beyond, one line alone is out of step.
const WIDTHS_MAX: [usize; 7] = [15, 10, 48, 16, 47, 47, 12];
/// What fits most lines.
const WIDTHS: [usize; 7] = [15, 10, 20, 12, 21, 21, 11];

const KIND: usize = 1;
const BLANKS: &[u8] = &[b' '; 64];

/// Writes lines.
#[derive(Debug)]
pub struct Text {
    clock: Clock,
    color: bool,
    has_heading: bool,
    widths: [usize; 7],
    cell: String,
}

impl Text {
    /// With times of this clock.
    #[must_use]
    pub const fn new(clock: Clock, color: bool) -> Self {
        Self { clock, color, has_heading: false, widths: WIDTHS, cell: String::new() }
    }

    /// Writes one event, the first below a heading.
    pub fn write(&mut self, out: &mut impl Write, event: &Event, origin: &Origin<'_>) -> io::Result<()> {
        if !self.has_heading {
            self.has_heading = true;
            self.heading(out)?;
        }
        let kind = EventKind::of(event.detail.kind());
        for column in 0..HEADINGS.len() {
            self.cell.clear();
            // Writing to a string cannot fail.
            let _ = self.fill(column, kind, event, origin);
            if self.cell.is_empty() {
                self.cell.push('-');
            }
            let color = if self.color && column == KIND { color_of(kind) } else { "" };
            self.column(out, column, color)?;
        }
        self.cell.clear();
        let _ = write!(self.cell, "{}", About(&event.detail));
        out.write_all(self.cell.as_bytes())?;
        out.write_all(b"\n")
    }

    fn heading(&mut self, out: &mut impl Write) -> io::Result<()> {
        for (column, heading) in HEADINGS.iter().enumerate() {
            self.cell.clear();
            self.cell.push_str(heading);
            self.column(out, column, if self.color { "\x1b[1m" } else { "" })?;
        }
        let (on, off) = if self.color { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        writeln!(out, "{on}DETAIL{off}")
    }

    fn fill(&mut self, column: usize, kind: EventKind, event: &Event, origin: &Origin<'_>) -> fmt::Result {
        match column {
            0 => {
                let moment = self.clock.at(event.time_ns);
                write!(self.cell, "{}.{:06}", moment.time_of_day(), moment.nanos / 1000)
            }
            KIND => self.cell.write_str(kind.name()),
            2 => owner(&mut self.cell, origin),
            3 => printable(&mut self.cell, origin.process.unwrap_or_default()),
            4 => end(&mut self.cell, event.local),
            5 => end(&mut self.cell, event.remote),
            _ if event.state == "UNKNOWN" => Ok(()),
            _ => self.cell.write_str(event.state),
        }
    }

    /// Writes the cell and what is left of its column.
    fn column(&mut self, out: &mut impl Write, column: usize, color: &str) -> io::Result<()> {
        let length = self.cell.chars().count();
        let width = &mut self.widths[column];
        *width = (*width).max(length.min(WIDTHS_MAX[column]));
        let padding = *width - length.min(*width) + 2;
        if color.is_empty() {
            out.write_all(self.cell.as_bytes())?;
        } else {
            write!(out, "{color}{}\x1b[0m", self.cell)?;
        }
        out.write_all(&BLANKS[..padding.min(BLANKS.len())])
    }
}

/// What is amiss in red, what may become so in yellow.
const fn color_of(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Drop | EventKind::TimeWait => "\x1b[31m",
        EventKind::Retransmit | EventKind::Synack | EventKind::Connect => "\x1b[33m",
        EventKind::Reset => "\x1b[35m",
        EventKind::Listen => "\x1b[32m",
        EventKind::State => "",
    }
}

/// The most that is known of whose it is: pod, container, unit, else the namespace.
fn owner(out: &mut String, origin: &Origin<'_>) -> fmt::Result {
    if let Some(owner) = origin.owner {
        let mut parts = [&owner.namespace, &owner.pod, &owner.container].into_iter().filter(|part| !part.is_empty());
        if let Some(first) = parts.next() {
            printable(out, first)?;
            return parts.try_for_each(|part| {
                out.push('/');
                printable(out, part)
            });
        }
        if !owner.unit.is_empty() {
            return printable(out, &owner.unit);
        }
    }
    match origin.namespace {
        Some(namespace) if namespace.is_host => out.write_str("host"),
        Some(namespace) if !namespace.name.is_empty() => {
            out.push_str("netns:");
            printable(out, &namespace.name)
        }
        _ if origin.inode != 0 => write!(out, "netns:{}", origin.inode),
        _ => Ok(()),
    }
}

fn end(out: &mut String, end: Option<Endpoint>) -> fmt::Result {
    match end {
        None => Ok(()),
        // As ss shows it.
        Some(Endpoint { address, port: 0 }) if address.is_ipv6() => write!(out, "[{address}]:*"),
        Some(Endpoint { address, port: 0 }) => write!(out, "{address}:*"),
        Some(Endpoint { address, port }) => write!(out, "{}", std::net::SocketAddr::new(address, port)),
    }
}

/// Text of unknown origin.
fn printable(out: &mut String, text: &str) -> fmt::Result {
    out.write_str(&legible(text))
}

/// The detail of an event in words.
struct About<'a>(&'a Detail);

impl fmt::Display for About<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Detail::ListenDrop { reason, queue_length, queue_limit, syn_queue_length } => {
                write!(out, "{reason}, queue {queue_length}/{queue_limit}, SYN queue {syn_queue_length}")
            }
            Detail::Retransmit { cause, role, segments, error } => {
                write!(out, "cause {cause}, {role}, {segments} segment{}", if *segments == 1 { "" } else { "s" })?;
                failure(out, *error)
            }
            Detail::SynackRetransmit => out.write_str("SYN-ACK again"),
            Detail::Connect { result, retries, error } => {
                write!(out, "{result}, retry {retries}")?;
                failure(out, *error)
            }
            Detail::TimeWaitOverflow { confirmed: true } => out.write_str("no room in TIME_WAIT"),
            Detail::TimeWaitOverflow { confirmed: false } => out.write_str("TIME_WAIT at its limit, not confirmed"),
            Detail::Listen { opened: true, tgid, .. } => write!(out, "opened by process {tgid}"),
            Detail::Listen { opened: false, .. } => out.write_str("closed"),
            Detail::Reset { direction, reason } => write!(out, "{direction}, reason {reason}"),
            Detail::State { old, new } => write!(out, "{old} -> {new}"),
        }
    }
}

fn failure(out: &mut fmt::Formatter<'_>, error: u16) -> fmt::Result {
    match (error, errno::name(error)) {
        (0, _) => Ok(()),
        (_, Some(name)) => write!(out, ", {name}"),
        (number, None) => write!(out, ", errno {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{events::names::Namespace, pipeline::attribute::Owner};

    fn event(detail: Detail) -> Event {
        let end = |text: &str| Some(Endpoint { address: text.parse().unwrap(), port: 80 });
        let (local, remote) = (end("10.0.0.1"), end("fd00::1"));
        Event { time_ns: 1_234_567, netns: 1, netns_inum: 9, cgroup: 1, state: "LISTEN", local, remote, detail }
    }

    fn written(color: bool, event: &Event, origin: &Origin<'_>) -> Vec<String> {
        let mut out = Vec::new();
        Text::new(Clock::new(1_700_000_000_000_000_000), color).write(&mut out, event, origin).unwrap();
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn columns_stand_below_their_headings() {
        let lines = written(false, &event(Detail::SynackRetransmit), &Origin { inode: 9, ..Origin::default() });
        let [heading, line] = &lines[..] else { panic!("{lines:?}") };
        for (heading_text, text) in [
            ("TIME", "22:13:20.001234"),
            ("KIND", "synack"),
            ("OWNER", "netns:9"),
            ("PROCESS", "-"),
            ("LOCAL", "10.0.0.1:80"),
            ("REMOTE", "[fd00::1]:80"),
            ("STATE", "LISTEN"),
            ("DETAIL", "SYN-ACK again"),
        ] {
            assert_eq!(heading.find(heading_text), line.find(text), "{heading}\n{line}");
        }
    }

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        let event = event(Detail::TimeWaitOverflow { confirmed: true });
        assert!(!written(false, &event, &Origin::default()).concat().contains('\x1b'));
        let lines = written(true, &event, &Origin::default());
        assert!(lines[0].starts_with("\x1b[1mTIME (UTC)\x1b[0m") && lines[1].contains("\x1b[31mtime_wait\x1b[0m"));
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let owner = Owner { unit: "a\x1b[2Jb\u{202e}c.service".into(), ..Owner::default() };
        let origin = Origin { owner: Some(&owner), process: Some("x\ny \"z\""), ..Origin::default() };
        let lines = written(false, &event(Detail::SynackRetransmit), &origin);
        assert_eq!(lines.len(), 2);
        assert!(lines[1].contains("a\u{FFFD}[2Jb\u{FFFD}c.service"), "{}", lines[1]);
        assert!(lines[1].contains("x\u{FFFD}y \"z\""), "{}", lines[1]);
    }

    #[test]
    fn the_owner_is_the_most_that_is_known() {
        let host = Namespace { inode: 1, is_host: true, ..Namespace::default() };
        let named = Namespace { inode: 9, name: "blue".into(), ..Namespace::default() };
        let text = |text: &str| text.to_owned();
        let pod = Owner { namespace: text("shop"), pod: text("web-0"), container: text("app"), unit: text("u") };
        let unit = Owner { unit: text("a.service"), ..Owner::default() };
        for (owner_of, namespace, expected) in [
            (Some(&pod), Some(&named), "shop/web-0/app"),
            (Some(&unit), Some(&named), "a.service"),
            (None, Some(&named), "netns:blue"),
            (None, Some(&host), "host"),
            (None, None, "netns:9"),
        ] {
            let mut cell = String::new();
            owner(&mut cell, &Origin { inode: 9, namespace, owner: owner_of, process: None }).unwrap();
            assert_eq!(cell, expected);
        }
    }

    #[test]
    fn an_end_without_a_port_says_so() {
        for (address, port, expected) in
            [("10.0.0.1", 0, "10.0.0.1:*"), ("fd00::1", 0, "[fd00::1]:*"), ("fd00::1", 8, "[fd00::1]:8")]
        {
            let mut cell = String::new();
            end(&mut cell, Some(Endpoint { address: address.parse().unwrap(), port })).unwrap();
            assert_eq!(cell, expected);
        }
    }

    #[test]
    fn details_are_said_in_words() {
        for (detail, expected) in [
            (
                Detail::ListenDrop { reason: "syn_queue_full", queue_length: 6, queue_limit: 5, syn_queue_length: 2 },
                "syn_queue_full, queue 6/5, SYN queue 2",
            ),
            (
                Detail::Retransmit { cause: "rto", role: "server", segments: 2, error: 105 },
                "cause rto, server, 2 segments, ENOBUFS",
            ),
            (Detail::Connect { result: "refused", retries: 3, error: 111 }, "refused, retry 3, ECONNREFUSED"),
            (Detail::Connect { result: "other", retries: 0, error: 200 }, "other, retry 0, errno 200"),
            (Detail::Reset { direction: "sent", reason: "no_socket" }, "sent, reason no_socket"),
            (Detail::State { old: "SYN_SENT", new: "ESTABLISHED" }, "SYN_SENT -> ESTABLISHED"),
            (Detail::Listen { opened: false, tgid: 0, process: String::new() }, "closed"),
        ] {
            assert_eq!(About(&detail).to_string(), expected);
        }
    }
}
