//! The subcommands, one file each.

pub mod advise;
pub mod completions;
pub mod doctor;
pub mod events;
mod leave;
pub mod manual;
mod output;
pub mod replay;
pub mod run;
mod scrape;
mod selection;
mod source;
mod stop;
pub mod supervisor;
pub mod top;
