//! Configuration: flags over a TOML file over defaults, validated before anything is opened.

use std::{
    fs::File,
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::Deserialize;
use thiserror::Error;

use crate::kernel::hooks::HookKind;

/// Where the metrics are served unless told otherwise.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9795);

/// The longest time of any flag and key: what is counted on from a clock must not overflow.
const TIME_MAX: Duration = Duration::from_hours(365 * 24);

/// The longest configuration that is read; the whole of it has a few hundred bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where kubelet names logs after containers and pods.
const POD_LOGS_DEFAULT: &str = "/var/log";

/// Flags of `tracer run`, each of which can stand in the file as well.
#[derive(Args, Clone, Debug, Default)]
pub struct Flags {
    /// TOML file with the same keys as the long flags (`listen`, `pass_interval`, …)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// Do not attach the packet hooks (same as --disable-hooks packet)
    #[arg(long)]
    no_packet_hook: bool,
}

/// What can be set by flag and by file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Address to serve /metrics, /status, /healthz and /readyz on [default: 127.0.0.1:9795]
    // Manifests give one; whoever adds another means that.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_address, overrides_with = "listen")]
    listen: Option<SocketAddr>,
    /// Time between two passes over namespaces and listeners [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    #[serde(with = "humantime_serde::option")]
    pass_interval: Option<Duration>,
    /// Percent of one core that passes may take; they come less often to keep to it [default: 1]
    #[arg(long, value_name = "PERCENT")]
    pass_cpu_percent: Option<u32>,
    /// How long series of what is gone are kept, at least one scrape interval [default: 2m]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    #[serde(with = "humantime_serde::option")]
    retain: Option<Duration>,
    /// Kinds of hooks not to use
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    disable_hooks: Option<Vec<HookKind>>,
    /// Size of the event ring, a power of two, at least 4096 [default: 1048576]
    #[arg(long, value_name = "BYTES")]
    ring_bytes: Option<u32>,
    /// Events a second for each kind and CPU, 0 = no limit [default: 10000]
    #[arg(long, value_name = "N")]
    rate_limit: Option<u64>,
    /// Listeners with series of their own; further ones share an `_other` row [default: 10000]
    #[arg(long, value_name = "N")]
    max_listeners: Option<u32>,
    /// Workloads with series of their own; further ones share an `_other` row [default: 5000]
    #[arg(long, value_name = "N")]
    max_workloads: Option<u32>,
    /// Ports with series of their own, for each workload [default: 32]
    #[arg(long, value_name = "N")]
    max_ports: Option<u64>,
    /// Directory of kubelet's `containers` and `pods`, whose listings name containers and pods [default: /var/log]
    #[arg(long, value_name = "DIRECTORY")]
    pod_logs: Option<PathBuf>,
    /// How much to log: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what stops the agent.
    Error,
    /// What a user should know.
    Warn,
    /// What the agent does at start and end.
    Info,
    /// What it does in each pass, and the eBPF programs' own output.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The level's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The validated configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Address of the HTTP server.
    pub listen: SocketAddr,
    /// Time between two passes.
    pub pass_interval: Duration,
    /// Percent of one core that passes may take.
    pub pass_cpu_percent: u32,
    /// How long series of what is gone are kept.
    pub retain: Duration,
    /// Kinds of hooks not to use.
    pub disable_hooks: Vec<HookKind>,
    /// Size of the ring in bytes.
    pub ring_bytes: u32,
    /// Events a second, kind and CPU; 0 = no limit.
    pub rate_limit: u64,
    /// Listeners with rows of their own.
    pub max_listeners: u32,
    /// Workloads with rows of their own.
    pub max_workloads: u32,
    /// Ports with rows of their own, for each workload.
    pub max_ports: u64,
    /// Directory of kubelet's `containers` and `pods`.
    pub pod_logs: PathBuf,
    /// Log level.
    pub log_level: LogLevel,
}

/// Why the configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {path}: {source}; check --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else than known keys with valid values.
    #[error("{path}:{line}: {message}; tracer run --help lists the keys as flags")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, on one line.
        message: String,
    },
    /// A value is out of its range.
    #[error("{key} = {value} is not possible: {remedy}")]
    Range {
        /// The key, as in the file.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be.
        remedy: &'static str,
    },
}

/// What a command wants unless flags or file say otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Percent of one core that passes may take.
    pub pass_cpu_percent: u32,
    /// Size of the ring in bytes.
    pub ring_bytes: u32,
    /// Events a second, kind and CPU; 0 = no limit.
    pub rate_limit: u64,
    /// Log level.
    pub log_level: LogLevel,
}

impl Defaults {
    /// Of the agent, for which the ring is a sideshow.
    pub const AGENT: Self =
        Self { pass_cpu_percent: 1, ring_bytes: 1 << 20, rate_limit: 10_000, log_level: LogLevel::Info };
}

impl Config {
    /// Flags over file over the agent's defaults.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        Self::load_or(flags, Defaults::AGENT)
    }

    /// Flags over file over these defaults.
    pub fn load_or(flags: &Flags, defaults: Defaults) -> Result<Self, ConfigError> {
        let file = flags.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let own = &flags.settings;
        let mut disable_hooks = own.disable_hooks.clone().or(file.disable_hooks).unwrap_or_default();
        if flags.no_packet_hook && !disable_hooks.contains(&HookKind::Packet) {
            disable_hooks.push(HookKind::Packet);
        }
        let config = Self {
            listen: own.listen.or(file.listen).unwrap_or(LISTEN_DEFAULT),
            pass_interval: own.pass_interval.or(file.pass_interval).unwrap_or(Duration::from_secs(5)),
            pass_cpu_percent: own.pass_cpu_percent.or(file.pass_cpu_percent).unwrap_or(defaults.pass_cpu_percent),
            retain: own.retain.or(file.retain).unwrap_or(Duration::from_mins(2)),
            disable_hooks,
            ring_bytes: own.ring_bytes.or(file.ring_bytes).unwrap_or(defaults.ring_bytes),
            rate_limit: own.rate_limit.or(file.rate_limit).unwrap_or(defaults.rate_limit),
            max_listeners: own.max_listeners.or(file.max_listeners).unwrap_or(10_000),
            max_workloads: own.max_workloads.or(file.max_workloads).unwrap_or(5_000),
            max_ports: own.max_ports.or(file.max_ports).unwrap_or(32),
            pod_logs: own.pod_logs.clone().or(file.pod_logs).unwrap_or_else(|| POD_LOGS_DEFAULT.into()),
            log_level: own.log_level.or(file.log_level).unwrap_or(defaults.log_level),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let range =
            |key, value: &dyn ToString, remedy| Err(ConfigError::Range { key, value: value.to_string(), remedy });
        if !self.ring_bytes.is_power_of_two() || self.ring_bytes < 4096 || self.ring_bytes > 1 << 30 {
            return range("ring_bytes", &self.ring_bytes, "choose a power of two from 4096 to 1073741824");
        }
        if self.pass_interval < Duration::from_millis(50) {
            let value = humantime::format_duration(self.pass_interval);
            return range("pass_interval", &value, "choose at least 50ms");
        }
        for (key, time) in [("pass_interval", self.pass_interval), ("retain", self.retain)] {
            if time > TIME_MAX {
                return range(key, &humantime::format_duration(time), "choose at most a year, 365d");
            }
        }
        if !(1..=100).contains(&self.pass_cpu_percent) {
            return range("pass_cpu_percent", &self.pass_cpu_percent, "choose 1 to 100");
        }
        if self.max_listeners == 0 || self.max_listeners > 1_000_000 {
            return range("max_listeners", &self.max_listeners, "choose 1 to 1000000");
        }
        if self.max_workloads == 0 || self.max_workloads > 100_000 {
            return range("max_workloads", &self.max_workloads, "choose 1 to 100000");
        }
        Ok(())
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an address with its port, as 127.0.0.1:9795 or [::]:9795".to_owned())
}

pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "write a number with its unit, as 500ms, 5s or 2m")?;
    if time > TIME_MAX { Err("choose at most a year, 365d".to_owned()) } else { Ok(time) }
}

fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let refused = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(refused)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(refused)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let what = format!("it is longer than {FILE_BYTES_MAX} bytes, as no configuration is");
        return Err(refused(io::Error::new(io::ErrorKind::InvalidData, what)));
    }
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        ConfigError::Parse { path: path.to_owned(), line, message: error.message().replace('\n', " ") }
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use std::fs;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    fn load(args: &[&str], file: Option<&str>) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let mut flags = Cli::parse_from([&["tracer"], args].concat()).flags;
        if let Some(text) = file {
            let path = directory.path().join("tracer.toml");
            fs::write(&path, text).unwrap();
            flags.config = Some(path);
        }
        Config::load(&flags)
    }

    #[test]
    fn defaults_hold_without_flags_and_file() {
        let config = load(&[], None).unwrap();
        assert_eq!(config.listen, LISTEN_DEFAULT);
        assert_eq!(config.pass_interval, Duration::from_secs(5));
        assert_eq!(config.pod_logs, Path::new("/var/log"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let file =
            "listen = \"[::]:9795\"\npass_interval = \"2s\"\ndisable_hooks = [\"fentry\"]\npod_logs = \"/host/log\"\n";
        let config = load(&["--pass-interval", "200ms", "--no-packet-hook"], Some(file)).unwrap();
        assert_eq!(config.listen.to_string(), "[::]:9795");
        assert_eq!(config.pass_interval, Duration::from_millis(200));
        assert_eq!(config.pod_logs, Path::new("/host/log"));
        assert_eq!(config.disable_hooks, vec![HookKind::Fentry, HookKind::Packet]);
    }

    #[test]
    fn the_last_address_wins() {
        let config = load(&["--listen", "[::]:9795", "--listen", "127.0.0.1:9796"], None).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:9796");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = load(&[], Some("rate_limit = 5\nrate_limt = 6\n")).unwrap_err().to_string();
        assert!(error.contains("tracer.toml:2: ") && error.contains("rate_limt"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn values_out_of_range_name_the_remedy() {
        for args in [
            ["--ring-bytes", "5000"],
            ["--ring-bytes", "2048"],
            ["--pass-interval", "1ms"],
            ["--pass-cpu-percent", "0"],
            ["--pass-cpu-percent", "101"],
            ["--max-listeners", "0"],
            ["--max-workloads", "0"],
        ] {
            let error = load(&args, None).unwrap_err().to_string();
            assert!(error.contains("choose"), "{error}");
        }
    }

    /// The packaged file shows every key with its default, so that it changes nothing, with a # or without.
    #[test]
    fn the_packaged_file_is_the_defaults() {
        let packaged = include_str!("../../deploy/tracer.toml");
        assert_eq!(load(&[], Some(packaged)).unwrap(), load(&[], None).unwrap());
        let shown: String = packaged
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| !line.starts_with(' '))
            .fold(String::new(), |text, line| text + line + "\n");
        assert_eq!(load(&[], Some(&shown)).unwrap(), load(&[], None).unwrap());
        let keys: Vec<&str> = shown.lines().filter_map(|line| line.split(' ').next()).collect();
        let command = <Cli as clap::CommandFactory>::command();
        let flags = command.get_arguments().filter_map(clap::Arg::get_long);
        let flags: Vec<String> = flags
            .filter(|flag| !["config", "no-packet-hook"].contains(flag))
            .map(|flag| flag.replace('-', "_"))
            .collect();
        assert_eq!(keys, flags);
    }

    /// Every time, from flag and file, has a bound: clocks that it is added to have one.
    #[test]
    fn a_time_without_end_is_refused() {
        for text in ["50000000000y", "366d", "18446744073709551615s"] {
            assert!(parse_time(text).is_err(), "{text}");
            for key in ["pass_interval", "retain"] {
                let error = load(&[], Some(&format!("{key} = \"{text}\"\n"))).unwrap_err().to_string();
                assert!(error.contains("365d") || error.contains("tracer.toml:1: "), "{error}");
            }
        }
        assert_eq!(parse_time("365d"), Ok(TIME_MAX));
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let error = load(&["--config", "/dev/zero"], None).unwrap_err().to_string();
        assert!(error.contains("/dev/zero") && error.contains("longer than 1048576 bytes"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(&["--config", "/nonexistent/tracer.toml"], None).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/tracer.toml"), "{error}");
    }
}
