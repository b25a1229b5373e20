//! The subcommands, one file each.

pub mod advise;
pub mod doctor;
pub mod run;
pub mod supervisor;
