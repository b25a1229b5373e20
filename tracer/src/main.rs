//! `tracer`: parses the command line and hands over to the command.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use tracer::{
    cli::{Cli, Command},
    command::{advise, completions, doctor, events, manual, replay, run, top},
    failure::Failure,
    log_lines::{self, LogLines},
    terminal::unless_reader_left,
};

/// How long whoever reads standard error may take for what is left of it at the end.
const LAST_LINES_LIMIT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = match Cli::from_arguments() {
        Ok(cli) => cli,
        Err(error) => return tracer::cli::report_usage(&error),
    };
    let outcome = match cli.command {
        Command::Run(flags) => run::run(&flags).map(|()| ExitCode::SUCCESS),
        Command::Doctor(options) => doctor::run(&options),
        Command::Advise(options) => advise::run(&options),
        Command::Events(options) => events::run(&options),
        Command::Replay(options) => replay::run(&options),
        Command::Top(options) => top::run(&options),
        Command::Completions(options) => completions::run(options).map(|()| ExitCode::SUCCESS),
        Command::Manual(options) => manual::run(&options).map(|()| ExitCode::SUCCESS),
        Command::MetricsDoc => {
            unless_reader_left(io::stdout().write_all(tracer::export::reference::markdown().as_bytes()))
                .map(|()| ExitCode::SUCCESS)
                .map_err(|error| Failure::other(format!("cannot write the page: {error}; give stdout room")))
        }
    };
    let code = outcome.unwrap_or_else(|failure: Failure| {
        // With stderr gone the exit code alone has to tell.
        let _ = LogLines.write_all(format!("tracer: {failure}\n").as_bytes());
        failure.exit_code()
    });
    log_lines::flush(LAST_LINES_LIMIT);
    code
}
