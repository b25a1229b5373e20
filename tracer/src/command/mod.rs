//! The subcommands, one file each.

pub mod advise;
pub mod doctor;
pub mod run;
mod scrape;
mod source;
pub mod top;
