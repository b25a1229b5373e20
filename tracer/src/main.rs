//! `tracer`: parses the command line and hands over to the command.

use std::process::ExitCode;

use clap::Parser;
use tracer::{
    cli::{Cli, Command},
    command::{doctor, run},
    failure::Failure,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return tracer::cli::report_usage(&error),
    };
    let outcome = match cli.command {
        Command::Run(flags) => run::run(&flags).map(|()| ExitCode::SUCCESS),
        Command::Doctor(options) => doctor::run(&options),
        Command::MetricsDoc => {
            print!("{}", tracer::export::reference::markdown());
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|failure: Failure| {
        eprintln!("tracer: {failure}");
        failure.exit_code()
    })
}
