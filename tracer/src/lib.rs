//! The agent: loads the eBPF programs, reconciles what they count with the kernel's own counters,
//! and exports both.
//!
//! Modules stand in data-flow order: `kernel` (what is loaded and read), `pipeline` (what becomes of
//! it), `export` (how users see it), `events` (the same for single events), `advise` (what it means), `top` (what a
//! screen shows of it); `agent` wires them, `command` holds the subcommands.
#![deny(unsafe_code)]

pub mod advise;
pub mod agent;
pub mod cli;
pub mod command;
pub mod config;
pub mod errand;
pub mod errno;
pub mod events;
pub mod exit_codes;
pub mod export;
pub mod failure;
pub mod kernel;
pub mod labels;
pub mod legible;
pub mod log_lines;
pub mod obstacles;
pub mod pipeline;
pub mod progress;
pub mod terminal;
pub mod top;
pub mod view;
