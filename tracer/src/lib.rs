//! The agent's library: everything but the command line's entry point.
//!
//! Owns the module tree; holds no logic. Unsafe code is confined to `kernel::sys`.

#![deny(unsafe_code)]

pub mod kernel;
