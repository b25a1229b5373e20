//! Hand-made TCP segments, sent from inside a namespace with any source address.
//!
//! The kernel fills in the IP header's checksum and length; everything else is made here.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use super::netns::{Netns, SPOOFED_V4};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

/// An open raw socket.
pub(crate) struct RawSender {
    fd: OwnedFd,
}

impl RawSender {
    pub(crate) fn open(netns: &Netns) -> Self {
        Self { fd: netns.run(|| socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).unwrap()) }
    }

    /// Sends one segment without payload.
    pub(crate) fn send(&self, from: SocketAddrV4, to: SocketAddrV4, flags: u8) {
        let packet = packet(from, to, flags);
        let sent = sendto(&self.fd, &packet, SendFlags::empty(), &SocketAddr::V4(to)).unwrap();
        assert_eq!(sent, packet.len());
    }

    /// Sends one SYN each from `count` spoofed sources.
    pub(crate) fn flood(&self, to: SocketAddrV4, count: u16) {
        for number in 0..count {
            self.send(spoofed(number), to, SYN);
        }
    }
}

/// The spoofed source with this number.
pub(crate) fn spoofed(number: u16) -> SocketAddrV4 {
    let network = u32::from(SPOOFED_V4);
    // Not the network's own address, which the kernel refuses as a source.
    SocketAddrV4::new(Ipv4Addr::from(network + 1 + u32::from(number)), 20_000)
}

fn packet(from: SocketAddrV4, to: SocketAddrV4, flags: u8) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    // Sequence number: any, but not the same for two clients.
    tcp.extend((u32::from(*from.ip()) ^ u32::from(from.port())).to_be_bytes());
    tcp.extend(if flags & ACK == 0 { [0; 4] } else { 77_u32.to_be_bytes() });
    tcp.extend([5 << 4, flags]); // five words of header
    tcp.extend(64_000_u16.to_be_bytes()); // window
    tcp.extend([0; 4]); // checksum (below), urgent pointer
    let sum = checksum(from, to, &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());

    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(tcp);
    packet
}

/// The Internet checksum over pseudo header and segment.
fn checksum(from: SocketAddrV4, to: SocketAddrV4, tcp: &[u8]) -> u16 {
    let mut pseudo = [from.ip().octets(), to.ip().octets()].concat();
    pseudo.extend([0, 6]);
    pseudo.extend(u16::try_from(tcp.len()).unwrap().to_be_bytes());
    pseudo.extend(tcp);
    let sum: u32 = pseudo.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap()
}
