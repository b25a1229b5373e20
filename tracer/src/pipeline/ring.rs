//! Drains the ring into a sink. Wakes when the kernel side says that much is waiting, and on a timer
//! for the rest, so that a quiet node costs ten empty looks a second and a busy one few wakeups.
//!
//! The agent drains beside its HTTP server ([`drain`]); who does nothing else drains by itself ([`drain_alone`]).

use std::{io, mem::MaybeUninit, ops::ControlFlow, time::Duration};

use aya::maps::{MapData, RingBuf};
use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};
use tokio::{io::unix::AsyncFd, time::MissedTickBehavior};

/// How long a record may wait on a quiet node.
const TICK: Duration = Duration::from_millis(100);
/// Records handled before other tasks get their turn.
const RECORDS_PER_TURN: usize = 4096;

/// Drains until the future is dropped or the ring fails.
pub async fn drain(ring: RingBuf<MapData>, mut sink: impl FnMut(&[u8])) -> io::Result<()> {
    let mut ring = register(ring)?;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            guard = ring.readable_mut() => {
                let mut guard = guard?;
                // Readiness is cleared only when the ring was seen empty: else a wakeup could be lost.
                if take(guard.get_inner_mut(), &mut sink) {
                    guard.clear_ready();
                }
            }
            _ = tick.tick() => {
                take(ring.get_mut(), &mut sink);
            }
        }
        tokio::task::yield_now().await;
    }
}

#[expect(unsafe_code, reason = "tokio cannot check that the descriptor stays open")]
fn register(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its map's descriptor, never replaces it, and moves into the `AsyncFd`.
    Ok(unsafe { AsyncFd::register(ring) }?)
}

/// Takes up to a turn's records; true if the ring is empty now.
fn take(ring: &mut RingBuf<MapData>, sink: &mut impl FnMut(&[u8])) -> bool {
    for _ in 0..RECORDS_PER_TURN {
        match ring.next() {
            Some(record) => sink(&record),
            None => return true,
        }
    }
    false
}

/// What a reader that does nothing else does with records.
pub trait Sink {
    /// Takes a record; breaks when no more is wanted.
    fn record(&mut self, record: &[u8]) -> ControlFlow<()>;
    /// Called when the ring is empty, after each turn and ten times a second; breaks when no more is wanted.
    fn pause(&mut self) -> ControlFlow<()>;
}

/// Drains on the calling thread until the sink wants no more.
pub fn drain_alone(ring: &mut RingBuf<MapData>, sink: &mut impl Sink) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    // By edge: else each record that comes while the last are written would wake the reader for itself alone.
    let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&epoll, &*ring, epoll::EventData::new_u64(0), events)?;
    let tick = Timespec::try_from(TICK).map_err(io::Error::other)?;
    loop {
        let (taken, flow) = take_some(ring, sink);
        if flow.is_break() || sink.pause().is_break() {
            return Ok(());
        }
        if taken == RECORDS_PER_TURN {
            continue;
        }
        match epoll::wait(&epoll, &mut [MaybeUninit::uninit(); 1][..], Some(&tick)) {
            // A signal: the sink knows whether it was meant to end this.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes what is left in the ring once nothing more comes.
pub fn drain_rest(ring: &mut RingBuf<MapData>, sink: &mut impl Sink) {
    while let (RECORDS_PER_TURN, ControlFlow::Continue(())) = take_some(ring, sink) {}
}

/// Takes up to a turn's records.
fn take_some(ring: &mut RingBuf<MapData>, sink: &mut impl Sink) -> (usize, ControlFlow<()>) {
    for taken in 0..RECORDS_PER_TURN {
        let Some(record) = ring.next() else { return (taken, ControlFlow::Continue(())) };
        if sink.record(&record).is_break() {
            return (taken + 1, ControlFlow::Break(()));
        }
    }
    (RECORDS_PER_TURN, ControlFlow::Continue(()))
}
