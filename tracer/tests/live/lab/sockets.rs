//! The test's own listeners and clients, with the settings that `std::net` fixes.
//!
//! All sockets are non-blocking: a test decides itself how long it waits. A socket belongs to the
//! namespace it was made in and is used from any thread.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, accept_with, bind, connect, getsockname, listen, sendto,
    socket_with, sockopt,
};

use super::netns::Netns;
use super::settled::Settled;
use super::wait::until;

/// `/proc/net/tcp`'s numbers for states.
pub(crate) const ESTABLISHED: u8 = 1;
pub(crate) const SYN_SENT: u8 = 2;
pub(crate) const SYN_RECV: u8 = 3;
pub(crate) const FIN_WAIT1: u8 = 4;
pub(crate) const TIME_WAIT: u8 = 6;
pub(crate) const FIN_WAIT2: u8 = 5;
const LISTEN: u8 = 10;

/// A listening socket.
pub(crate) struct Listener {
    fd: OwnedFd,
}

impl Listener {
    pub(crate) fn open(netns: &Netns, address: SocketAddr, backlog: i32) -> Self {
        Self::make(netns, address, backlog, &Share::Not)
    }

    /// Listens without having bound an address.
    pub(crate) fn unbound(netns: &Netns, backlog: i32) -> Self {
        Self::try_unbound(netns, backlog).unwrap()
    }

    /// The same, where there may be no port to listen on.
    pub(crate) fn try_unbound(netns: &Netns, backlog: i32) -> Result<Self, Errno> {
        let fd = netns.run(|| stream_socket(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))));
        listen(&fd, backlog)?;
        Ok(Self { fd })
    }

    /// One socket of a `SO_REUSEPORT` group.
    pub(crate) fn open_shared(netns: &Netns, address: SocketAddr, backlog: i32) -> Self {
        Self::make(netns, address, backlog, &Share::ReusePort)
    }

    /// For connections that come by this device: others may listen on the same address for other devices.
    pub(crate) fn open_on(netns: &Netns, device: &str, address: SocketAddr, backlog: i32) -> Self {
        Self::make(netns, address, backlog, &Share::Device(device))
    }

    fn make(netns: &Netns, address: SocketAddr, backlog: i32, share: &Share<'_>) -> Self {
        let fd = netns.run(|| stream_socket(&address));
        sockopt::set_socket_reuseaddr(&fd, true).unwrap();
        match share {
            Share::Not => {}
            Share::ReusePort => sockopt::set_socket_reuseport(&fd, true).unwrap(),
            Share::Device(device) => bind_to_device(&fd, device),
        }
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, false).unwrap();
        }
        bind(&fd, &address).unwrap();
        listen(&fd, backlog).unwrap();
        Self { fd }
    }

    /// The address, with the port that the kernel chose if it was left to it.
    pub(crate) fn address(&self) -> SocketAddr {
        getsockname(&self.fd).unwrap().try_into().unwrap()
    }

    /// The socket itself.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Calls `listen()` again.
    pub(crate) fn listen_again(&self, backlog: i32) {
        listen(&self.fd, backlog).unwrap();
    }

    /// Takes one connection if one waits.
    pub(crate) fn accept(&self) -> Option<OwnedFd> {
        match accept_with(&self.fd, SocketFlags::CLOEXEC) {
            Ok(connection) => Some(connection),
            // ECONNABORTED: the client reset it before it was taken; it was taken all the same.
            Err(Errno::AGAIN | Errno::CONNABORTED) => None,
            Err(error) => panic!("accept: {error}"),
        }
    }

    /// Takes one connection, waiting for it.
    pub(crate) fn accept_stream(&self) -> TcpStream {
        let connection =
            until("a connection to accept", Duration::from_secs(5), || self.accept().ok_or_else(String::new));
        TcpStream::from(connection)
    }
}

/// How a listener shares its address and port with others.
enum Share<'a> {
    Not,
    ReusePort,
    Device(&'a str),
}

/// `SO_BINDTODEVICE`.
#[expect(unsafe_code, reason = "no crate among ours offers this option")]
fn bind_to_device(fd: &OwnedFd, device: &str) {
    let length = libc::socklen_t::try_from(device.len()).unwrap();
    let name = device.as_ptr().cast();
    // SAFETY: `name` has as many bytes as `length` says, and the kernel only reads them.
    let set = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name, length) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// A client socket on its way.
pub(crate) struct Client {
    fd: OwnedFd,
    to: SocketAddr,
    /// What `connect()` said in the end.
    result: Option<Result<(), Errno>>,
}

impl Client {
    pub(crate) fn connect(netns: &Netns, to: SocketAddr) -> Self {
        Self::one_by_one(netns, std::iter::once(()), |()| Self::connect_here(to)).remove(0)
    }

    pub(crate) fn connect_many(netns: &Netns, to: SocketAddr, count: usize) -> Vec<Self> {
        Self::one_by_one(netns, 0..count, |_| Self::connect_here(to))
    }

    /// Each finds the accept queue as those before it left it.
    fn one_by_one<T: Send>(
        netns: &Netns,
        clients: impl Iterator<Item = T> + Send,
        connect: impl Fn(T) -> Self + Sync + Send,
    ) -> Vec<Self> {
        netns.run(|| {
            let settled = Settled::on_this_cpu();
            let connect = |client| {
                let client = connect(client);
                settled.wait();
                client
            };
            clients.map(connect).collect()
        })
    }

    /// Connects from each of these ports, so that a firewall can tell these clients from others.
    pub(crate) fn connect_from(netns: &Netns, ports: RangeInclusive<u16>, to: SocketAddr) -> Vec<Self> {
        let any: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let connect = |port| {
            let fd = stream_socket(&to);
            bind(&fd, &SocketAddr::new(any, port)).unwrap();
            Self::on(fd, to)
        };
        Self::one_by_one(netns, ports, connect)
    }

    /// Connects from an address of its own, with port 0 from a port that `bind()` is given. The error is that of
    /// `bind()`.
    pub(crate) fn connect_bound(netns: &Netns, from: SocketAddr, to: SocketAddr) -> Result<Self, Errno> {
        let fd = netns.run(|| stream_socket(&to));
        bind(&fd, &from)?;
        Ok(Self::on(fd, to))
    }

    /// The same, from a port that others may share (`SO_REUSEPORT`).
    pub(crate) fn connect_from_shared(netns: &Netns, from: SocketAddr, to: SocketAddr) -> Self {
        let fd = netns.run(|| stream_socket(&to));
        sockopt::set_socket_reuseport(&fd, true).unwrap();
        bind(&fd, &from).unwrap();
        Self::on(fd, to)
    }

    /// Connects in a call that returns when the connection is there.
    pub(crate) fn connect_bound_blocking(netns: &Netns, from: SocketAddr, to: SocketAddr) -> Self {
        let fd = netns.run(|| stream_socket(&to));
        bind(&fd, &from).unwrap();
        ioctl_fionbio(&fd, false).unwrap();
        Self::on(fd, to)
    }

    /// Connects with the first data in the SYN.
    pub(crate) fn fast_open(netns: &Netns, to: SocketAddr, data: &[u8]) -> Self {
        netns.run(|| Self::fast_open_here(to, data))
    }

    /// The same for threads that are in their namespace already.
    pub(crate) fn fast_open_here(to: SocketAddr, data: &[u8]) -> Self {
        /// `MSG_FASTOPEN`
        const FAST_OPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);
        let fd = stream_socket(&to);
        let result = match sendto(&fd, data, FAST_OPEN, &to) {
            Ok(_) => Some(Ok(())),
            Err(Errno::INPROGRESS) => None,
            Err(error) => Some(Err(error)),
        };
        Self { fd, to, result }
    }

    /// For threads that are in their namespace already.
    pub(crate) fn connect_here(to: SocketAddr) -> Self {
        Self::on(stream_socket(&to), to)
    }

    fn on(fd: OwnedFd, to: SocketAddr) -> Self {
        let result = match connect(&fd, &to) {
            Ok(()) => Some(Ok(())),
            Err(Errno::INPROGRESS) => None,
            Err(error) => Some(Err(error)),
        };
        Self { fd, to, result }
    }

    /// How the connect stands: `None` = no answer yet.
    pub(crate) fn result(&mut self) -> Option<Result<(), Errno>> {
        // SO_ERROR would also tell of errors that connect() outlives: an ICMP error that came too
        // early to end it. Asking again tells only the end.
        if self.result.is_none() {
            self.result = match connect(&self.fd, &self.to) {
                Ok(()) => Some(Ok(())),
                Err(Errno::ALREADY) => None,
                Err(error) => Some(Err(error)),
            };
        }
        self.result
    }

    /// The error that waits for the program (`SO_ERROR`), which the kernel forgets by that.
    pub(crate) fn take_error(&self) -> Option<Errno> {
        sockopt::socket_error(&self.fd).unwrap().err()
    }

    /// Waits for the end of `connect()`.
    pub(crate) fn outcome(&mut self, limit: Duration) -> Result<(), Errno> {
        until("the end of connect()", limit, || self.result().ok_or_else(|| "still in SYN_SENT".to_owned()))
    }

    /// Closes with RST instead of FIN, leaving no TIME_WAIT.
    pub(crate) fn reset(self) {
        sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO)).unwrap();
    }

    /// Waits for the connection and hands it over as a blocking stream.
    pub(crate) fn into_stream(mut self) -> TcpStream {
        self.outcome(Duration::from_secs(5)).unwrap();
        let stream = TcpStream::from(self.fd);
        stream.set_nonblocking(false).unwrap();
        stream
    }
}

/// How many sockets of `netns` with the remote port `port` are in `state`.
pub(crate) fn clients_in_state(netns: &Netns, port: u16, state: u8) -> usize {
    table(netns).iter().filter(|row| row.remote_port == port && row.state == state).count()
}

/// How many sockets of `netns` with the local port `port` are in `state`.
pub(crate) fn servers_in_state(netns: &Netns, port: u16, state: u8) -> usize {
    table(netns).iter().filter(|row| row.local_port == port && row.state == state).count()
}

/// Accept-queue lengths of the listeners on `port`, in no order.
pub(crate) fn accept_queues(netns: &Netns, port: u16) -> Vec<u32> {
    table(netns)
        .iter()
        .filter(|row| row.local_port == port && row.state == LISTEN)
        .map(|row| row.receive_queue)
        .collect()
}

/// The states that `/proc/net/tcp` and `tcp6` list sockets in which a process holds: with an inode.
pub(crate) fn held_by_state(netns: &Netns) -> BTreeMap<u8, u64> {
    let mut counts = BTreeMap::new();
    for row in table(netns).iter().filter(|row| row.is_held) {
        *counts.entry(row.state).or_default() += 1;
    }
    counts
}

struct Row {
    is_held: bool,
    local_port: u16,
    remote_port: u16,
    state: u8,
    /// Of a listener: the length of its accept queue.
    receive_queue: u32,
}

fn table(netns: &Netns) -> Vec<Row> {
    let text = netns.run(|| {
        let read = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
        read("tcp") + &read("tcp6")
    });
    let rows = text.lines().filter(|line| !line.contains("local_address"));
    rows.map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
        let receive_queue = fields[4].split_once(':').unwrap().1;
        Row {
            is_held: fields[9] != "0",
            local_port: port(fields[1]),
            remote_port: port(fields[2]),
            state: u8::from_str_radix(fields[3], 16).unwrap(),
            receive_queue: u32::from_str_radix(receive_queue, 16).unwrap(),
        }
    })
    .collect()
}

fn stream_socket(address: &SocketAddr) -> OwnedFd {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None).unwrap()
}
