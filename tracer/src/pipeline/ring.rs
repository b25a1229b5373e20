//! Drains the ring into a sink. Wakes when the kernel side says that much is waiting, and on a timer
//! for the rest, so that a quiet node costs ten empty looks a second and a busy one few wakeups.

use std::{io, time::Duration};

use aya::maps::{MapData, RingBuf};
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
