//! Who watches the agent's events, each with a queue of its own.
//!
//! The ring's reader hands each record to all queues and waits for none: what finds no room in one is counted as lost to
//! that watcher, and to nobody else. Bounds the number of watchers and the length of queues. Pure.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
    mpsc::{self, Receiver, SyncSender},
};

use tracer_ebpf::event::Kind;

/// Watchers at once: each costs a thread and its queue.
pub const WATCHERS_MAX: usize = 8;

/// Records that wait for one watcher, of some hundred bytes each; watchers share those that they all want.
const QUEUE_RECORDS: usize = 4096;

/// Everybody who watches.
#[derive(Debug, Default)]
pub struct Watchers {
    all: Mutex<Vec<Arc<Watcher>>>,
    lost: AtomicU64,
}

#[derive(Debug)]
struct Watcher {
    kinds: AtomicU64,
    queue: SyncSender<Arc<[u8]>>,
    lost: [AtomicU64; Kind::COUNT],
}

impl Watchers {
    /// One more, who wants nothing yet; `None` if there are as many as there may be.
    pub fn admit(self: &Arc<Self>) -> Option<Watching> {
        let mut all = self.all();
        if all.len() >= WATCHERS_MAX {
            return None;
        }
        let (queue, records) = mpsc::sync_channel(QUEUE_RECORDS);
        let watcher = Arc::new(Watcher { kinds: AtomicU64::default(), queue, lost: Default::default() });
        all.push(Arc::clone(&watcher));
        Some(Watching { watchers: Arc::clone(self), watcher, records })
    }

    /// Takes a record that the ring delivered; `None` is one of no known kind, which everybody gets. Never waits.
    pub fn hand(&self, kind: Option<Kind>, record: &[u8]) {
        let mut shared: Option<Arc<[u8]>> = None;
        let bits = kind.map_or(u64::MAX, Kind::bit);
        for watcher in self.all().iter().filter(|watcher| watcher.kinds.load(Ordering::Relaxed) & bits != 0) {
            let record = Arc::clone(shared.get_or_insert_with(|| record.into()));
            if watcher.queue.try_send(record).is_err() {
                self.lost.fetch_add(1, Ordering::Relaxed);
                if let Some(kind) = kind {
                    watcher.lost[kind as usize].fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// How many watch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all().len()
    }

    /// Whether nobody watches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records that found no room in a queue, over all watchers.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Watcher>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watcher's place, given back with the value.
#[derive(Debug)]
pub struct Watching {
    watchers: Arc<Watchers>,
    watcher: Arc<Watcher>,
    /// What was handed to it.
    pub records: Receiver<Arc<[u8]>>,
}

impl Watching {
    /// Wants kinds with these bits from now on.
    pub fn wants(&self, kinds: u64) {
        self.watcher.kinds.store(kinds, Ordering::Relaxed);
    }

    /// Records of a kind that found no room here.
    #[must_use]
    pub fn lost(&self, kind: Kind) -> u64 {
        self.watcher.lost[kind as usize].load(Ordering::Relaxed)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.watchers.all().retain(|other| !Arc::ptr_eq(other, &self.watcher));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gets_what_it_wants_and_a_stuck_one_holds_up_nobody() {
        let watchers = Arc::<Watchers>::default();
        let [stuck, quick, other] = [(); 3].map(|()| watchers.admit().unwrap());
        stuck.wants(Kind::Reset.bit());
        quick.wants(Kind::Reset.bit() | Kind::Listen.bit());
        let mut got = 0;
        for n in 0..QUEUE_RECORDS + 3 {
            watchers.hand(Some(Kind::Reset), &n.to_le_bytes());
            got += quick.records.try_iter().filter(|record| **record == n.to_le_bytes()).count();
        }
        assert_eq!((got, quick.lost(Kind::Reset)), (QUEUE_RECORDS + 3, 0));
        assert_eq!((stuck.records.try_iter().count(), stuck.lost(Kind::Reset)), (QUEUE_RECORDS, 3));
        assert_eq!((other.records.try_iter().count(), watchers.lost()), (0, 3));
        watchers.hand(None, b"odd");
        assert_eq!([&stuck, &quick, &other].map(|one| one.records.try_iter().count()), [1, 1, 0]);
    }

    #[test]
    fn places_are_few_and_come_back() {
        let watchers = Arc::<Watchers>::default();
        let mut all: Vec<_> = (0..WATCHERS_MAX).map(|_| watchers.admit().unwrap()).collect();
        assert!(watchers.admit().is_none());
        all.pop();
        assert_eq!(watchers.len(), WATCHERS_MAX - 1);
        assert!(watchers.admit().is_some() && watchers.len() == WATCHERS_MAX - 1);
        drop(all);
        assert!(watchers.is_empty());
    }
}
