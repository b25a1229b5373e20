//! A short look at the node: the agent's own machinery, attached for a while and asked once, without
//! HTTP and with nobody reading the ring. What it gives is what `/metrics` and `/status` would have.

use std::{
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use bytes::Bytes;
use serde_json::Value;

use super::{Shared, Source, Started, WORKER_LIMIT, start, worker::Stop};
use crate::{config::Config, failure::Failure, pipeline::attribute::log_listing::LogListing};

/// Passes come this often, so that a look of a few seconds holds a few.
const PASS_INTERVAL: Duration = Duration::from_secs(1);
/// Somebody waits, and it is soon over.
const PASS_CPU_PERCENT: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// What a look has seen.
pub struct Seen {
    /// The text that `/metrics` would have.
    pub metrics: Bytes,
    /// The object that `/status` would have.
    pub status: Value,
}

/// Counts for `watch` and gives what is known after the pass that follows. Nothing stays attached.
pub fn take(config: Config, watch: Duration) -> Result<Seen, Failure> {
    let config = Config { pass_interval: PASS_INTERVAL, pass_cpu_percent: PASS_CPU_PERCENT, ..config };
    let look = Look::start(config)?;
    thread::sleep(watch);
    let seen = look.await_pass().and_then(|()| look.seen());
    look.end().and(seen)
}

/// A look that goes on until it is ended, and is asked as often as one likes.
pub struct Look {
    shared: Arc<Shared>,
    stop: mpsc::Sender<Stop>,
    passes: JoinHandle<()>,
    /// Lives as long as the look, so that programs find where to put what nobody reads.
    _ring: RingBuf<MapData>,
}

impl Look {
    /// Attaches, and begins with passes as often as `config` says.
    pub fn start(config: Config) -> Result<Self, Failure> {
        // The smallest ring, a page: nobody reads events, and no count depends on them.
        let ring_bytes = u32::try_from(rustix::param::page_size()).unwrap_or(config.ring_bytes);
        // What a pod waits for, a name that may still come, would be for longer than most looks.
        let logs = LogListing::new(&config.pod_logs).as_it_is();
        let Started { shared, worker, ring, logger: _ } = start(Config { ring_bytes, ..config }, logs)?;
        let (stop, stopped) = mpsc::channel();
        let passes = thread::Builder::new()
            .name("passes".into())
            .spawn(move || worker.run(&stopped))
            .map_err(|error| Failure::other(format!("cannot start the worker thread: {error}")))?;
        Ok(Self { shared, stop, passes, _ring: ring })
    }

    /// Lets a pass end that has not ended yet.
    pub fn await_pass(&self) -> Result<(), Failure> {
        await_pass(&self.shared, Instant::now(), || self.passes.is_finished())
    }

    /// The text that `/metrics` would have now.
    pub fn metrics(&self) -> Result<Bytes, Failure> {
        if self.passes.is_finished() {
            return Err(Failure::other("the passes ended; start again"));
        }
        self.shared.metrics().map_err(Failure::other)
    }

    /// The metrics with the state that is no metric.
    fn seen(&self) -> Result<Seen, Failure> {
        Ok(Seen { metrics: self.metrics()?, status: self.shared.status(true) })
    }

    /// Ends the passes and detaches.
    pub fn end(self) -> Result<(), Failure> {
        // An error here means that the worker has ended already.
        let _ = self.stop.send(Stop);
        let limit = Instant::now() + WORKER_LIMIT;
        while !self.passes.is_finished() {
            // What a pass that hangs holds ends with the process, which detaches as well.
            if Instant::now() > limit {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        self.passes.join().map_err(|_| Failure::other("the worker thread did not end as it should"))
    }
}

/// Waits for a pass that ended after `from`, for as long as passes go on.
fn await_pass(shared: &Shared, from: Instant, has_ended: impl Fn() -> bool) -> Result<(), Failure> {
    let is_new = || shared.view().passes.iter().any(|pass| pass.ended > from);
    while !is_new() {
        if has_ended() {
            return Err(Failure::other("no pass over namespaces and listeners ended; see the messages above"));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
