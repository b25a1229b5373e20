//! Where requests wait for what the source tells: one reading runs at a time, and serves all who came before it.
//!
//! So a request waits for one other reading of each kind at most, however many ask, and clients that never read hold few
//! texts. Their bytes are bounded until they are sent. Where these leave no room, the last text is shared as long as it is
//! fresh; then room is made by ending answers that nobody reads, and in the end those that are read slowly.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout},
};

use super::{
    Refused, Source,
    answer::{Held, Text},
    connections::{Connection, Connections, Doing},
};

/// Requests that wait or whose answers are on their way: half of the connections, so that there is always one to give
/// way to a probe.
const PLACES: usize = 256;

/// Texts that are not sent: one of 20 000 listeners, or many of a usual node. In KiB, which is what permits count.
const UNSENT_KIB_MAX: u32 = 32 << 10;

/// Where there is no room for another text, one that was read so short a time ago serves further requests.
const FRESH: Duration = Duration::from_secs(2);

/// An answer of which nothing was read for so long gives way to a request that needs its room.
const STALLED: Duration = Duration::from_secs(1);

/// How often those are looked for.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a request waits for room: less than the ten seconds that a scrape usually may take.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(8);

/// How long it waits for those that read. A text has at least so long to be read, then the oldest gives way.
const SLOW: Duration = Duration::from_secs(4);

/// How long a request waits for its reading: longer than a scraper does.
const READING_WAIT_MAX: Duration = Duration::from_secs(30);

/// Why a request got no answer.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    /// Too many requests are at hand.
    Busy,
    /// The source cannot tell, with cause and remedy.
    Source(String),
    /// The source did not answer in time.
    Late,
}

type Told = Result<Arc<Text>, Refusal>;
type Read = fn(&dyn Source) -> Result<Bytes, String>;

/// What all queues share.
pub(super) struct House {
    pub(super) source: Arc<dyn Source>,
    pub(super) connections: Arc<Connections>,
    places: Arc<Semaphore>,
    unsent_kib: Arc<Semaphore>,
    /// Held by the one reading that runs.
    turn: Mutex<()>,
}

impl House {
    pub(super) fn new(source: Arc<dyn Source>, connections: Arc<Connections>) -> Arc<Self> {
        Arc::new(Self {
            source,
            connections,
            places: Arc::new(Semaphore::new(PLACES)),
            unsent_kib: Arc::new(Semaphore::new(UNSENT_KIB_MAX as usize)),
            turn: Mutex::default(),
        })
    }

    /// Waits for room, and meanwhile ends answers that nobody reads; after a while also those that are read slowly, the
    /// oldest first, so that there is room in the end.
    async fn room<E>(
        &self,
        room: impl Future<Output = Result<OwnedSemaphorePermit, E>>,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        let began = Instant::now();
        let mut room = pin!(timeout(ROOM_WAIT_MAX, room));
        loop {
            match timeout(PAUSE, room.as_mut()).await {
                Ok(Ok(Ok(room))) => return Ok(room),
                Ok(_) => return Err(Refusal::Busy),
                Err(_) => self.source.refused(Refused::Unread, self.connections.end_unread(STALLED)),
            }
            if began.elapsed() >= SLOW {
                self.source.refused(Refused::Slow, self.connections.end_oldest(SLOW));
            }
        }
    }

    /// How a batch of requests gets its text.
    async fn begin(&self, last: &Weak<Text>, expected_kib: u32) -> Result<Begin, Refusal> {
        let has_room = self.unsent_kib.available_permits() >= expected_kib as usize;
        if !has_room && let Some(text) = last.upgrade().filter(|text| text.age() <= FRESH) {
            return Ok(Begin::Shared(text));
        }
        self.room(Arc::clone(&self.unsent_kib).acquire_many_owned(expected_kib)).await.map(Begin::Reading)
    }

    /// What a request holds from now on.
    pub(super) async fn hold(&self, connection: Arc<Connection>) -> Result<Held, Refusal> {
        connection.begins(Doing::Waiting);
        match self.room(Arc::clone(&self.places).acquire_owned()).await {
            Ok(place) => Ok(Held { connection, _place: place }),
            Err(refusal) => {
                connection.begins(Doing::Idle);
                Err(refusal)
            }
        }
    }
}

/// Where a text comes from.
enum Begin {
    /// It is being sent to others, who hold all the room.
    Shared(Arc<Text>),
    /// There is room for a new one.
    Reading(OwnedSemaphorePermit),
}

/// Requests for the same text.
pub(super) struct Queue(mpsc::Sender<oneshot::Sender<Told>>);

impl Queue {
    /// A queue for what `read` tells; it ends with the last handle.
    pub(super) fn start(house: Arc<House>, read: Read) -> Self {
        let (asked, asking) = mpsc::channel(PLACES);
        tokio::spawn(serve(house, read, asking));
        Self(asked)
    }

    /// The text of a reading that begins after this call; of one just before it where there is room for no other.
    pub(super) async fn ask(&self) -> Told {
        let (told, telling) = oneshot::channel();
        // Fails when the runtime ends, and with it everything here.
        self.0.send(told).await.map_err(|_| Refusal::Late)?;
        match timeout(READING_WAIT_MAX, telling).await {
            Ok(Ok(told)) => told,
            _ => Err(Refusal::Late),
        }
    }
}

async fn serve(house: Arc<House>, read: Read, mut asking: mpsc::Receiver<oneshot::Sender<Told>>) {
    // Room is taken before the text is there, by the size of the one before.
    let (mut last, mut expected_kib) = (Weak::new(), 0);
    while let Some(first) = asking.recv().await {
        let _turn = house.turn.lock().await;
        let begin = house.begin(&last, expected_kib).await;
        let mut waiting = vec![first];
        while let Ok(next) = asking.try_recv() {
            waiting.push(next);
        }
        waiting.retain(|one| !one.is_closed());
        if waiting.is_empty() {
            continue;
        }
        let told = match begin {
            Ok(Begin::Shared(text)) => Ok(text),
            Ok(Begin::Reading(room)) => tell(&house, read, room, &mut expected_kib).await,
            Err(refusal) => Err(refusal),
        };
        if let Ok(text) = &told {
            last = Arc::downgrade(text);
        }
        for one in waiting {
            // Whoever has left needs none.
            let _ = one.send(told.clone());
        }
    }
}

/// One reading, off the server's thread.
async fn tell(house: &House, read: Read, mut room: OwnedSemaphorePermit, expected_kib: &mut u32) -> Told {
    let source = Arc::clone(&house.source);
    let reading = tokio::task::spawn_blocking(move || read(source.as_ref())).await;
    let text = reading.map_err(|error| Refusal::Source(format!("the reading failed: {error}")))?;
    let text = text.map_err(Refusal::Source)?;
    let used = kib(&text);
    if used < *expected_kib {
        drop(room.split((*expected_kib - used) as usize));
    } else if let Ok(more) = Arc::clone(&house.unsent_kib).try_acquire_many_owned(used - *expected_kib) {
        // Without it the bound is passed by what this text has grown by, once: the next one waits for all of it.
        room.merge(more);
    }
    *expected_kib = used;
    Ok(Arc::new(Text::new(text, room)))
}

/// The room that a text takes, at most all of it.
fn kib(text: &Bytes) -> u32 {
    u32::try_from(text.len().div_ceil(1024)).unwrap_or(u32::MAX).min(UNSENT_KIB_MAX)
}

#[cfg(test)]
mod tests;
