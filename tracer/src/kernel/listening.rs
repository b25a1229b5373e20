//! The kernel's own table of listening sockets, by sock_diag: what no open file leads to is in it as well (an
//! MPTCP socket's subflow, a service of the kernel, a descriptor that is in flight or held by io_uring alone).
//!
//! It covers the network namespace of the calling thread, and costs two sockets and two short dialogues.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{
        ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
        nlas::{MemInfo, Nla},
    },
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

/// What the kernel writes into one answer at most.
const ANSWER_BYTES: usize = 32 << 10;
/// `INET_DIAG_CGROUP_ID`, which the crate does not know.
const CGROUP_ID: u16 = 21;

/// One listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListeningSocket {
    /// Bound address, 16-byte form, network order.
    pub address: [u32; 4],
    /// Bound port.
    pub port: u16,
    /// cgroup v2 id of the socket; 0 where the kernel has none.
    pub cgroup: u64,
    /// Inode number of the socket's file; 0 if it has none.
    pub inode: u64,
    /// `sk_ack_backlog`: connections that wait for accept().
    pub accept_queue_length: u32,
    /// `sk_max_ack_backlog`: the queue holds one connection more.
    pub accept_queue_limit: u32,
    /// `sk_drops`, u32, wraps.
    pub sk_drops: u32,
}

/// A table of listening sockets.
#[derive(Debug)]
pub struct Table {
    /// As many as were asked for at most.
    pub sockets: Vec<ListeningSocket>,
    /// Whether these are all.
    pub is_whole: bool,
}

/// How often a table is asked for anew that changed while it was told.
const TRIES_MAX: usize = 3;

/// The listening TCP sockets of the calling thread's network namespace, `max` of them at most. ENOENT: the kernel is
/// without sock_diag for TCP (modules `inet_diag` and `tcp_diag`).
pub fn listening_sockets(max: usize) -> io::Result<Table> {
    let mut buffer = vec![0; ANSWER_BYTES];
    let mut table = Table { sockets: Vec::new(), is_whole: true };
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        // A socket each: a dialogue that was broken off would go on in the next.
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
        let told = of_family(&socket, (family, &any), max - table.sockets.len(), &mut buffer)?;
        table.is_whole &= told.is_over;
        table.sockets.extend(told.sockets);
    }
    Ok(table)
}

fn of_family(socket: &OwnedFd, (family, any): (u8, &SocketId), max: usize, buffer: &mut [u8]) -> io::Result<Told> {
    let mut told = Told::default();
    for _ in 0..TRIES_MAX {
        told = Told { max, ..Told::default() };
        ask(socket, family, any.clone())?;
        while !told.is_over && !told.is_cut {
            let (_, length) = recv(socket.as_fd(), &mut *buffer, RecvFlags::empty())?;
            told.take(buffer.get(..length).unwrap_or_default())?;
        }
        if !told.is_torn || told.is_cut {
            break;
        }
    }
    Ok(told)
}

fn ask(socket: &OwnedFd, family: u8, any: SocketId) -> io::Result<()> {
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::SKMEMINFO,
        states: StateFlags::LISTEN,
        socket_id: any,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    send(socket.as_fd(), &bytes, SendFlags::empty())?;
    Ok(())
}

/// What the kernel has told of one family.
#[derive(Debug, Default)]
struct Told {
    /// How many it may be.
    max: usize,
    sockets: Vec<ListeningSocket>,
    /// There are more.
    is_cut: bool,
    /// The table changed meanwhile, so that a socket may be missing or be there twice.
    is_torn: bool,
    is_over: bool,
}

impl Told {
    /// Takes one answer, which holds several messages.
    fn take(&mut self, mut answer: &[u8]) -> io::Result<()> {
        while !answer.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(answer).map_err(io::Error::other)?;
            self.is_torn |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(_)) if self.sockets.len() == self.max => {
                    self.is_cut = true;
                    return Ok(());
                }
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    self.sockets.push(read(&response));
                }
                // Without the module for TCP the end carries the error.
                NetlinkPayload::Done(end) if end.code < 0 => return Err(io::Error::from_raw_os_error(-end.code)),
                NetlinkPayload::Done(_) => self.is_over = true,
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages begin at multiples of four.
            let length = (message.header.length as usize).next_multiple_of(4);
            answer = answer.get(length..).unwrap_or_default();
        }
        Ok(())
    }
}

fn read(response: &InetResponse) -> ListeningSocket {
    let header = &response.header;
    let memory = response.nlas.iter().find_map(|attribute| match attribute {
        Nla::MemInfo(MemInfo { drops, .. }) => Some(*drops),
        _ => None,
    });
    ListeningSocket {
        address: words(header.socket_id.source_address),
        port: header.socket_id.source_port,
        cgroup: response.nlas.iter().find_map(cgroup).unwrap_or(0),
        inode: header.inode.into(),
        accept_queue_length: header.recv_queue,
        accept_queue_limit: header.send_queue,
        sk_drops: memory.unwrap_or(0),
    }
}

fn cgroup(attribute: &Nla) -> Option<u64> {
    use netlink_packet_core::Nla as _;
    let Nla::Other(other) = attribute else { return None };
    let mut id = [0; 8];
    if other.kind() != CGROUP_ID || other.value_len() != id.len() {
        return None;
    }
    other.emit_value(&mut id);
    Some(u64::from_ne_bytes(id))
}

/// The 16-byte form of an address, as the programs have it.
fn words(address: IpAddr) -> [u32; 4] {
    let bytes = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    zerocopy::transmute!(bytes)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn lists_both_families_with_their_queues() {
        for (address, bound) in [
            ("127.0.0.1:0", words("127.0.0.1".parse().unwrap())),
            ("0.0.0.0:0", words("0.0.0.0".parse().unwrap())),
            ("[::1]:0", words("::1".parse().unwrap())),
            ("[::]:0", [0; 4]),
        ] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
            let found: Vec<_> = listening_sockets(usize::MAX)
                .unwrap()
                .sockets
                .into_iter()
                .filter(|socket| socket.inode == inode)
                .collect();
            let [socket] = found.as_slice() else { panic!("{address}: {found:?}") };
            assert_eq!((socket.port, socket.address, socket.accept_queue_length), (port, bound, 0), "{address}");
            assert!(socket.accept_queue_limit > 0 && socket.cgroup > 0, "{socket:?}");
        }
    }

    /// A message of this type with these flags and this body.
    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
        [head, body.to_vec()].concat()
    }

    #[test]
    fn an_error_at_the_end_of_the_table_is_one() {
        const DONE: u16 = 3;
        let end = |code: i32, flags| message(DONE, flags, &code.to_ne_bytes());
        let mut told = Told::default();
        assert_eq!(told.take(&end(-libc::ENOENT, 2)).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert!(!told.is_over);
        told.take(&end(0, 2 | NLM_F_DUMP_INTR)).unwrap();
        assert!(told.is_over && told.is_torn && told.sockets.is_empty());
    }

    #[test]
    fn no_more_are_told_than_were_asked_for() {
        let _listeners = ["127.0.0.1:0", "[::1]:0", "[::1]:0"].map(|address| TcpListener::bind(address).unwrap());
        let table = listening_sockets(usize::MAX).unwrap();
        assert!(table.is_whole && table.sockets.len() >= 3, "{table:?}");
        for max in 0..3 {
            let table = listening_sockets(max).unwrap();
            assert!(!table.is_whole && table.sockets.len() == max, "{table:?}");
        }
    }

    #[test]
    fn one_that_was_closed_is_not_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        drop(listener);
        assert!(listening_sockets(usize::MAX).unwrap().sockets.iter().all(|socket| socket.inode != inode));
    }
}
