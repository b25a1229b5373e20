//! `tracer completions`: prints what a shell needs to complete this command line.
//!
//! Comes from the definition of the command line alone; hidden commands are left out.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use clap_complete::aot;

use crate::{cli, failure::Failure, terminal::unless_reader_left};

/// Flags of `tracer completions`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// The shell
    shell: Shell,
}

/// Shells whose completions are tried before a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// Source it, or put it into share/bash-completion/completions/tracer.
    Bash,
    /// Put it as `_tracer` into a directory of $fpath.
    Zsh,
    /// Put it into share/fish/vendor_completions.d/tracer.fish.
    Fish,
}

/// Prints the completions.
pub fn run(options: Options) -> Result<(), Failure> {
    let shell = match options.shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    aot::generate(shell, &mut cli::visible(), "tracer", &mut script);
    unless_reader_left(io::stdout().write_all(&script))
        .map_err(|error| Failure::other(format!("cannot write the completions: {error}; give stdout room")))
}
