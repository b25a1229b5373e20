//! The subcommands, one file each.

pub mod advise;
pub mod doctor;
pub mod events;
mod output;
pub mod replay;
pub mod run;
mod selection;
mod stop;
