//! What the walk over the node's open files takes, listing listeners alone and counting sockets as
//! well, in turns, with more and more sockets of its own open.
//!
//! Run it as root in a namespace of its own, so that its connections meet nobody else's:
//! `unshare -n sh -c 'ip link set lo up; walk_cost'`. Prints medians in milliseconds. The rest of
//! the node's sockets and files is in all figures, the first of which is with none of its own.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracer::agent;
use tracer::config::{Config, Flags};
use tracer::kernel::load::Kernel;
use tracer::kernel::maps::Maps;

const SOCKETS: [usize; 3] = [0, 10_000, 50_000];
const ROUNDS: usize = 41;
/// Connections to one listener; all come from ports of one range.
const CONNECTIONS_EACH: usize = 10_000;
const LISTING: &str = "listeners_by_task";
const COUNTING: &str = "sockets_by_task";

fn main() -> Result<()> {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit })?;
    let config = Config::load(&Flags::default())?;
    let mut kernel = agent::prepare(&config).map_err(|failure| anyhow!(failure.message))?;
    let maps = kernel.maps()?;
    kernel.attach()?;
    let mut held = Vec::new();
    println!("{:>8} {:>8} {:>10} {:>10} {:>12}", "sockets", "counted", "listing", "counting", "more, each");
    for count in SOCKETS {
        open(&mut held, count).with_context(|| format!("opening {count} sockets"))?;
        measure(&mut kernel, &maps, held.len())?;
    }
    Ok(())
}

/// Opens connections until so many ends of connections are held.
fn open(held: &mut Vec<TcpStream>, count: usize) -> io::Result<()> {
    while held.len() < count {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        for _ in 0..CONNECTIONS_EACH.min((count - held.len()) / 2) {
            held.push(TcpStream::connect(listener.local_addr()?)?);
            held.push(listener.accept()?.0);
        }
    }
    Ok(())
}

fn measure(kernel: &mut Kernel, maps: &Maps, sockets: usize) -> Result<()> {
    let mut listing = Vec::with_capacity(ROUNDS);
    let mut counting = Vec::with_capacity(ROUNDS);
    let mut counted = 0;
    for generation in 1..=u32::try_from(ROUNDS)? {
        listing.push(time(|| kernel.walk(LISTING))?);
        let socket_maps = maps.socket_maps()?;
        // Apart from those of the sizes before.
        socket_maps.begin(generation + u32::try_from(sockets)?)?;
        counting.push(time(|| kernel.walk(COUNTING))?);
        counted = socket_maps.read()?.rows.iter().flat_map(|(_, row)| row.counts).sum::<u32>();
    }
    let (listing, counting) = (median(&mut listing), median(&mut counting));
    let more = counting.saturating_sub(listing).as_nanos() / u128::from(counted.max(1));
    let [listing, counting] = [listing, counting].map(|time| time.as_secs_f64() * 1e3);
    println!("{sockets:>8} {counted:>8} {listing:>7.2} ms {counting:>7.2} ms {more:>9} ns");
    Ok(())
}

fn time<T>(walk: impl FnOnce() -> io::Result<T>) -> io::Result<Duration> {
    let start = Instant::now();
    walk()?;
    Ok(start.elapsed())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
