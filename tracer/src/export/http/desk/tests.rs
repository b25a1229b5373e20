//! Requests and readers without sockets, on a clock that runs only while all wait.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use hyper::body::Body;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::export::http::answer::{Answer, PIECE_BYTES};

/// The text of a full node: there is room for one.
const LARGE: usize = 21 << 20;
/// A little more often than a reader must take a piece so as not to count as stalled.
const SLOWLY: Duration = Duration::from_millis(900);
const FAST: Duration = Duration::from_millis(1);

struct Fake {
    bytes: usize,
    /// Held by a test that wants a reading to take its time.
    slow: Mutex<()>,
    begun: AtomicUsize,
    refused: [AtomicUsize; Refused::ALL.len()],
}

impl Source for Fake {
    fn metrics(&self) -> Result<Bytes, String> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        drop(self.slow.blocking_lock());
        Ok(vec![0; self.bytes].into())
    }

    fn status(&self, _: bool) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn refused(&self, what: Refused, n: usize) {
        self.refused[what as usize].fetch_add(n, Ordering::SeqCst);
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

struct Server {
    fake: Arc<Fake>,
    house: Arc<House>,
    queue: Arc<Queue>,
}

fn start(bytes: usize) -> Server {
    let fake =
        Arc::new(Fake { bytes, slow: Mutex::default(), begun: AtomicUsize::default(), refused: Default::default() });
    let house = House::new(Arc::clone(&fake) as Arc<dyn Source>, Arc::default());
    let queue = Arc::new(Queue::start(Arc::clone(&house), <dyn Source>::metrics));
    Server { fake, house, queue }
}

impl Server {
    /// One that scrapes and takes a piece at a time; gives how many bytes it got, and how long it waited for the first.
    fn scrape(&self, pause: Duration) -> JoinHandle<(usize, Duration)> {
        let (house, queue) = (Arc::clone(&self.house), Arc::clone(&self.queue));
        tokio::spawn(async move {
            let begin = Instant::now();
            let connection = house.connections.open();
            let held = house.hold(Arc::clone(&connection)).await.unwrap();
            let mut answer = Answer::new(queue.ask().await.unwrap(), held);
            let (mut got, waited) = (0, begin.elapsed());
            loop {
                tokio::select! {
                    () = connection.is_cut() => return (got, waited),
                    () = sleep(pause) => {}
                }
                let piece = Pin::new(&mut answer).poll_frame(&mut Context::from_waker(Waker::noop()));
                let Poll::Ready(Some(Ok(piece))) = piece else { return (got, waited) };
                got += piece.into_data().unwrap().len();
            }
        })
    }

    fn refused(&self, what: Refused) -> usize {
        self.fake.refused[what as usize].load(Ordering::SeqCst)
    }

    fn begun(&self) -> usize {
        self.fake.begun.load(Ordering::SeqCst)
    }
}

/// Whoever came before a reading began is served by it, and whoever came later by the next one.
#[tokio::test(start_paused = true)]
async fn one_reading_serves_all_who_wait() {
    let server = start(1);
    let slow = server.fake.slow.lock().await;
    let mut asking = vec![Box::pin(server.queue.ask())];
    assert!(poll(&mut asking[0]).is_none());
    while server.begun() == 0 {
        tokio::task::yield_now().await;
    }
    asking.extend((0..100).map(|_| Box::pin(server.queue.ask())));
    assert!(asking.iter_mut().skip(1).all(|asking| poll(asking).is_none()));
    drop(slow);
    for one in asking {
        assert!(one.await.is_ok());
    }
    assert_eq!(server.begun(), 2);
}

/// What is there at once.
fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Option<F::Output> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Both read at their leisure, of a text beside which there is room for no other.
#[tokio::test(start_paused = true)]
async fn two_at_once_both_get_all_of_a_large_text() {
    let server = start(LARGE);
    // From here on the size is known.
    assert_eq!(server.scrape(FAST).await.unwrap().0, LARGE);
    let leisure = Duration::from_secs(5) / u32::try_from(LARGE / PIECE_BYTES).unwrap();
    let first = server.scrape(leisure);
    sleep(FRESH / 2).await;
    let second = server.scrape(leisure);
    let (second, waited) = second.await.unwrap();
    assert_eq!((first.await.unwrap().0, second), (LARGE, LARGE));
    assert!(waited < PAUSE, "it waited {waited:?}");
    assert_eq!(server.begun(), 2, "the second was given the first one's text");
    assert_eq!([Refused::Unread, Refused::Slow].map(|what| server.refused(what)), [0, 0]);
}

/// A text that is not fresh serves nobody else, but is read to its end.
#[tokio::test(start_paused = true)]
async fn a_reader_has_its_time() {
    let server = start(LARGE);
    assert_eq!(server.scrape(FAST).await.unwrap().0, LARGE);
    let leisure = Duration::from_secs(5) / u32::try_from(LARGE / PIECE_BYTES).unwrap();
    let first = server.scrape(leisure);
    sleep(FRESH + PAUSE).await;
    let second = server.scrape(FAST).await.unwrap();
    assert_eq!((first.await.unwrap().0, second.0), (LARGE, LARGE));
    assert!(second.1 < SLOW, "it waited {:?}", second.1);
    assert_eq!(server.begun(), 3);
    assert_eq!([Refused::Unread, Refused::Slow].map(|what| server.refused(what)), [0, 0]);
}

/// Clients that take just enough not to count as stalled hold all the room, each time that there is some.
#[tokio::test(start_paused = true)]
async fn slow_readers_give_way_in_the_end() {
    let server = start(LARGE);
    assert_eq!(server.scrape(FAST).await.unwrap().0, LARGE);
    for round in 1..4 {
        let slow = [(); 5].map(|()| server.scrape(SLOWLY));
        sleep(FRESH + PAUSE).await;
        let (got, waited) = server.scrape(FAST).await.unwrap();
        assert_eq!(got, LARGE);
        assert!(waited <= SLOW + PAUSE * 3, "it waited {waited:?}");
        for slow in slow {
            let got = slow.await.unwrap().0;
            assert!(got > 0 && got < LARGE, "{got} bytes");
        }
        assert_eq!([Refused::Unread, Refused::Slow].map(|what| server.refused(what)), [0, round * 5]);
    }
}

/// At once where it is not fresh, for it has been stalled for longer than it may.
#[tokio::test(start_paused = true)]
async fn a_text_that_nobody_reads_gives_way_at_once() {
    let server = start(LARGE);
    assert_eq!(server.scrape(FAST).await.unwrap().0, LARGE);
    let never = server.scrape(READING_WAIT_MAX);
    sleep(FRESH + PAUSE).await;
    let (got, waited) = server.scrape(FAST).await.unwrap();
    assert_eq!(got, LARGE);
    assert!(waited <= PAUSE * 2, "it waited {waited:?}");
    assert_eq!(never.await.unwrap().0, 0);
    assert_eq!([Refused::Unread, Refused::Slow].map(|what| server.refused(what)), [1, 0]);
}

/// All places are with readers that are just fast enough.
#[tokio::test(start_paused = true)]
async fn there_is_a_place_in_the_end() {
    let server = start(PIECE_BYTES * 100);
    let slow: Vec<_> = (0..PLACES).map(|_| server.scrape(SLOWLY)).collect();
    sleep(PAUSE).await;
    let (got, waited) = server.scrape(FAST).await.unwrap();
    assert_eq!(got, PIECE_BYTES * 100);
    assert!(waited <= SLOW + PAUSE * 3, "it waited {waited:?}");
    assert!(server.refused(Refused::Slow) > 0);
    drop(slow);
}
