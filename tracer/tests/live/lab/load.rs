//! Loads that several tests share: connection churn against a small queue, closes, transfers.
//!
//! Every load is bounded by a count or a time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::netns::{Netns, Pair};
use super::setting::patient;
use super::sockets::{Client, Listener};

/// Connects and resets in a tight loop from `threads` threads while one thread accepts: the
/// accept queue fills and drains all the time. Returns how many connections were accepted.
pub(crate) fn churn(clients: &Netns, listener: &Listener, to: SocketAddr, threads: usize, time: Duration) -> u64 {
    let done = AtomicBool::new(false);
    let accepted = AtomicU64::new(0);
    let deadline = Instant::now() + time;
    std::thread::scope(|scope| {
        let acceptor = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                accepted.fetch_add(u64::from(listener.accept().is_some()), Ordering::Relaxed);
            }
        });
        let connectors: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    clients.run(|| {
                        while Instant::now() < deadline {
                            Client::connect_here(to).reset();
                        }
                    });
                })
            })
            .collect();
        for connector in connectors {
            connector.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        acceptor.join().unwrap();
    });
    while listener.accept().is_some() {
        accepted.fetch_add(1, Ordering::Relaxed);
    }
    accepted.into_inner()
}

/// Who closes a connection first, and so passes through `TIME_WAIT`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstClose {
    Client,
    Server,
}

/// Opens and closes `count` connections, one after the other.
pub(crate) fn open_and_close(clients: &Netns, listener: &Listener, to: SocketAddr, count: usize, first: FirstClose) {
    for _ in 0..count {
        let client = Client::connect(clients, to).into_stream();
        let server = listener.accept_stream();
        let (first, mut second) = match first {
            FirstClose::Client => (client, server),
            FirstClose::Server => (server, client),
        };
        drop(first);
        // The FIN must be there before the other end closes, or both close actively.
        assert_eq!(second.read(&mut [0; 1]).unwrap(), 0, "end of stream expected");
    }
}

/// Which way the data goes.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// An established connection between the namespaces, both ends in hand.
pub(crate) struct Connection {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Connection {
    pub(crate) fn open(pair: &Pair, listener: &Listener, to: SocketAddr) -> Self {
        let client = Client::connect(&pair.client, to).into_stream();
        let server = listener.accept_stream();
        Self { client, server }
    }

    /// Sends until `bytes` are out or `time` (more on slow machines) is up, and reads at the other end
    /// meanwhile.
    pub(crate) fn transfer(&mut self, direction: Direction, bytes: usize, time: Duration) {
        let time = patient(time);
        let (sender, receiver) = match direction {
            Direction::ToServer => (&mut self.client, &mut self.server),
            Direction::ToClient => (&mut self.server, &mut self.client),
        };
        let deadline = Instant::now() + time;
        sender.set_write_timeout(Some(time)).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = vec![0; 64 << 10];
                // Ends at a time-out after the sender is done; the limit is a second one.
                while receiver.read(&mut buffer).is_ok() || !done.load(Ordering::Relaxed) {
                    assert!(Instant::now() < deadline + patient(Duration::from_secs(5)), "the receiver hangs");
                }
            });
            let block = [0x5a; 16 << 10];
            let mut left = bytes;
            while left > 0 && Instant::now() < deadline {
                match sender.write(&block[..left.min(block.len())]) {
                    Ok(written) => left -= written,
                    Err(_) => break,
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
