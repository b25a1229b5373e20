//! From what the kernel tells to what is exported, one module a stage; stages do not import each other.

pub mod attribute;
pub mod kernel_counters;
