//! What the agent asks of the running kernel: whether it is usable, where its fields are, and the
//! system calls that no safe crate offers.

pub mod btf;
pub mod preflight;
pub mod sys;
pub mod version;
