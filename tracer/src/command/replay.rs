//! `tracer replay`: shows a recording as `tracer events` showed it. Needs no rights but to read the file.

use std::{
    fs::File,
    io::{self, BufReader, Write},
    ops::ControlFlow,
    os::fd::AsFd,
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;

use super::{
    selection::{Selection, say, writing_failed},
    stop::Stop,
};
use crate::{
    events::{
        clock::Clock,
        kind::EventKind,
        recording::{End, Frame, Preamble, Reader, RecordingError},
        stream::Stream,
    },
    failure::Failure,
    legible::legible,
    pipeline::decode::decode,
    progress::Progress,
};

/// Kinds that are shown unless others are asked for: all, since somebody chose what to record.
pub const KINDS: &[EventKind] = &[];

/// Flags of `tracer replay`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What tracer events --record wrote; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    selection: Selection,
}

/// How a replay ended.
enum Ending {
    /// With what the recording says of its losses.
    Whole(End),
    /// Before the recording did.
    Enough,
    /// The file ends after this byte.
    Cut(u64),
    /// The rest cannot be read.
    Failed(RecordingError),
}

/// Shows the recording.
pub fn run(options: &Options) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals()?;
    let name = options.file.display();
    let refused = |error: RecordingError| Failure::usage(&format_args!("{name}: {error}"));
    let input: Box<dyn io::Read> = if options.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&options.file);
        Box::new(file.map_err(|error| {
            Failure::usage(&format_args!("cannot read {name}: {error}; give a file that tracer events --record wrote"))
        })?)
    };
    let (preamble, mut reader) = Reader::new(BufReader::new(input)).map_err(refused)?;
    introduce(&preamble);
    let mut stream = options.selection.stream(KINDS, Clock::new(preamble.clock_offset_ns), stop.clone());
    let progress = is_kept().then(|| Progress::new("reading the recording", None));
    let ending = play(&mut reader, &mut stream, &stop).and_then(|ending| stream.flush().map(|()| ending));
    drop(progress);
    let ending = match ending {
        Ok(ending) => ending,
        Err(error) => return writing_failed(&error).map_or(Ok(ExitCode::SUCCESS), Err),
    };
    let losses = if let Ending::Whole(end) = &ending { end.losses.as_slice() } else { &[] };
    for line in stream.summary(losses, None) {
        say(&line);
    }
    match ending {
        Ending::Whole(_) | Ending::Enough => {}
        Ending::Cut(at) => say(&format!("the recording ends after byte {at} without its end: what follows is missing")),
        Ending::Failed(error) => return Err(refused(error)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether standard output is a file. On a terminal the events themselves are seen, and behind a pipe may be a pager,
/// whose screen a line on standard error would spoil.
fn is_kept() -> bool {
    let file = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    file.and_then(|file| file.metadata()).is_ok_and(|metadata| metadata.is_file())
}

fn introduce(preamble: &Preamble) {
    let Preamble { tracer, kernel, architecture, .. } = preamble;
    // Whoever made the file chose the words.
    let [tracer, kernel, architecture] = [tracer, kernel, architecture].map(|text| legible(text));
    say(&format!("recorded by tracer {tracer} on Linux {kernel}, {architecture}"));
}

fn play(reader: &mut Reader<impl io::Read>, stream: &mut Stream<impl Write>, stop: &Stop) -> io::Result<Ending> {
    while !stop.is_wanted() {
        match reader.next_frame() {
            Ok(Frame::Record(record)) => match decode(record) {
                Ok(event) => {
                    if let ControlFlow::Break(()) = stream.show(&event)? {
                        return Ok(Ending::Enough);
                    }
                }
                Err(error) => stream.fail(error),
            },
            Ok(Frame::Name(name)) => stream.names.learn(name),
            Ok(Frame::End(end)) => return Ok(Ending::Whole(end)),
            Ok(Frame::Cut(at)) => return Ok(Ending::Cut(at)),
            Err(error) => return Ok(Ending::Failed(error)),
        }
    }
    Ok(Ending::Enough)
}
