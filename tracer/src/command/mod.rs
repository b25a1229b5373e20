//! The subcommands, one file each.

pub mod advise;
pub mod completions;
pub mod doctor;
pub mod events;
pub mod manual;
mod output;
pub mod replay;
pub mod run;
mod selection;
mod stop;
pub mod supervisor;
