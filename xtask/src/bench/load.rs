//! Load for the measurements: TCP over loopback in a network namespace of its own, so that neither
//! its ports nor its TIME_WAIT sockets meet anything else on the machine.
//!
//! [`Load`] is the handle; [`serve`] is what runs in the namespace, in a copy of this program: it
//! answers each line of its input with a number. Client and server go in lock step. When they do not
//! wait for each other, the queue overflows and one-second retries swing the rate a hundredfold.

use std::env;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::crowd::Crowd;
use super::transitions::Transitions;
use crate::child::{Dialogue, in_own_netns};

/// Asks a load generator for load.
pub(super) struct Load(Dialogue);

impl Load {
    pub(super) fn start() -> Result<Self> {
        let own = env::current_exe().context("finding this program")?;
        Ok(Self(Dialogue::start(&mut in_own_netns(&own, &["bench", "--generate-load"]))?))
    }

    /// Another process in the same namespace: how many descriptors one may have is limited.
    pub(super) fn beside(&mut self) -> Result<Self> {
        // Its answer proves that it is in its namespace, and not still in the one that it came from.
        self.establish(0)?;
        let own = env::current_exe().context("finding this program")?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid())).arg(own).args(["bench", "--generate-load"]);
        Ok(Self(Dialogue::start(&mut command)?))
    }

    /// One thread connects, accepts and closes for so long; connections a second of its processor
    /// time, so that who else wants the processor does not count. Nearly all of it is the kernel's
    /// TCP: this is where a tracer weighs most.
    pub(super) fn connect(&mut self, time: Duration) -> Result<f64> {
        self.ask("connect", time.as_millis())
    }

    /// One thread accepts and closes, another connects and waits for the close; connections a
    /// second. As between programs: each connection wakes either thread.
    pub(super) fn connect_between_threads(&mut self, time: Duration) -> Result<f64> {
        self.ask("connect-between-threads", time.as_millis())
    }

    /// Sends a byte to and fro on one connection for so long; round trips a second.
    pub(super) fn echo(&mut self, time: Duration) -> Result<f64> {
        self.ask("echo", time.as_millis())
    }

    /// Opens so many listeners and keeps them.
    pub(super) fn listen(&mut self, listeners: u32) -> Result<()> {
        self.ask("listen", listeners.into()).map(drop)
    }

    /// Brings the namespace to so many TIME_WAIT sockets; how many there are.
    pub(super) fn time_wait(&mut self, sockets: u64) -> Result<u64> {
        self.ask_number("time-wait", sockets)
    }

    /// Keeps so many sockets established; how many there are.
    pub(super) fn establish(&mut self, sockets: u64) -> Result<u64> {
        self.ask_number("establish", sockets)
    }

    /// Makes the sockets for so many transitions a second.
    pub(super) fn pace(&mut self, transitions: u64) -> Result<()> {
        self.ask("pace", transitions.into()).map(drop)
    }

    /// Keeps that pace for so long, as far as it can; transitions made.
    pub(super) fn transit(&mut self, time: Duration) -> Result<f64> {
        self.ask("transit", time.as_millis())
    }

    /// The inode number of the namespace. Only after an answer: before, the process may still be in the one that it
    /// came from.
    pub(super) fn netns(&self) -> Result<u64> {
        Ok(fs::metadata(format!("/proc/{}/ns/net", self.pid()))?.ino())
    }

    /// A process in the namespace.
    pub(super) fn pid(&self) -> u32 {
        self.0.pid()
    }

    fn ask(&mut self, what: &str, amount: u128) -> Result<f64> {
        Ok(self.answer(what, amount)?.parse()?)
    }

    fn ask_number(&mut self, what: &str, amount: u64) -> Result<u64> {
        Ok(self.answer(what, amount.into())?.parse()?)
    }

    fn answer(&mut self, what: &str, amount: u128) -> Result<String> {
        self.0.say(&format!("{what} {amount}"))?;
        self.0.hear()
    }
}

/// The load generator: reads what to do until its input ends.
pub(super) fn serve() -> Result<()> {
    let mut kept = Vec::new();
    let mut crowd = None;
    let mut transitions = None;
    for line in io::stdin().lines() {
        let line = line?;
        let (what, amount) = line.split_once(' ').context("a line is `what amount`")?;
        let amount: u64 = amount.parse()?;
        let time = Duration::from_millis(amount);
        let answer = match what {
            "connect" => connect(time)?.to_string(),
            "connect-between-threads" => connect_between_threads(time)?.to_string(),
            "echo" => echo(time)?.to_string(),
            "listen" => listen(amount, &mut kept)?.to_string(),
            "time-wait" => crowded(&mut crowd)?.time_wait(amount)?.to_string(),
            "establish" => crowded(&mut crowd)?.establish(amount)?.to_string(),
            "pace" => transitions.insert(Transitions::new(amount)?).pace().to_string(),
            "transit" => transitions.as_ref().context("a pace comes first")?.make(time)?.to_string(),
            other => bail!("no load is called {other}"),
        };
        println!("{answer}");
    }
    Ok(())
}

/// Makes it on first use: other loads want the settings that they are used to.
fn crowded(crowd: &mut Option<Crowd>) -> Result<&mut Crowd> {
    match crowd {
        Some(crowd) => Ok(crowd),
        None => Ok(crowd.insert(Crowd::new()?)),
    }
}

fn connect(time: Duration) -> Result<f64> {
    let (listener, address) = open_listener()?;
    let (cpu, end) = (cpu_seconds()?, Instant::now() + time);
    let mut connections = 0_u32;
    while Instant::now() < end {
        let client = TcpStream::connect(address)?;
        let (server, _) = listener.accept()?;
        drop(client);
        drop(server);
        connections += 1;
    }
    Ok(f64::from(connections) / (cpu_seconds()? - cpu))
}

/// Processor time of this thread so far.
fn cpu_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").context("reading this thread's processor time")?;
    let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e9)
}

fn connect_between_threads(time: Duration) -> Result<f64> {
    let (listener, address) = open_listener()?;
    let ends = &AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(move || -> Result<()> {
            while !ends.load(Ordering::Relaxed) {
                drop(listener.accept()?);
            }
            Ok(())
        });
        let connections = wait_for_closes(address, time);
        ends.store(true, Ordering::Relaxed);
        // Wakes the server a last time; fails if it has ended already.
        let _ = TcpStream::connect(address);
        server.join().map_err(|_| anyhow!("the server's thread panicked"))??;
        connections
    })
}

fn wait_for_closes(address: SocketAddr, time: Duration) -> Result<f64> {
    let end = Instant::now() + time;
    let mut connections = 0_u32;
    while Instant::now() < end {
        let mut client = TcpStream::connect(address)?;
        if client.read(&mut [0])? > 0 {
            bail!("the server sends nothing");
        }
        connections += 1;
    }
    Ok(f64::from(connections) / time.as_secs_f64())
}

fn echo(time: Duration) -> Result<f64> {
    let (listener, address) = open_listener()?;
    let client = TcpStream::connect(address)?;
    let (server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let end = Instant::now() + time;
    let mut round_trips = 0_u32;
    while Instant::now() < end {
        for (mut from, mut to) in [(&client, &server), (&server, &client)] {
            from.write_all(b"x")?;
            to.read_exact(&mut [0])?;
        }
        round_trips += 1;
    }
    Ok(f64::from(round_trips) / time.as_secs_f64())
}

fn listen(listeners: u64, kept: &mut Vec<TcpListener>) -> Result<u32> {
    for _ in 0..listeners {
        kept.push(open_listener()?.0);
    }
    Ok(u32::try_from(kept.len())?)
}

fn open_listener() -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
