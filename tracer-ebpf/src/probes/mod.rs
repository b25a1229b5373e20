//! The hooks, one subject a file.
//!
//! Above each probe stands the kernel prototype that it relies on (`match-proto`), its context, how
//! often it runs and what it costs in helper calls (h) and map operations (m).

pub mod bind;
pub mod child;
pub mod conn_request;
pub mod connect;
pub mod connect_error;
pub mod listener_drop;
pub mod map_rows;
pub mod netns;
pub mod packet;
pub mod ports;
pub mod reset;
pub mod retransmit;
pub mod snapshot;
pub mod sockets;
pub mod state;
pub mod time_wait;
pub mod timeout;
pub mod told;
