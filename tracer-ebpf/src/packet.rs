//! Headers of a packet at a cgroup hook: its data begins with the IP header.

use aya_ebpf::{bindings::bpf_sock_tuple, programs::SkBuffContext};

use crate::sock::v4_mapped;

/// TCP flag.
pub const FIN: u8 = 0x01;
/// TCP flag.
pub const SYN: u8 = 0x02;
/// TCP flag.
pub const RST: u8 = 0x04;
/// TCP flag.
pub const ACK: u8 = 0x10;

const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_DSTOPTS: u8 = 60;
/// Extension headers that a TCP packet may carry before we give up on it; each kind occurs once.
const EXTENSION_HEADERS_MAX: usize = 4;

/// What the packet rung needs of a TCP packet. Ports and sequence numbers in host order.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Source address in the 16-byte form.
    pub source: [u32; 4],
    /// Destination address in the 16-byte form.
    pub destination: [u32; 4],
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// First sequence number.
    pub sequence: u32,
    /// Acknowledged sequence number.
    pub ack_sequence: u32,
    /// Bytes of payload.
    pub payload: u32,
    /// The low byte of the TCP flags.
    pub flags: u8,
    v6: bool,
}

/// First 20 bytes of the TCP header.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHeader {
    source_be: u16,
    destination_be: u16,
    sequence_be: u32,
    ack_sequence_be: u32,
    data_offset: u8,
    flags: u8,
    rest: [u16; 3],
}

/// IPv4 header without options.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4Header {
    version_ihl: u8,
    tos: u8,
    total_length_be: u16,
    rest: [u8; 5],
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

/// IPv6 header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6Header {
    version: [u8; 4],
    payload_length_be: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

impl Packet {
    /// Parses the headers; `None` if it is not TCP. Cost: 3 h.
    #[inline(always)]
    pub fn parse(ctx: &SkBuffContext) -> Option<Self> {
        let version = ctx.load::<u8>(0).ok()? >> 4;
        if version == 4 { Self::parse_v4(ctx) } else { Self::parse_v6(ctx) }
    }

    #[inline(always)]
    fn parse_v4(ctx: &SkBuffContext) -> Option<Self> {
        let ip = ctx.load::<Ipv4Header>(0).ok()?;
        if ip.protocol != IPPROTO_TCP {
            return None;
        }
        let header = u32::from(ip.version_ihl & 0x0f) * 4;
        let length = u32::from(u16::from_be(ip.total_length_be)).wrapping_sub(header);
        Self::with_tcp(ctx, header, length, v4_mapped(ip.source), v4_mapped(ip.destination), false)
    }

    #[inline(always)]
    fn parse_v6(ctx: &SkBuffContext) -> Option<Self> {
        let ip = ctx.load::<Ipv6Header>(0).ok()?;
        let mut next = ip.next_header;
        let mut header = size_of::<Ipv6Header>() as u32;
        for _ in 0..EXTENSION_HEADERS_MAX {
            if !matches!(next, IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS) {
                break;
            }
            let extension = ctx.load::<[u8; 2]>(header as usize).ok()?;
            next = extension[0];
            header += (u32::from(extension[1]) + 1) * 8;
        }
        if next != IPPROTO_TCP {
            return None;
        }
        let extensions = header - size_of::<Ipv6Header>() as u32;
        let length = u32::from(u16::from_be(ip.payload_length_be)).wrapping_sub(extensions);
        Self::with_tcp(ctx, header, length, ip.source, ip.destination, true)
    }

    #[inline(always)]
    fn with_tcp(
        ctx: &SkBuffContext,
        header: u32,
        length: u32,
        source: [u32; 4],
        destination: [u32; 4],
        v6: bool,
    ) -> Option<Self> {
        let tcp = ctx.load::<TcpHeader>(header as usize).ok()?;
        let options_end = u32::from(tcp.data_offset >> 4) * 4;
        Some(Self {
            source,
            destination,
            source_port: u16::from_be(tcp.source_be),
            destination_port: u16::from_be(tcp.destination_be),
            sequence: u32::from_be(tcp.sequence_be),
            ack_sequence: u32::from_be(tcp.ack_sequence_be),
            payload: length.wrapping_sub(options_end),
            flags: tcp.flags,
            v6,
        })
    }

    /// Whether it is an IPv6 packet.
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.v6
    }

    /// `TCP_SKB_CB(skb)->end_seq`
    #[inline(always)]
    pub fn end_sequence(&self) -> u32 {
        let flags = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        self.sequence.wrapping_add(self.payload).wrapping_add(flags)
    }

    /// Bytes of [`Tuple`] that count for this family.
    #[inline(always)]
    pub fn tuple_size(&self) -> u32 {
        if self.v6 { 36 } else { 12 }
    }
}

/// `struct bpf_sock_tuple`: addresses and ports in network order, laid out by family.
#[repr(C)]
pub struct Tuple([u32; 9]);

impl Tuple {
    /// The tuple by which the stack looks up the packet's socket.
    #[inline(always)]
    pub fn of(packet: &Packet) -> Self {
        let ports = u32::from(packet.source_port.to_be()) | (u32::from(packet.destination_port.to_be()) << 16);
        let [s0, s1, s2, s3] = packet.source;
        let [d0, d1, d2, d3] = packet.destination;
        if packet.v6 { Self([s0, s1, s2, s3, d0, d1, d2, d3, ports]) } else { Self([s3, d3, ports, 0, 0, 0, 0, 0, 0]) }
    }

    /// As the helper wants it.
    #[inline(always)]
    pub fn as_mut_ptr(&mut self) -> *mut bpf_sock_tuple {
        self.0.as_mut_ptr().cast()
    }
}
