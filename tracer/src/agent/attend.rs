//! The socket on which commands watch the agent's events, and the thread that attends to each of them.
//!
//! Owns the socket's file, which only root can open: events name addresses and owners, which are neither an ordinary
//! user's nor the network's business. A thread waits for its watcher and for nobody else; the ring's reader waits for none
//! ([`crate::events::watchers`]). A watcher that takes nothing for a minute has left.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, Permissions},
    io::{self, BufWriter, Read, Write},
    net::Shutdown,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, mpsc::RecvTimeoutError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use tracer_ebpf::{counter::ListenerKey, event::Kind};

use super::{
    Shared,
    origins::is_of_listener,
    overdue::Overdue,
    watch::{preamble, unseen},
    worker::lock,
};
use crate::{
    events::{
        attendance::{DIRECTORY, Welcome, socket},
        kind::EventKind,
        names::{Listener, Name},
        recording::{End, Writer},
        summary::Loss,
        watchers::Watching,
    },
    kernel::{hooks::Signal, shortage, viewpoint::monotonic_ns},
    pipeline::decode::{Event, decode, ip_address},
};

/// How often a thread looks whether its watcher has left, and a quiet watcher gets what there is.
const TICK: Duration = Duration::from_millis(100);
/// What the ring holds by the time a watcher has had enough is handed on within this.
const SETTLE: Duration = Duration::from_millis(300);
/// How long a watcher may take nothing.
const UNREAD_MAX: Duration = Duration::from_mins(1);
/// How long it may take to say what it wants.
const HELLO_MAX: Duration = Duration::from_secs(2);
/// Who listens on a port is told once in this time.
const NAMES_INTERVAL: Duration = Duration::from_secs(5);
/// Ports that are remembered for it.
const ASKED_MAX: usize = 16_384;
/// A socket's file that nobody answers on is left by an agent that was killed, if it is older than this.
const STALE: Duration = Duration::from_secs(10);

/// The socket; its file is gone with the value.
pub struct Attended(PathBuf);

impl Drop for Attended {
    fn drop(&mut self) {
        // One that is left is taken away by the next agent, and so is the directory by the last.
        let _ = fs::remove_file(&self.0).and_then(|()| fs::remove_dir(DIRECTORY));
    }
}

/// Makes the socket of the agent that serves on `port`. Without one the agent goes on, and says so.
pub fn open(shared: &Arc<Shared>, port: u16) -> Option<Attended> {
    let path = socket(port);
    let accept = |listener: UnixListener| {
        let shared = Arc::clone(shared);
        thread::Builder::new().name("watchers".into()).spawn(move || accept(&listener, &shared))
    };
    // Another agent that ends meanwhile takes the directory away.
    let listener = listen(&path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => listen(&path),
        _ => Err(error),
    });
    match listener.and_then(accept) {
        Ok(_) => Some(Attended(path)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let path = path.display();
            tracing::warn!("tracer events watches another agent by {path}: one that serves on the same port elsewhere");
            None
        }
        Err(error) => {
            let path = path.display();
            tracing::warn!(
                cause = shortage::explain(&error),
                "tracer events cannot watch this agent by {path}; make {DIRECTORY} a directory that it can write"
            );
            None
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    own_directory(Path::new(DIRECTORY))?;
    sweep();
    if !is_answered(path) {
        let _ = fs::remove_file(path);
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Nobody can connect before it listens.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(16)?;
    Ok(socket.into())
}

/// Makes the directory, or takes one that is there into possession: nobody else may put anything in the socket's place.
fn own_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        let owner = found.uid();
        return Err(io::Error::other(format!("{} is no directory of this user, but of user {owner}", path.display())));
    }
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Takes away what agents left that were killed.
fn sweep() {
    for entry in fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
        let path = entry.path();
        let made = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = made.is_ok_and(|made| SystemTime::now().duration_since(made).is_ok_and(|age| age > STALE));
        if is_old && path.extension().is_some_and(|extension| extension == "sock") && !is_answered(&path) {
            let _ = fs::remove_file(&path);
        }
    }
}

fn is_answered(path: &Path) -> bool {
    UnixStream::connect(path).map_or_else(|error| error.kind() != io::ErrorKind::ConnectionRefused, |_| true)
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let started = stream.and_then(|stream| match shared.own.watchers.admit() {
            Some(watching) => {
                let shared = Arc::clone(shared);
                let attend = move || {
                    if let Err(error) = attend(&stream, &watching, &shared) {
                        tracing::debug!(%error, "a watcher of events left");
                    }
                };
                thread::Builder::new().name("watcher".into()).spawn(attend).map(drop)
            }
            None => refuse(&stream),
        });
        if let Err(error) = started {
            tracing::debug!(%error, "cannot attend to a watcher of events");
            thread::sleep(TICK);
        }
    }
}

fn refuse(stream: &UnixStream) -> io::Result<()> {
    stream.set_write_timeout(Some(TICK))?;
    let refused = Some("as many commands as may do so watch its events; end one of them, or give --own".to_owned());
    say(stream, &Welcome { refused, ..Welcome::default() })
}

fn say(mut stream: &UnixStream, welcome: &Welcome) -> io::Result<()> {
    let mut line = serde_json::to_vec(welcome)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Serves one watcher until it has had enough, has left, or takes nothing any more.
fn attend(stream: &UnixStream, watching: &Watching, shared: &Shared) -> io::Result<()> {
    stream.set_write_timeout(Some(UNREAD_MAX))?;
    stream.set_read_timeout(Some(HELLO_MAX))?;
    let mut kinds = [0; 8];
    let mut input = stream;
    input.read_exact(&mut kinds)?;
    let kinds = u64::from_le_bytes(kinds);
    let wanted: Vec<EventKind> =
        Kind::ALL.iter().filter(|kind| kinds & kind.bit() != 0).map(|kind| EventKind::of(*kind)).collect();
    let unseen = unseen(&shared.report, &wanted);
    let unseen = unseen
        .map(|(kind, ladder)| (kind.name().to_owned(), ladder.refusals.last().map(|refusal| refusal.cause.clone())));
    let before = lost(shared, &wanted)?;
    watching.wants(kinds);
    say(stream, &Welcome { refused: None, unseen: unseen.collect() })?;
    let mut feed = Feed {
        out: Writer::new(BufWriter::new(stream), &preamble())?,
        shared,
        overdue: shared.report.stands_on(Signal::ListenDrops, "packets").then(Overdue::default),
        wants_drops: kinds & Kind::ListenDrop.bit() != 0,
        asked: HashMap::new(),
        began_ns: monotonic_ns(),
    };
    // Goes before the feed, whose buffer would wait for the watcher a second time.
    let _over = Over(stream);
    let mut ends = None;
    while ends.is_none_or(|ends| Instant::now() < ends) {
        match watching.records.recv_timeout(TICK) {
            Ok(record) => {
                feed.record(&record)?;
                watching.records.try_iter().take(1024).try_for_each(|record| feed.record(&record))?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        feed.pause()?;
        if ends.is_none() && has_had_enough(stream)? {
            ends = Some(Instant::now() + SETTLE);
        }
    }
    let losses = lost(shared, &wanted)?.into_iter().zip(before).map(|(after, before)| Loss {
        ring: after.ring.saturating_sub(before.ring),
        rate: after.rate.saturating_sub(before.rate),
        queue: watching.lost(after.wire()),
        ..Loss::of(after.kind)
    });
    feed.out.end(&End { losses: losses.filter(|loss| loss.total() > 0).collect() })
}

/// Ends the dialogue when it is dropped.
struct Over<'a>(&'a UnixStream);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        // Fails only if the watcher has ended it.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// A kind's losses before it comes to any watcher.
struct Before {
    kind: EventKind,
    ring: u64,
    rate: u64,
}

impl Before {
    const fn wire(&self) -> Kind {
        self.kind.wire()
    }
}

fn lost(shared: &Shared, kinds: &[EventKind]) -> io::Result<Vec<Before>> {
    let tallies = shared.maps.tallies()?.into_iter();
    Ok(tallies
        .map(|(kind, tally)| Before { kind: EventKind::of(kind), ring: tally.lost_ring, rate: tally.lost_rate })
        .filter(|before| kinds.contains(&before.kind))
        .collect())
}

/// Whether the watcher has closed its end, or at least the half that speaks.
fn has_had_enough(stream: &UnixStream) -> io::Result<bool> {
    let mut ready = [PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP)];
    poll(&mut ready, Some(&Timespec::default()))?;
    Ok(!ready[0].revents().is_empty())
}

/// What one watcher is told.
struct Feed<'a> {
    out: Writer<BufWriter<&'a UnixStream>>,
    shared: &'a Shared,
    /// `None` where no handshake waits to be judged.
    overdue: Option<Overdue>,
    wants_drops: bool,
    /// When it began to watch, by the programs' clock.
    began_ns: u64,
    /// When it was told who listens on a port.
    asked: HashMap<(u64, u16), Instant>,
}

impl Feed<'_> {
    fn record(&mut self, record: &[u8]) -> io::Result<()> {
        if self.overdue.as_mut().is_some_and(|overdue| overdue.was_shown(record)) {
            return Ok(());
        }
        if let Ok(event) = decode(record)
            && is_of_listener(&event)
        {
            self.name(&event)?;
        }
        self.out.record(record)
    }

    /// Tells who listens where this happened, as far as passes have seen.
    fn name(&mut self, event: &Event) -> io::Result<()> {
        let Some(local) = event.local else { return Ok(()) };
        let (key, now) = ((event.netns, local.port), Instant::now());
        if self.asked.get(&key).is_some_and(|asked| now.duration_since(*asked) < NAMES_INTERVAL) {
            return Ok(());
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.clear();
        }
        self.asked.insert(key, now);
        let view = self.shared.view();
        let first = ListenerKey { netns: event.netns, cgroup: 0, address: [0; 4], port: 0, zero: [0; 3] };
        let of_netns = view.listeners.range(first..).map(|(key, _)| key).take_while(|key| key.netns == event.netns);
        let there = of_netns.filter(|key| key.port == local.port);
        let known: Vec<_> = {
            let labels = lock(&self.shared.labels);
            there.filter_map(|key| Some((key, labels.known(key)?))).collect()
        };
        for (key, labels) in known {
            let listener = Listener {
                address: ip_address(&key.address),
                process: String::from_utf8_lossy(&labels.process).into_owned(),
                owner: (*labels.owner).clone(),
            };
            self.out.name(&Name::Listener { netns: key.netns, port: key.port, listener })?;
        }
        Ok(())
    }

    /// Hands on what is buffered, with drops that no packet has resolved yet.
    fn pause(&mut self) -> io::Result<()> {
        if self.wants_drops
            && let Some(overdue) = &mut self.overdue
        {
            let mut pending = self.shared.maps.handshakes()?;
            // What was dropped before it began to watch waits on its CPU for as long as no packet comes.
            pending.retain(|handshake| handshake.since_ns >= self.began_ns);
            for record in overdue.take(&pending, monotonic_ns()) {
                self.out.record(&record)?;
            }
        }
        self.out.flush()
    }
}
