//! The running agent as the source of events: its socket, and what comes over it.
//!
//! A thread reads, so that a stream that pauses holds up neither the screen nor the end. Names of namespaces and workloads
//! are found here, as for programs of one's own; those of listeners the agent tells. What cannot be taken fast enough waits
//! with the agent, which counts what it must drop.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::Shutdown,
    ops::ControlFlow,
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};

use tracer_ebpf::event::Kind;

use crate::{
    agent::{
        origins::Origins,
        watch::{Audience, Meet},
    },
    config::Config,
    events::{
        attendance::Welcome,
        kind::EventKind,
        names::Name,
        recording::{End, Frame, Preamble, Reader},
        summary::Loss,
    },
    failure::Failure,
};

/// How often is looked whether to end.
const TICK: Duration = Duration::from_millis(100);
/// How long the agent may take for its first words, and for its last ones.
const PATIENCE: Duration = Duration::from_secs(3);
/// Frames that wait to be shown.
const QUEUE_FRAMES: usize = 1024;

/// What comes over the socket.
enum Came {
    Record(Vec<u8>),
    Name(Name),
    End(End),
    Broken(String),
}

/// An agent that tells its events.
pub(super) struct Agent {
    /// Kinds for which it has nothing attached, and why.
    pub(super) unseen: Vec<(String, Option<String>)>,
    /// How its stream begins.
    pub(super) preamble: Preamble,
    stream: UnixStream,
    came: Receiver<Came>,
    origins: Origins,
    end: Option<End>,
    broken: Option<String>,
}

impl Agent {
    /// The agent at `path`, else why there is none for this caller.
    pub(super) fn find(path: &Path) -> Result<UnixStream, String> {
        UnixStream::connect(path).map_err(|error| format!("no agent answers at {} ({error})", path.display()))
    }

    /// Asks the agent for these kinds.
    pub(super) fn ask(
        mut stream: UnixStream,
        path: &Path,
        config: &Config,
        kinds: &[EventKind],
    ) -> Result<Self, Failure> {
        // Listeners that open tell their process's name, whoever asks for them.
        let bits = kinds.iter().fold(Kind::Listen.bit(), |bits, kind| bits | kind.wire().bit());
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| refused(path, &error))?;
        // One that refuses may have closed its end by now; its words say why.
        let _ = stream.write_all(&bits.to_le_bytes());
        let mut input = BufReader::new(stream.try_clone().map_err(|error| refused(path, &error))?);
        let mut line = String::new();
        input.read_line(&mut line).map_err(|error| refused(path, &error))?;
        let welcome: Welcome = serde_json::from_str(&line).map_err(|error| refused(path, &error))?;
        if let Some(why) = welcome.refused {
            return Err(refused(path, &why));
        }
        let (preamble, reader) = Reader::new(input).map_err(|error| refused(path, &error))?;
        stream.set_read_timeout(None).map_err(|error| refused(path, &error))?;
        let (sender, came) = mpsc::sync_channel(QUEUE_FRAMES);
        thread::Builder::new()
            .name("agent".into())
            .spawn(move || read(reader, &sender))
            .map_err(|error| refused(path, &error))?;
        let origins = Origins::new(config, true)?;
        Ok(Self { unseen: welcome.unseen, preamble, stream, came, origins, end: None, broken: None })
    }

    /// Names of the network namespaces under /run/netns.
    pub(super) fn namespace_names(&self) -> Vec<String> {
        self.origins.namespaces().flat_map(|namespace| namespace.names.iter().cloned()).collect()
    }

    /// Hands the audience what comes until it wants no more, or the agent ends.
    pub(super) fn run(&mut self, audience: &mut impl Audience) {
        loop {
            match self.came.recv_timeout(TICK) {
                Ok(came) => {
                    if self.take(came, audience).is_break() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for _ in 0..QUEUE_FRAMES {
                let Ok(came) = self.came.try_recv() else { break };
                if self.take(came, audience).is_break() {
                    return;
                }
            }
            if audience.pause().is_break() {
                return;
            }
        }
    }

    fn take(&mut self, came: Came, audience: &mut impl Audience) -> ControlFlow<()> {
        match came {
            Came::Record(record) => return audience.take(&record, Meet::of(&mut self.origins)),
            Came::Name(name) => {
                audience.learn(name);
                return ControlFlow::Continue(());
            }
            Came::End(end) => self.end = Some(end),
            Came::Broken(why) => self.broken = Some(why),
        }
        ControlFlow::Break(())
    }

    /// Tells the agent that this was enough, and takes what was on its way.
    pub(super) fn close(&mut self, mut audience: Option<&mut impl Audience>) {
        // Fails where the agent has ended.
        let _ = self.stream.shutdown(Shutdown::Write);
        let until = Instant::now() + PATIENCE;
        while self.end.is_none() && self.broken.is_none() {
            let Ok(came) = self.came.recv_timeout(until.saturating_duration_since(Instant::now())) else { break };
            let is_last = matches!(came, Came::End(_) | Came::Broken(_));
            match &mut audience {
                Some(listening) if !is_last => {
                    if self.take(came, *listening).is_break() {
                        audience = None;
                    }
                }
                _ => {
                    if let Came::End(end) = came {
                        self.end = Some(end);
                    } else if is_last {
                        break;
                    }
                }
            }
        }
        if let Some(audience) = audience {
            // The end of it all either way.
            let _ = audience.pause();
        }
    }

    /// What was lost before it came here, of these kinds.
    pub(super) fn losses(&self, kinds: &[EventKind]) -> Vec<Loss> {
        let losses = self.end.iter().flat_map(|end| &end.losses);
        losses.filter(|loss| kinds.iter().any(|kind| kind.name() == loss.kind)).cloned().collect()
    }

    /// Why it ended by itself, if so.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }
}

/// Reads until the end; ends by itself once nobody takes what it read.
fn read(mut reader: Reader<impl io::Read>, sender: &SyncSender<Came>) {
    loop {
        let came = match reader.next_frame() {
            Ok(Frame::Record(record)) => Came::Record(record.to_vec()),
            Ok(Frame::Name(name)) => Came::Name(name),
            Ok(Frame::End(end)) => Came::End(end),
            Ok(Frame::Cut(_)) => Came::Broken("the agent has ended".to_owned()),
            Err(error) => Came::Broken(format!("the agent's stream cannot be read: {error}")),
        };
        let is_last = matches!(came, Came::End(_) | Came::Broken(_));
        if sender.send(came).is_err() || is_last {
            return;
        }
    }
}

fn refused(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    let path = path.display();
    Failure::unusable(&format_args!(
        "the agent's events cannot be watched at {path}: {error}; try again, or attach programs of your own with --own"
    ))
}
