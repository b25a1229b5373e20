//! `cargo xtask`: everything a developer or CI does with this repository, as one command each.
//!
//! Owns the command line; each command is `run(opts)` in a file of its own. Depends on neither of
//! the project's crates, so that it builds before there is anything to build them with.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod build;
mod child;
mod dashboards;
mod debian;
mod demo;
mod deploy;
mod dist;
mod draw;
mod e2e;
mod http;
mod image;
mod kernels;
mod lab;
mod live;
mod metrics_doc;
mod process;
mod run;
mod setup;
mod test;
mod tidy;
mod vm;
mod workspace;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the build needs and this machine lacks.
    Setup(setup::Opts),
    /// Build the static agent and leave it at target/release/tracer.
    Build(build::Opts),
    /// Pack what is given to others: a tarball and a Debian package, in target/dist.
    Dist(dist::Opts),
    /// Build the agent and run it in the foreground.
    Run(run::Opts),
    /// Run everything that CI runs.
    Test(test::Opts),
    /// Show the agent, Prometheus, alerts and the drawn dashboards with traffic that runs into TCP's limits.
    Demo(demo::Opts),
    /// Run into TCP's limits and check that alerts fire and that every panel of the dashboards shows data.
    E2e(e2e::Opts),
    /// Measure what the agent costs on this machine.
    Bench(bench::Opts),
    /// Run the live tests in guests with kernels of every generation.
    Vm(vm::Opts),
    /// Check the rules of the code base that no compiler knows.
    Tidy(tidy::Opts),
    /// Build the container image.
    Image(image::Opts),
    /// Check manifests, chart and unit of deploy/.
    Deploy(deploy::Opts),
    /// Check the dashboards against Grafana's own types.
    Dashboards,
    /// Write docs/metrics.md from the agent's table of metrics.
    MetricsDoc(metrics_doc::Opts),
    /// Write the tables of docs/kernels.md from what the last runs of `cargo xtask vm` found.
    KernelsDoc(vm::TablesOpts),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Setup(opts) => setup::run(&opts),
        Command::Build(opts) => build::run(&opts),
        Command::Dist(opts) => dist::run(&opts),
        Command::Run(opts) => run::run(&opts),
        Command::Test(opts) => test::run(&opts),
        Command::Demo(opts) => demo::run(&opts),
        Command::E2e(opts) => e2e::run(&opts),
        Command::Bench(opts) => bench::run(&opts),
        Command::Vm(opts) => vm::run(&opts),
        Command::Tidy(opts) => tidy::run(&opts),
        Command::Image(opts) => image::run(&opts),
        Command::Deploy(opts) => deploy::run(&opts),
        Command::Dashboards => dashboards::run(),
        Command::MetricsDoc(opts) => metrics_doc::run(&opts),
        Command::KernelsDoc(opts) => vm::write_tables(&opts),
    }
}
