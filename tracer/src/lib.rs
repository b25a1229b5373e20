//! The agent: finds the node's network namespaces, counts what its programs see in the kernel and
//! proves the numbers against the kernel's own.
//!
//! Owns nothing but the list of modules. Everything that must be unsafe sits in `kernel::sys`.
#![deny(unsafe_code)]

pub mod kernel;
pub mod pipeline;
