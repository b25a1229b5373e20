//! State transitions at a pace: the part that runs in the load generator's network namespace.
//!
//! A socket tries to connect by the two addresses and ports that a connection has already. The kernel
//! makes it SYN_SENT, finds them taken, makes it CLOSE again and says `EADDRNOTAVAIL`: two calls of
//! `inet_sock_set_state` for one system call, and no packet. So one core makes them many times faster
//! than connections, and their number is known exactly.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

/// CLOSE → SYN_SENT → CLOSE.
const TRANSITIONS_PER_CONNECT: u64 = 2;

/// Time between two looks at what is due. A ring that holds a third of a second does not notice it.
const STEP: Duration = Duration::from_millis(1);

/// Most connects between two looks at the clock: some milliseconds, so that what the machine held up
/// is made up for, and a pace that cannot be kept ends in time.
const CONNECTS_PER_STEP: u64 = 4096;

/// The sockets.
pub(super) struct Transitions {
    /// Has the addresses and ports that are tried.
    _connection: (TcpStream, TcpStream),
    socket: OwnedFd,
    server: SocketAddr,
    /// Transitions a second.
    pace: u64,
}

impl Transitions {
    /// Makes the sockets, which takes some transitions itself.
    pub(super) fn new(pace: u64) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let server = listener.local_addr()?;
        let client = reusing(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        connect(&client, &server).context("connecting the one that succeeds")?;
        let client = TcpStream::from(client);
        let socket = reusing(client.local_addr()?)?;
        let (accepted, _) = listener.accept()?;
        Ok(Self { _connection: (client, accepted), socket, server, pace })
    }

    /// Transitions a second.
    pub(super) fn pace(&self) -> u64 {
        self.pace
    }

    /// Keeps the pace for so long, or does as much as it can; transitions made.
    pub(super) fn make(&self, time: Duration) -> Result<u64> {
        let (start, mut made) = (Instant::now(), 0);
        loop {
            let elapsed = start.elapsed().min(time);
            let connects =
                (due(self.pace, elapsed).saturating_sub(made) / TRANSITIONS_PER_CONNECT).min(CONNECTS_PER_STEP);
            for _ in 0..connects {
                self.fail_to_connect()?;
            }
            made += connects * TRANSITIONS_PER_CONNECT;
            if elapsed == time {
                return Ok(made);
            }
            if connects < CONNECTS_PER_STEP {
                thread::sleep(STEP);
            }
        }
    }

    fn fail_to_connect(&self) -> Result<()> {
        match connect(&self.socket, &self.server) {
            Err(Errno::ADDRNOTAVAIL) => Ok(()),
            other => bail!("connecting by addresses and ports that are taken: {other:?}"),
        }
    }
}

/// A socket that shares its local address and port with others.
fn reusing(local: SocketAddr) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &local).with_context(|| format!("binding to {local}"))?;
    Ok(socket)
}

/// How many there are to be after so long.
fn due(pace: u64, elapsed: Duration) -> u64 {
    u64::try_from(u128::from(pace) * elapsed.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_grows_with_time() {
        assert_eq!(due(250_000, Duration::ZERO), 0);
        assert_eq!(due(250_000, Duration::from_micros(1_500)), 375);
        assert_eq!(due(u64::MAX, Duration::from_secs(9)), u64::MAX);
    }

    #[test]
    fn a_pace_is_kept_to_and_the_time_too() {
        let paced = Transitions::new(2_000).unwrap();
        assert_eq!(paced.make(Duration::from_millis(50)).unwrap(), 100);
        let unpaced = Transitions::new(u64::MAX).unwrap();
        let start = Instant::now();
        assert!(unpaced.make(Duration::from_millis(20)).unwrap() > 0);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
