//! The subcommands, one file each.

pub mod advise;
pub mod completions;
pub mod doctor;
pub mod manual;
pub mod run;
