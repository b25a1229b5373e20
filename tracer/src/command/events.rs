//! `tracer events`: shows on a terminal what happens to TCP on this node, as it happens.
//!
//! Owns the flags, the recording's file and the end of it all. What comes is the running agent's ([`agent`]), or that of
//! an instance of the programs of its own, without metrics ([`crate::agent::watch`]); the stages from a record to a line
//! are [`crate::events`]'.

mod agent;
mod source;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    ops::ControlFlow,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use tracer_ebpf::event::Kind;

use self::{agent::Agent, source::Source};
use super::{
    leave::{self, Caller},
    run::start_log,
    selection::{Selection, say, writing_failed},
    stop::Stop,
};
use crate::{
    agent::watch::{Audience, Meet, Watch},
    config::{Config, Defaults, Flags, LISTEN_DEFAULT, LogLevel, parse_time},
    events::{
        attendance,
        clock::Clock,
        filter::Netns,
        kind::EventKind,
        names::Name,
        recording::{End, Preamble, Writer},
        stream::Stream,
    },
    failure::Failure,
    pipeline::decode::decode,
    progress::Progress,
};

/// Somebody looks at these events, so none is withheld, and the ring has room for some while of a busy node's. What a
/// server says at its usual level is of no interest here.
pub const DEFAULTS: Defaults =
    Defaults { ring_bytes: 8 << 20, rate_limit: 0, log_level: LogLevel::Warn, ..Defaults::AGENT };
/// Kinds that are shown unless others are asked for.
pub const KINDS: &[EventKind] = EventKind::USUAL;

/// Flags of `tracer events`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    selection: Selection,
    /// End after so long; without it, where there is no terminal, after 10m
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Attach programs of the command's own, whether an agent runs or not
    #[arg(long)]
    own: bool,
    /// The agent's socket [default: /run/tracer/9795.sock, or the only one there]
    #[arg(long, value_name = "PATH", conflicts_with = "own")]
    socket: Option<PathBuf>,
    /// Write all that the ring delivers to a new file, whatever is shown
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// End when the file has grown to this
    #[arg(long, value_name = "MIB", default_value_t = 1024, requires = "record", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    record_max: u64,
    #[command(flatten, next_help_heading = "Options of tracer run, as far as they are about hooks and names")]
    flags: Flags,
}

/// A watch of no time would load everything to show nothing.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    let refusal = "no time shows no events: choose more, as 30s, or leave it out to watch until Ctrl-C";
    if time.is_zero() { Err(refusal.to_owned()) } else { Ok(time) }
}

/// Watches until told to end.
pub fn run(options: &Options) -> Result<ExitCode, Failure> {
    let config = Config::load_or(&options.flags, DEFAULTS).map_err(|error| Failure::usage(&error))?;
    start_log(config.log_level);
    let stop = Stop::on_signals()?;
    let asked = &options.selection.kinds;
    let kinds = if asked.is_empty() { KINDS } else { asked };
    let mut source = open(options, &config, kinds)?;
    check_names(&options.selection.namespaces, &source)?;
    let preamble = source.preamble();
    let clock = Clock::new(preamble.clock_offset_ns);
    let recorder =
        options.record.as_deref().map(|path| Recorder::new(path, &preamble, options.record_max)).transpose()?;
    let caller = Caller::new(options.duration.is_some());
    let duration = options.duration.or_else(|| (!leave::has_terminal()).then_some(leave::WITHOUT_TERMINAL));
    announce(&source, kinds, duration);
    let started = Instant::now();
    let mut screen = Screen {
        stream: options.selection.stream(kinds, clock, stop.clone()).silent_about(Kind::Listen),
        recorder,
        stop,
        caller,
        until: duration.and_then(|duration| started.checked_add(duration)),
        end: None,
    };
    let ring = source.run(&mut screen);
    ring.map_err(|error| Failure::other(format!("the event ring failed: {error}")))?;
    screen.finish(&mut source, kinds, started)
}

/// The running agent, unless programs of one's own are asked for, by flag or by what only these can do.
fn open(options: &Options, config: &Config, kinds: &[EventKind]) -> Result<Source, Failure> {
    let path = options.socket.clone().unwrap_or_else(default_socket);
    let why = match own_reason(options, config, kinds) {
        Some(why) => why.to_owned(),
        None => match Agent::find(&path) {
            Ok(stream) => return Ok(Source::Agent(Box::new(Agent::ask(stream, &path, config, kinds)?))),
            Err(why) if options.socket.is_some() => {
                return Err(Failure::unusable(&format_args!(
                    "{why}: start it (tracer run), run this as root, or leave out --socket"
                )));
            }
            Err(why) => why,
        },
    };
    // Loads and attaches, and says so where that takes long.
    let progress = Progress::new("loading and attaching hooks", None);
    let watch = Watch::open(config, kinds)?;
    drop(progress);
    if !options.own {
        say(&format!("{why}: programs of this command's own are attached"));
    }
    Ok(Source::Own(Box::new(watch)))
}

/// The socket of the agent that serves on the usual port, or else of the only one.
fn default_socket() -> PathBuf {
    let usual = attendance::socket(LISTEN_DEFAULT.port());
    let all = fs::read_dir(attendance::DIRECTORY).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut sockets = all.filter(|path| path.extension().is_some_and(|extension| extension == "sock"));
    match (usual.exists(), sockets.next(), sockets.next()) {
        (false, Some(only), None) => only,
        _ => usual,
    }
}

/// Why the agent cannot serve, if so: changes of state are not on its ring, and its hooks and ring are as it was told.
fn own_reason(options: &Options, config: &Config, kinds: &[EventKind]) -> Option<&'static str> {
    if options.own {
        Some("--own is given")
    } else if kinds.contains(&EventKind::State) {
        Some("no agent watches changes of state")
    } else if !config.disable_hooks.is_empty()
        || (config.ring_bytes, config.rate_limit) != (DEFAULTS.ring_bytes, DEFAULTS.rate_limit)
    {
        Some("hooks or a ring are asked for")
    } else {
        None
    }
}

/// A name that nothing has is a mistake, not a filter.
fn check_names(wanted: &[Netns], source: &Source) -> Result<(), Failure> {
    let names = source.namespace_names();
    let missing = wanted.iter().find_map(|netns| match netns {
        Netns::Name(name) if !names.contains(name) => Some(name),
        _ => None,
    });
    missing.map_or(Ok(()), |name| {
        Err(Failure::usage(&format_args!(
            "no network namespace is named {name:?} under /run/netns; ip netns list shows the names, \
             and readlink /proc/PID/ns/net the number of one without"
        )))
    })
}

fn announce(source: &Source, kinds: &[EventKind], duration: Option<Duration>) {
    for (kind, cause) in source.unseen(kinds) {
        let why = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
        say(&format!("no {kind} events here{why}; tracer doctor says more"));
    }
    let kinds: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    let end = duration.map(|duration| format!(", or {} (--duration)", humantime::format_duration(duration)));
    say(&format!("watching {}; Ctrl-C ends it{}", kinds.join(", "), end.unwrap_or_default()));
}

/// Why the watch ends.
#[derive(Debug)]
enum Ending {
    /// As asked: by a signal, the time, or the number of events.
    Asked,
    /// Enough were shown, so what is left in the ring is of no interest.
    Enough,
    /// The reader of standard output has left, and wants no summary either.
    Deserted,
    /// The recording is as long as it may be.
    Full,
    /// Something cannot be written.
    Failed(Failure),
}

/// Shows and records what comes.
struct Screen<W: Write> {
    stream: Stream<W>,
    recorder: Option<Recorder>,
    stop: Stop,
    caller: Caller,
    until: Option<Instant>,
    end: Option<Ending>,
}

impl<W: Write> Screen<W> {
    fn end(&mut self, ending: Ending) -> ControlFlow<()> {
        self.end.get_or_insert(ending);
        ControlFlow::Break(())
    }

    fn cannot_write(&mut self, error: &io::Error) -> ControlFlow<()> {
        self.end(writing_failed(error).map_or(Ending::Deserted, Ending::Failed))
    }

    fn record(&mut self, record: &[u8]) -> ControlFlow<()> {
        let Some(recorder) = &mut self.recorder else { return ControlFlow::Continue(()) };
        recorder.keep(|writer| writer.record(record));
        match recorder.ending() {
            Some(ending) => self.end(ending),
            None => ControlFlow::Continue(()),
        }
    }

    /// Detaches, shows the rest, and says how it went.
    fn finish(mut self, source: &mut Source, kinds: &[EventKind], started: Instant) -> Result<ExitCode, Failure> {
        let took = started.elapsed();
        let ended = self.end.take();
        // Whoever asked for the end wants to see what was there by then.
        let wants_rest = matches!(ended, None | Some(Ending::Asked));
        self.until = None;
        self.stop = Stop::default();
        source.close(wants_rest.then_some(&mut self));
        let losses =
            source.losses(kinds).map_err(|error| Failure::other(format!("cannot read the losses: {error}")))?;
        if let Some(recorder) = self.recorder.take() {
            recorder.end(&End { losses: losses.clone() })?;
        }
        match self.end.or(ended) {
            Some(Ending::Failed(failure)) => return Err(failure),
            Some(Ending::Deserted) => return Ok(ExitCode::SUCCESS),
            Some(Ending::Full) => say("the recording has grown to what --record-max allows"),
            Some(Ending::Asked | Ending::Enough) | None => {}
        }
        if let Err(error) = self.stream.flush() {
            return writing_failed(&error).map_or(Ok(ExitCode::SUCCESS), Err);
        }
        for line in self.stream.summary(&losses, Some(took)) {
            say(&line);
        }
        source.broken().map_or(Ok(ExitCode::SUCCESS), |why| Err(Failure::other(why)))
    }
}

impl<W: Write> Audience for Screen<W> {
    fn take(&mut self, record: &[u8], meet: Meet<'_>) -> ControlFlow<()> {
        let shown = match decode(record) {
            Ok(event) => {
                let recorder = &mut self.recorder;
                meet.event(&event, &mut self.stream.names, |name| {
                    if let Some(recorder) = recorder {
                        recorder.keep(|writer| writer.name(name));
                    }
                });
                self.stream.show(&event)
            }
            Err(error) => {
                self.stream.fail(error);
                Ok(ControlFlow::Continue(()))
            }
        };
        self.record(record)?;
        match shown {
            Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
            Ok(ControlFlow::Break(())) => self.end(Ending::Enough),
            Err(error) => self.cannot_write(&error),
        }
    }

    fn learn(&mut self, name: Name) {
        if let Some(recorder) = &mut self.recorder {
            recorder.keep(|writer| writer.name(&name));
        }
        self.stream.names.learn(name);
    }

    fn pause(&mut self) -> ControlFlow<()> {
        if let Err(error) = self.stream.flush() {
            return self.cannot_write(&error);
        }
        if self.caller.has_left() {
            return self.end(Ending::Deserted);
        }
        if self.stop.is_wanted() || self.until.is_some_and(|until| Instant::now() >= until) {
            return self.end(Ending::Asked);
        }
        ControlFlow::Continue(())
    }
}

/// Writes the recording, and remembers what went wrong until somebody can be told.
struct Recorder {
    writer: Writer<BufWriter<File>>,
    path: PathBuf,
    bytes_max: u64,
    error: Option<io::Error>,
}

impl Recorder {
    /// Begins a file that is not there yet. It holds addresses, so it is its owner's alone.
    fn new(path: &Path, preamble: &Preamble, mib_max: u64) -> Result<Self, Failure> {
        let refused = |error: io::Error| {
            let remedy = if error.kind() == io::ErrorKind::AlreadyExists {
                "choose another name, or remove it"
            } else {
                "choose another place"
            };
            Failure::usage(&format_args!("cannot write the recording {}: {error}; {remedy}", path.display()))
        };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(refused)?;
        let writer = Writer::new(BufWriter::new(file), preamble).map_err(refused)?;
        Ok(Self { writer, path: path.to_owned(), bytes_max: mib_max << 20, error: None })
    }

    fn keep(&mut self, write: impl FnOnce(&mut Writer<BufWriter<File>>) -> io::Result<()>) {
        if self.error.is_none() {
            self.error = write(&mut self.writer).err();
        }
    }

    /// Whether it has come to an end.
    fn ending(&self) -> Option<Ending> {
        match &self.error {
            Some(error) => Some(Ending::Failed(self.failure(error))),
            None => (self.writer.bytes() >= self.bytes_max).then_some(Ending::Full),
        }
    }

    fn end(mut self, end: &End) -> Result<(), Failure> {
        if let Some(error) = self.error.take() {
            return Err(self.failure(&error));
        }
        let path = self.path;
        self.writer.end(end).map_err(|error| failure(&path, &error))
    }

    fn failure(&self, error: &io::Error) -> Failure {
        failure(&self.path, error)
    }
}

fn failure(path: &Path, error: &io::Error) -> Failure {
    Failure::other(format!("cannot write the recording {}: {error}; give it room", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_takes_some_time() {
        assert_eq!(parse_duration("1ms"), Ok(Duration::from_millis(1)));
        for text in ["0s", "0ms"] {
            let refusal = parse_duration(text).unwrap_err();
            assert!(refusal.contains("no time") && refusal.contains("30s"), "{text}: {refusal}");
        }
        assert!(parse_duration("10").unwrap_err().contains("unit"));
    }
}
