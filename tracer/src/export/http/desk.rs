//! Where requests wait for what the source tells: one reading runs at a time, and serves all who came before it.
//!
//! So a scrape takes at most twice its time alone, however many ask, and clients that never read hold few texts.
//! Their bytes are bounded until they are sent. Room is made by ending answers that nobody reads.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    Refused, Source,
    answer::{self, Held},
    connections::{Connection, Connections, Doing},
};

/// Requests that wait or whose answers are on their way: half of the connections, so that there is always one to give
/// way to a probe.
const PLACES: usize = 256;

/// Texts that are not sent: one of 20 000 listeners, or many of a usual node. In KiB, which is what permits count.
const UNSENT_KIB_MAX: u32 = 32 << 10;

/// An answer of which nothing was read for so long gives way to a request that needs its room.
const STALLED: Duration = Duration::from_millis(250);

/// How often those are looked for, and how long a request waits for room.
const PAUSE: Duration = Duration::from_millis(20);
const ROOM_WAIT_MAX: Duration = Duration::from_secs(2);

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

type Told = Result<Bytes, Refusal>;
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

    /// Waits for room, and meanwhile ends answers that nobody reads.
    async fn room<E>(
        &self,
        room: impl Future<Output = Result<OwnedSemaphorePermit, E>>,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        let mut room = pin!(timeout(ROOM_WAIT_MAX, room));
        loop {
            match timeout(PAUSE, room.as_mut()).await {
                Ok(Ok(Ok(room))) => return Ok(room),
                Ok(_) => return Err(Refusal::Busy),
                Err(_) => self.source.refused(Refused::Unread, self.connections.end_unread(STALLED)),
            }
        }
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

/// Requests for the same text.
pub(super) struct Queue(mpsc::Sender<oneshot::Sender<Told>>);

impl Queue {
    /// A queue for what `read` tells; it ends with the last handle.
    pub(super) fn start(house: Arc<House>, read: Read) -> Self {
        let (asked, asking) = mpsc::channel(PLACES);
        tokio::spawn(serve(house, read, asking));
        Self(asked)
    }

    /// The text of a reading that begins after this call.
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
    let mut expected_kib = 0;
    while let Some(first) = asking.recv().await {
        let _turn = house.turn.lock().await;
        let room = house.room(Arc::clone(&house.unsent_kib).acquire_many_owned(expected_kib)).await;
        let mut waiting = vec![first];
        while let Ok(next) = asking.try_recv() {
            waiting.push(next);
        }
        waiting.retain(|one| !one.is_closed());
        if waiting.is_empty() {
            continue;
        }
        let told = match room {
            Ok(room) => tell(&house, read, room, expected_kib).await,
            Err(refusal) => Err(refusal),
        };
        if let Ok(text) = &told {
            expected_kib = kib(text);
        }
        for one in waiting {
            // Whoever has left needs none.
            let _ = one.send(told.clone());
        }
    }
}

/// One reading, off the server's thread.
async fn tell(house: &House, read: Read, mut room: OwnedSemaphorePermit, expected_kib: u32) -> Told {
    let source = Arc::clone(&house.source);
    let reading = tokio::task::spawn_blocking(move || read(source.as_ref())).await;
    let text = reading.map_err(|error| Refusal::Source(format!("the reading failed: {error}")))?;
    let text = text.map_err(Refusal::Source)?;
    let used = kib(&text);
    if used < expected_kib {
        drop(room.split((expected_kib - used) as usize));
    } else if let Ok(more) = Arc::clone(&house.unsent_kib).try_acquire_many_owned(used - expected_kib) {
        // Without it the bound is passed by what this text has grown by, once: the next one waits for all of it.
        room.merge(more);
    }
    Ok(answer::share(text, room))
}

/// The room that a text takes, at most all of it.
fn kib(text: &Bytes) -> u32 {
    u32::try_from(text.len().div_ceil(1024)).unwrap_or(u32::MAX).min(UNSENT_KIB_MAX)
}
