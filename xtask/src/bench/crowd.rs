//! Sockets by the hundred thousand, for the passes to look at: the part that runs in the load
//! generator's network namespace.
//!
//! TIME_WAIT sockets come from connections over loopback that the client closes first, to many
//! addresses, since one destination has no more ports than the range. They last a minute, so whoever
//! wants so many asks again before each measurement. Established ones stay as long as this does.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Addresses that are connected to, in turns. 500 000 sockets use a quarter of the ports towards each,
/// so that the next free one is near.
const ADDRESSES: u8 = 32;

/// Connections between two looks at how many TIME_WAIT sockets there are.
const STRIDE: u32 = 1000;

/// What cannot be had in this time expires as fast as it comes.
const LIMIT: Duration = Duration::from_secs(90);

/// The sockets of one namespace.
pub(super) struct Crowd {
    listener: TcpListener,
    port: u16,
    turn: u8,
    kept: Vec<(TcpStream, TcpStream)>,
}

impl Crowd {
    pub(super) fn new() -> Result<Self> {
        for (setting, value) in [("tcp_max_tw_buckets", "4000000"), ("tcp_tw_reuse", "0")] {
            let path = format!("/proc/sys/net/ipv4/{setting}");
            fs::write(&path, value).with_context(|| format!("writing {path}"))?;
        }
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port, turn: 0, kept: Vec::new() })
    }

    /// Brings the namespace to so many TIME_WAIT sockets, as far as they come faster than they go;
    /// how many there are.
    pub(super) fn time_wait(&mut self, wanted: u64) -> Result<u64> {
        let end = Instant::now() + LIMIT;
        loop {
            let there = time_wait_sockets()?;
            if there >= wanted || Instant::now() > end {
                return Ok(there);
            }
            for _ in 0..STRIDE.min(u32::try_from(wanted - there)?) {
                let (client, server) = self.connect()?;
                drop(client);
                drop(server);
            }
        }
    }

    /// Keeps so many sockets established, as far as memory and descriptors go; how many there are.
    pub(super) fn establish(&mut self, wanted: u64) -> Result<u64> {
        while (self.kept.len() as u64) < wanted / 2 {
            match self.connect() {
                Ok(pair) => self.kept.push(pair),
                Err(error) if is_exhausted(&error) => {
                    // A few descriptors for what else is to be done.
                    self.kept.truncate(self.kept.len().saturating_sub(8));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(2 * self.kept.len() as u64)
    }

    fn connect(&mut self) -> std::io::Result<(TcpStream, TcpStream)> {
        self.turn = (self.turn + 1) % ADDRESSES;
        let client = TcpStream::connect((Ipv4Addr::new(127, 1, 0, 1 + self.turn), self.port))?;
        let (server, _) = self.listener.accept()?;
        Ok((client, server))
    }
}

fn is_exhausted(error: &std::io::Error) -> bool {
    /// `EMFILE` and `ENFILE`, which have no kind of their own.
    const DESCRIPTORS: [i32; 2] = [24, 23];
    error.kind() == ErrorKind::OutOfMemory || error.raw_os_error().is_some_and(|error| DESCRIPTORS.contains(&error))
}

fn time_wait_sockets() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/sockstat")?;
    parse(&text).context("no TIME_WAIT sockets in sockstat")
}

fn parse(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_once(" tw ")?.1.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_wait_sockets_are_read_by_name() {
        assert_eq!(parse("sockets: used 9\nTCP: inuse 1 orphan 2 tw 3 alloc 4 mem 5\n"), Some(3));
        assert_eq!(parse("UDP: inuse 1 tw 3\n"), None);
    }
}
