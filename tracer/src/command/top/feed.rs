//! Where readings come from: a running agent, a file that somebody writes anew, or a look of the command's own.
//!
//! Owns what it takes to read again, and says how the source is called. Nothing is shown here.

use std::{
    fs, io,
    io::{IsTerminal, Write},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::super::{
    run::start_log,
    source::{self, AGENT_DEFAULT},
};
use crate::{
    advise::Origin,
    agent::snapshot::Look,
    config::{Config, LogLevel},
    failure::Failure,
    top::{
        header::{Source, Trouble},
        reading::{Building, Reading, ReadingError},
    },
};

/// Passes of an own look come with the refreshes, but not more often than this.
const PASS_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// A source that can be read again.
pub(super) struct Feed {
    origin: Origin,
    look: Option<Look>,
    started: Instant,
    /// When the file was last written that was read last.
    written: Option<Duration>,
}

impl Feed {
    /// Opens what `from` names and reads it once. A file or an agent that is not there is an error here, and
    /// nothing but trouble later.
    pub(super) fn open(
        from: Option<&str>,
        is_own: bool,
        config: Config,
        interval: Duration,
        is_screen: bool,
    ) -> Result<(Self, Reading), Failure> {
        let mut feed = Self {
            origin: Origin::Agent(AGENT_DEFAULT.to_owned()),
            look: None,
            started: Instant::now(),
            written: None,
        };
        if let Some(from) = from {
            feed.origin = source::origin(from);
            return feed.ask(from).map(|reading| (feed, reading));
        }
        // One that answers and refuses is not helped by a second instance beside it.
        if !is_own && source::agent_answers() {
            return feed.ask(AGENT_DEFAULT).map(|reading| (feed, reading));
        }
        let why = if is_own { "--own".to_owned() } else { format!("{AGENT_DEFAULT}: no agent") };
        feed.look(config, interval, is_screen, &why).map_err(|failure| Failure {
            message: format!("{why}; a look of its own: {}", failure.message),
            ..failure
        })?;
        let first = feed.read()?.ok_or_else(|| Failure::other("the look gave nothing"))?;
        Ok((feed, first))
    }

    /// Attaches to the kernel and lets a first pass end.
    fn look(&mut self, config: Config, interval: Duration, is_screen: bool, why: &str) -> Result<(), Failure> {
        // On a screen there is no room for a log.
        if !is_screen {
            start_log(LogLevel::Warn);
        }
        let progress = io::stderr().is_terminal();
        if progress {
            // For people alone, who may have left.
            let _ = write!(io::stderr(), "{why}: attaching for a look of its own …");
        }
        let config = Config { pass_interval: interval.max(PASS_INTERVAL_MIN), ..config };
        let look = Look::start(config).and_then(|look| look.await_pass().map(|()| look));
        if progress {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        self.origin = Origin::Snapshot;
        self.look = Some(look?);
        Ok(())
    }

    /// The next reading; none if the file is the same as before.
    pub(super) fn read(&mut self) -> Result<Option<Reading>, Failure> {
        if let Some(look) = &self.look {
            let text = look.metrics()?;
            let mut building = Building::default();
            let reading = building.feed(&text).and_then(|()| building.end(self.started.elapsed()));
            return reading.map(Some).map_err(|error| self.refused(&error));
        }
        let Some(from) = self.origin.place().map(ToOwned::to_owned) else { return Ok(None) };
        let before = self.written;
        if matches!(self.origin, Origin::File(_)) && before.is_some() && written(&from)? == before {
            return Ok(None);
        }
        self.ask(&from).map(Some)
    }

    /// Reads what an agent, a file or standard input gives.
    fn ask(&mut self, from: &str) -> Result<Reading, Failure> {
        let mut building = Building::default();
        let fed = source::feed(from, |piece| building.feed(piece))?;
        let at = self.time()?;
        fed.and_then(|()| building.end(at)).map_err(|error| self.refused(&error))
    }

    /// When what was just read was written, on the source's clock.
    fn time(&mut self) -> Result<Duration, Failure> {
        if let Origin::File(path) = &self.origin {
            self.written = written(path)?;
            // Pipes and the like have no such time.
            return Ok(self.written.unwrap_or_else(|| self.started.elapsed()));
        }
        Ok(self.started.elapsed())
    }

    fn refused(&self, error: &ReadingError) -> Failure {
        let origin = &self.origin;
        Failure::usage(&format_args!("{origin} gives {error}; --from takes the /metrics of tracer run"))
    }

    /// Whether the command itself is attached.
    pub(super) const fn is_own_look(&self) -> bool {
        self.look.is_some()
    }

    /// Lets a pass end that has not ended yet, where passes are the command's own.
    pub(super) fn await_pass(&self) -> Result<(), Failure> {
        self.look.as_ref().map_or(Ok(()), Look::await_pass)
    }

    /// What the header says of it.
    pub(super) fn source(&self, age: Duration, trouble: Option<Trouble>) -> Source {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let name = match &self.origin {
            Origin::Snapshot => "a look of its own at this kernel".to_owned(),
            origin => origin.to_string(),
        };
        Source { name, is_own_look: self.is_own_look(), now, age, trouble }
    }

    /// Detaches, where the command itself is attached.
    pub(super) fn end(self) -> Result<(), Failure> {
        self.look.map_or(Ok(()), Look::end)
    }
}

/// When a file was last written, since the Unix epoch.
fn written(path: &str) -> Result<Option<Duration>, Failure> {
    let metadata = fs::metadata(path).map_err(|error| Failure::usage(&format_args!("cannot read {path}: {error}")))?;
    let written = metadata.is_file().then(|| metadata.modified().ok()).flatten();
    Ok(written.and_then(|time| time.duration_since(UNIX_EPOCH).ok()))
}
