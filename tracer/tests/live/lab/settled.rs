//! Waits until the packets that this CPU has before it are handled.
//!
//! On loopback and over veth the kernel handles a packet on the CPU that sent it, mostly before the call that sent it
//! returns. Before 6.5 it leaves that to `ksoftirqd` when that runs already: then `connect()` returns with its SYN
//! still to come, SYNs gather, and all of them meet the queue that the first one found.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

/// SYN, SYN-ACK and ACK: each is sent when the one before it was handled.
const PACKETS_OF_A_HANDSHAKE: usize = 3;

/// A thread that stays on its CPU, with a way to stand in line behind the packets there.
pub(crate) struct Settled {
    /// Sends to itself.
    socket: UdpSocket,
}

impl Settled {
    /// Binds the thread to the CPU it is on, until the thread ends.
    pub(crate) fn on_this_cpu() -> Self {
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        sched_setaffinity(None, &here).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(socket.local_addr().unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { socket }
    }

    /// Returns when a handshake that was begun before has ended or was turned away. A CPU takes packets in the order
    /// they were sent, so that a datagram that came through shows that what was sent before it has been handled.
    pub(crate) fn wait(&self) {
        for _ in 0..PACKETS_OF_A_HANDSHAKE {
            self.socket.send(&[0]).unwrap();
            self.socket.recv(&mut [0]).unwrap();
        }
    }
}
