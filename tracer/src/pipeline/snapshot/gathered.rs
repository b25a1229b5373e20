//! What the visit to one namespace finds of its listeners, as it comes: a visit may hang and be left behind, so it shares
//! nothing with the pass, which joins what it is given. Pure.
//!
//! Memory grows with the namespace's listening sockets, up to a bound, and goes with the visit.

use tracer_ebpf::counter::ListenerSocket;

use super::{TableSocket, found::SOCKETS_MAX};

/// Records of walks and sockets of the kernel's table, each up to as many as a whole pass tells apart.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Records of walks, each about one socket.
    pub(super) records: Vec<ListenerSocket>,
    /// Sockets of the kernel's table.
    pub(super) table: Vec<TableSocket>,
    /// Whether the kernel has more of them.
    pub(super) is_cut: bool,
    /// Records that found no room.
    pub(super) left_out: u64,
}

impl Gathered {
    /// Adds a record of a walk.
    pub fn add(&mut self, record: &ListenerSocket) {
        if self.records.len() < SOCKETS_MAX {
            self.records.push(*record);
        } else {
            self.left_out += 1;
        }
    }

    /// Takes the sockets of the kernel's own table: all of them, or the first ones.
    pub fn set_table(&mut self, sockets: Vec<TableSocket>, is_whole: bool) {
        self.table = sockets;
        self.is_cut = !is_whole;
    }
}
