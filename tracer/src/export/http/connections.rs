//! The open connections: what each one does, since when, and which one gives way where room is short.
//!
//! A connection without a request costs a descriptor and little more, and gives way to a newer one, the longest
//! idle first. So does one whose request comes byte by byte: a request counts once its head is whole. An answer
//! that nobody reads ends after a time, and sooner where another request needs its room; so does one that is read slowly.
//! Decides; does no I/O.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// What a connection does, in the order in which one gives way to a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doing {
    /// There is no whole request.
    Idle,
    /// The client has not read all of an answer.
    Sending,
    /// A request waits for its answer.
    Waiting,
}

#[derive(Clone, Copy)]
struct Progress {
    doing: Doing,
    /// Of an answer: when its text was read.
    began: Instant,
    /// When the client last took a piece of the answer; else `began`.
    last: Instant,
}

impl Progress {
    fn begins(doing: Doing) -> Self {
        let now = Instant::now();
        Self { doing, began: now, last: now }
    }
}

/// One connection, as its own task and the table below see it.
pub(super) struct Connection {
    progress: Mutex<Progress>,
    cut: Notify,
}

impl Connection {
    fn new() -> Self {
        Self { progress: Mutex::new(Progress::begins(Doing::Idle)), cut: Notify::new() }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the connection does something else from now on.
    pub(super) fn begins(&self, doing: Doing) {
        *self.progress() = Progress::begins(doing);
    }

    /// Notes that the connection sends a text from now on that was read at this time.
    pub(super) fn sends(&self, read: Instant) {
        *self.progress() = Progress { doing: Doing::Sending, began: read, last: Instant::now() };
    }

    /// Notes that the client took a piece of the answer.
    pub(super) fn moves(&self) {
        self.progress().last = Instant::now();
    }

    /// Done once this connection must end.
    pub(super) async fn is_cut(&self) {
        self.cut.notified().await;
    }
}

/// All open connections but those that were told to end.
#[derive(Default)]
pub(super) struct Connections(Mutex<Vec<Weak<Connection>>>);

impl Connections {
    /// Registers a connection, which is open for as long as the value lives.
    pub(super) fn open(&self) -> Arc<Connection> {
        let connection = Arc::new(Connection::new());
        self.living().push(Arc::downgrade(&connection));
        connection
    }

    fn living(&self) -> MutexGuard<'_, Vec<Weak<Connection>>> {
        let mut living = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        living.retain(|connection| connection.strong_count() > 0);
        living
    }

    /// Ends connections until no more than `most` go on; returns how many it ended.
    pub(super) fn make_way(&self, most: usize) -> usize {
        let mut living = self.living();
        let mut ended = 0;
        // Mostly one, since each new connection asks.
        while living.len() > most {
            let order = |(_, connection): &(usize, &Weak<Connection>)| {
                let progress = connection.upgrade().map(|connection| *connection.progress());
                progress.map(|progress| (progress.doing, progress.last))
            };
            let Some((first, _)) = living.iter().enumerate().min_by_key(order) else { break };
            end(&living.swap_remove(first));
            ended += 1;
        }
        ended
    }

    /// Ends the connections that have done the same for longer than they may; returns how many.
    pub(super) fn end_overdue(&self, doing: Doing, at_most: Duration) -> usize {
        self.end_those(|progress| progress.doing == doing && progress.began.elapsed() > at_most)
    }

    /// Ends the answers of which the client took nothing for so long; returns how many.
    pub(super) fn end_unread(&self, stalled: Duration) -> usize {
        self.end_those(|progress| progress.doing == Doing::Sending && progress.last.elapsed() > stalled)
    }

    /// Ends the answers that send the oldest of the texts read so long ago; returns how many.
    pub(super) fn end_oldest(&self, at_least: Duration) -> usize {
        let began = |connection: &Weak<Connection>| {
            let progress = *connection.upgrade()?.progress();
            (progress.doing == Doing::Sending && progress.began.elapsed() >= at_least).then_some(progress.began)
        };
        let oldest = self.living().iter().filter_map(began).min();
        self.end_those(|progress| progress.doing == Doing::Sending && Some(progress.began) == oldest)
    }

    fn end_those(&self, which: impl Fn(&Progress) -> bool) -> usize {
        let is_one = |connection: &mut Weak<Connection>| {
            connection.upgrade().is_some_and(|connection| which(&connection.progress()))
        };
        self.living().extract_if(.., is_one).inspect(end).count()
    }

    /// How many go on.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.living().len()
    }
}

fn end(connection: &Weak<Connection>) {
    if let Some(connection) = connection.upgrade() {
        connection.cut.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const TICK: Duration = Duration::from_secs(1);

    fn goes_on(connections: &Connections, connection: &Arc<Connection>) -> bool {
        connections.living().iter().any(|one| one.as_ptr() == Arc::as_ptr(connection))
    }

    /// A connection whose text was read now.
    fn sending(connections: &Connections) -> Arc<Connection> {
        let connection = connections.open();
        connection.sends(Instant::now());
        connection
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_gives_way_first_and_who_waits_last() {
        let connections = Connections::default();
        let [waits, sends, old, new] = [(); 4].map(|()| connections.open());
        waits.begins(Doing::Waiting);
        sends.sends(Instant::now());
        advance(TICK).await;
        new.begins(Doing::Idle);
        assert_eq!(connections.make_way(4), 0);
        for expected in [&old, &new, &sends, &waits] {
            assert_eq!(connections.make_way(connections.len() - 1), 1);
            assert!(!goes_on(&connections, expected));
        }
        assert_eq!(connections.make_way(0), 0, "who was told to end is not told again");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_moves_is_not_unread_but_ends_in_time() {
        let connections = Connections::default();
        let idle = connections.open();
        let [read, unread] = [(); 2].map(|()| sending(&connections));
        advance(TICK * 2).await;
        read.moves();
        assert_eq!(connections.end_unread(TICK), 1);
        assert!(!goes_on(&connections, &unread));
        assert_eq!(connections.end_overdue(Doing::Sending, TICK), 1, "whatever is read of it");
        assert!(!goes_on(&connections, &read) && goes_on(&connections, &idle));
    }

    /// Room is free once nobody holds the text any more.
    #[tokio::test(start_paused = true)]
    async fn the_oldest_text_ends_with_all_its_readers() {
        let connections = Connections::default();
        let waits = connections.open();
        waits.begins(Doing::Waiting);
        let old = [(); 2].map(|()| sending(&connections));
        advance(TICK).await;
        let new = sending(&connections);
        old[0].moves();
        assert_eq!(connections.end_oldest(TICK * 2), 0, "each has its time");
        advance(TICK).await;
        assert_eq!(connections.end_oldest(TICK), 2);
        assert!(old.iter().all(|old| !goes_on(&connections, old)));
        assert!(goes_on(&connections, &new) && goes_on(&connections, &waits));
    }

    #[test]
    fn a_connection_that_ended_leaves_no_trace() {
        let connections = Connections::default();
        drop(connections.open());
        assert_eq!(connections.len(), 0);
    }
}
