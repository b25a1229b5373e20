//! What becomes of counts and events between the kernel and the exporter. Stages do not know each
//! other; `agent` hands their results on.

pub mod attribute;
pub mod counters;
pub mod decode;
pub mod journal;
pub mod kernel_counters;
pub mod node;
pub mod ports;
pub mod reconcile;
pub mod ring;
pub mod snapshot;
pub mod sockets;
pub mod sysctls;
