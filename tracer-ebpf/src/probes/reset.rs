//! Resets sent and received, by the workload of the socket or, without one, by namespace.
//!
//! A segment that met no socket, or only a listener, tells whom the reset goes to. Its headers have no BTF type, so
//! reading them takes `bpf_probe_read_kernel`, and where lockdown refuses that the record shows no ends.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_ebpf::{
    counter::Counter,
    event::{Connection, Header, Kind, Reset},
    reset::{Direction, Reason},
    settings::RESET_REASONS_MAX,
    state,
};

use crate::{
    constants::{SETTINGS, constant, offset, setting},
    emit::emit,
    maps::{SAVED, Saved},
    reader::{Direct, Probe, Reader},
    sock,
    workload::{self, lose},
};

/// Where the source's address begins in the IP header; the destination's follows it.
const IPV4_ADDRESSES: u32 = 12;
const IPV6_ADDRESSES: u32 = 8;

// match-proto: 5.10-6.9 void tcp_send_reset(const struct sock *sk, const struct sk_buff *skb)
/// Fires for full sockets alone: what has none is in `OutRsts` and nowhere else. Context: softirq or
/// process. Frequency: each reset. Cost: 2 m, 2 h, one ring record.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    sent(ctx.arg(0), ctx.arg(1), Reason::Unknown as u8, false);
    0
}

// match-proto: 6.10- void tcp_send_reset(const struct sock *sk, const struct sk_buff *skb, const enum sk_rst_reason reason)
/// Fires for all that `OutRsts` counts, but where an active reset finds no memory; and for one more: a
/// reset over IPv6 to which no route leads. `sk` is NULL where there is no socket, `skb` where no packet
/// is answered. Context and frequency as above. Cost: 2 or 3 m, 2 h, one ring record; 4 h more for the ends of a
/// segment that met no socket or a listener.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset_reason(ctx: BtfTracePointContext) -> i32 {
    sent(ctx.arg(0), ctx.arg(1), reason(ctx.arg(2)), setting!(may_probe_read) == 1);
    0
}

// match-proto: 5.10- void tcp_receive_reset(struct sock *sk)
/// Context: softirq, or process where the socket's backlog is worked off. Frequency: each reset that
/// ends a connection. Cost: 1 m, 2 h, one ring record.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    at_socket(sk, Ends::UNSEEN, Direction::Received, ended(Direct.load(sk, offset!(skc_state))) as u8);
    0
}

/// The kernel's number by the agent's table.
#[inline(always)]
fn reason(number: u32) -> u8 {
    let index = number as usize;
    if index < RESET_REASONS_MAX { constant(&SETTINGS.reset_reasons[index]) } else { Reason::Other as u8 }
}

#[inline(always)]
fn ended(state: u8) -> Reason {
    match state {
        state::SYN_SENT => Reason::Refused,
        state::SYN_RECV => Reason::Handshake,
        state::ESTABLISHED => Reason::Established,
        state::CLOSE_WAIT => Reason::CloseWait,
        state::CLOSE => Reason::Closed,
        _ => Reason::Closing,
    }
}

#[inline(always)]
fn sent(sk: *const u8, skb: *const u8, reason: u8, reads_segment: bool) {
    if !is_null(sk) && !sk.is_null() {
        let listens = || Direct.load::<u8>(sk, offset!(skc_state)) == state::LISTEN;
        let ends = if reads_segment && listens() && !is_null(skb) && !skb.is_null() {
            Ends::of_answer(skb)
        } else {
            Ends::UNSEEN
        };
        at_socket(sk, ends, Direction::Sent, reason);
    } else if !is_null(skb) && !skb.is_null() {
        let ends = if reads_segment { Ends::of_answer(skb) } else { Ends::UNSEEN };
        without_socket(skb, ends, reason);
    } else {
        // Not even the namespace can be told.
        lose(Counter::Reset as u8, 1);
    }
}

/// Whether an argument is NULL, asked in a way that the verifier cannot answer for us. From Linux 6.2
/// until 6.12.6 it holds that an argument of a tracepoint never is: it would remove the branch, and
/// the program would read through NULL. What comes back from a map is a number to it. (Newer
/// verifiers want the pointer itself compared as well.)
#[inline(always)]
fn is_null(argument: *const u8) -> bool {
    let Some(slot) = SAVED.get_ptr_mut(Saved::ResetArgument as u32) else { return true };
    // SAFETY: the look-up did not fail; the value is this CPU's own. Sockets are never NULL in process
    // context, and softirqs do not interrupt each other.
    unsafe { core::ptr::write_volatile(slot, argument as u64) };
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(slot) == 0 }
}

/// The two ends of an answer to a received segment.
#[derive(Clone, Copy)]
struct Ends {
    /// Address family; 0 where they were not seen.
    family: u8,
    connection: Connection,
}

impl Ends {
    const UNSEEN: Self = Self {
        family: 0,
        connection: Connection { local: [0; 4], remote: [0; 4], local_port: 0, remote_port: 0, zero: 0 },
    };

    /// Where the segment went is this end, where it came from the other.
    #[inline(always)]
    fn of_answer(skb: *const u8) -> Self {
        let head: *const u8 = Direct.load(skb, offset!(skb_head));
        let ip = head.wrapping_add(usize::from(Direct.load::<u16>(skb, offset!(skb_network_header))));
        let tcp = head.wrapping_add(usize::from(Direct.load::<u16>(skb, offset!(skb_transport_header))));
        let [source_port, destination_port]: [u16; 2] = Probe.load(tcp, 0);
        let is_v4 = Probe.load::<u8>(ip, 0) >> 4 == 4;
        let [source, destination] = if is_v4 {
            let [source, destination]: [u32; 2] = Probe.load(ip, IPV4_ADDRESSES);
            [sock::v4_mapped(source), sock::v4_mapped(destination)]
        } else {
            Probe.load(ip, IPV6_ADDRESSES)
        };
        Self {
            family: (if is_v4 { sock::AF_INET } else { sock::AF_INET6 }) as u8,
            connection: Connection {
                local: destination,
                remote: source,
                local_port: u16::from_be(destination_port),
                remote_port: u16::from_be(source_port),
                zero: 0,
            },
        }
    }
}

/// Sockets in TIME_WAIT and requests are cut short: behind what all kinds have in common lies
/// something else.
#[inline(always)]
fn at_socket(sk: *const u8, ends: Ends, direction: Direction, reason: u8) {
    let netns = sock::netns(Direct, sk);
    let state: u8 = Direct.load(sk, offset!(skc_state));
    let mut connection = sock::connection(Direct, sk);
    let mut cgroup = 0;
    let full = Direct.tcp_sock(sk);
    if !full.is_null() {
        cgroup = sock::cgroup_id(Direct, full);
        if connection.local_port == 0 {
            connection.local_port = sock::bound_port(Direct, full);
        }
    }
    workload::count(netns, &workload::key(netns, cgroup, Counter::Reset, direction as u8, reason), 1);
    if ends.family != 0 {
        connection = ends.connection;
    }
    let record = Reset {
        header: sock::header(Direct, sk, netns, cgroup, Kind::Reset, state),
        connection,
        direction: direction as u8,
        reason,
        zero: [0; 6],
    };
    emit(Kind::Reset, record.header.time_ns, &record);
}

/// The namespace is that of the device by which the packet came that is answered.
#[inline(always)]
fn without_socket(skb: *const u8, ends: Ends, reason: u8) {
    let device: *const u8 = Direct.load(skb, offset!(skb_dev));
    let netns = sock::identity(Direct, Direct.load(device, offset!(dev_net)));
    if netns.inum == 0 {
        // Not even the namespace can be told.
        lose(Counter::Reset as u8, 1);
        return;
    }
    let direction = Direction::Sent as u8;
    workload::count(netns, &workload::key(netns, 0, Counter::Reset, direction, reason), 1);
    let record = Reset {
        header: Header {
            time_ns: sock::now_ns(),
            netns: netns.id,
            cgroup: 0,
            kind: Kind::Reset as u8,
            family: ends.family,
            state: 0,
            zero: 0,
            netns_inum: netns.inum,
        },
        connection: ends.connection,
        direction,
        reason,
        zero: [0; 6],
    };
    emit(Kind::Reset, record.header.time_ns, &record);
}
