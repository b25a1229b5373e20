//! The stages between a record and a line, joined: decode, origin, filter, format, count.
//!
//! The live view and the replay of a recording feed the same stream. Pure but for what is written to `out`.

use std::{
    io::{self, Write},
    ops::ControlFlow,
    time::Duration,
};

use tracer_ebpf::event::Kind;

use super::{
    filter::Filter,
    json::Json,
    names::Names,
    summary::{Loss, Summary},
    text::Text,
};
use crate::pipeline::decode::{DecodeError, Event};

/// Forms of a line.
#[derive(Debug)]
pub enum Format {
    /// For people.
    Text(Text),
    /// For scripts.
    Json(Json),
}

/// Shows events on `out`.
pub struct Stream<W> {
    /// Whose events are.
    pub names: Names,
    filter: Filter,
    format: Format,
    out: W,
    /// Events still to be shown; `None` = no limit.
    left: Option<u64>,
    /// A kind that is there for its names alone unless the filter asks for it.
    silent: Option<Kind>,
    summary: Summary,
}

impl<W: Write> Stream<W> {
    /// Shows up to `count` events that pass the filter.
    pub fn new(filter: Filter, format: Format, out: W, count: Option<u64>) -> Self {
        Self { names: Names::default(), filter, format, out, left: count, silent: None, summary: Summary::default() }
    }

    /// Does not count events of a kind that nobody asked for.
    #[must_use]
    pub fn silent_about(mut self, kind: Kind) -> Self {
        self.silent = Some(kind);
        self
    }

    /// Shows an event if it passes; breaks after the last one that is wanted.
    pub fn show(&mut self, event: &Event) -> io::Result<ControlFlow<()>> {
        let kind = event.detail.kind();
        let origin = self.names.origin(event);
        if !self.filter.passes(event, &origin) {
            if self.silent != Some(kind) || self.filter.has_kind(event) {
                self.summary.filter_out();
            }
            return Ok(ControlFlow::Continue(()));
        }
        match &mut self.format {
            Format::Text(text) => text.write(&mut self.out, event, &origin)?,
            Format::Json(json) => json.write(&mut self.out, event, &origin)?,
        }
        self.summary.show(kind);
        let Some(left) = &mut self.left else { return Ok(ControlFlow::Continue(())) };
        *left = left.saturating_sub(1);
        Ok(if *left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Counts a record that could not be decoded.
    pub fn fail(&mut self, error: DecodeError) {
        self.summary.fail(error);
    }

    /// Hands on what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The lines that end a run.
    #[must_use]
    pub fn summary(&self, losses: &[Loss], took: Option<Duration>) -> Vec<String> {
        self.summary.lines(losses, took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        events::{clock::Clock, kind::EventKind},
        pipeline::decode::Detail,
    };

    fn event(detail: Detail) -> Event {
        Event { time_ns: 0, netns: 1, netns_inum: 1, cgroup: 0, state: "LISTEN", local: None, remote: None, detail }
    }

    fn stream(kinds: &[EventKind], count: Option<u64>) -> Stream<Vec<u8>> {
        let filter = Filter { kinds: kinds.to_vec(), ..Filter::default() };
        Stream::new(filter, Format::Json(Json::new(Clock::new(0))), Vec::new(), count)
    }

    #[test]
    fn it_ends_after_the_last_that_is_wanted() {
        let mut stream = stream(&[EventKind::Synack], Some(2));
        let reset = Detail::Reset { direction: "sent", reason: "unknown" };
        for (detail, flow) in [
            (Detail::SynackRetransmit, ControlFlow::Continue(())),
            (reset, ControlFlow::Continue(())),
            (Detail::SynackRetransmit, ControlFlow::Break(())),
        ] {
            assert_eq!(stream.show(&event(detail)).unwrap(), flow);
        }
        assert_eq!(String::from_utf8_lossy(&stream.out).lines().count(), 2);
        assert_eq!(stream.summary(&[], None), ["2 shown (synack 2), 1 filtered out, 0 lost"]);
    }

    #[test]
    fn what_came_for_its_names_is_not_said_to_be_filtered_out() {
        let opened = || event(Detail::Listen { opened: true, tgid: 1, process: "x".into() });
        let mut silent = stream(&[EventKind::Synack], None).silent_about(Kind::Listen);
        let _ = silent.show(&opened()).unwrap();
        assert_eq!(silent.summary(&[], None), ["0 shown, 0 filtered out, 0 lost"]);
        let mut asked = stream(&[EventKind::Listen], None).silent_about(Kind::Listen);
        asked.filter.ports = vec![1];
        let _ = asked.show(&opened()).unwrap();
        assert_eq!(asked.summary(&[], None), ["0 shown, 1 filtered out, 0 lost"]);
    }
}
