//! The settings that decide where TCP runs out of room, of the node and of each network namespace.
//!
//! Owns the one list of them, [`SETTINGS`], their parsers, and the reader, which the worker calls inside a
//! namespace: seldom, since there may be forty settings in each of hundreds of namespaces. A setting that the
//! running kernel does not have, or shows elsewhere only, is absent, never zero. Keeps no state, logs nothing.

use std::fs::File;
use std::io::Read;
use std::path::Path;

#[cfg(test)]
mod tests;

/// Where the kernel shows settings; below `net` those of the namespace that the calling thread is in.
const SYSCTL_DIR: &str = "/proc/sys";

/// Every setting that is shown, by the name that `sysctl` gives it, under what it limits.
pub const SETTINGS: [&str; 49] = [
    // The accept queue, and what becomes of a connection that finds it full.
    "net.core.somaxconn",
    "net.ipv4.tcp_abort_on_overflow",
    // The SYN queue.
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_synack_retries",
    // How long connect() tries.
    "net.ipv4.tcp_syn_retries",
    "net.ipv4.tcp_syn_linear_timeouts",
    // TIME_WAIT, and the ports that it holds.
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_tw_reuse_delay",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_autobind_reuse",
    // FIN_WAIT2 and orphans.
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_orphan_retries",
    "net.ipv4.tcp_max_orphans",
    // Retransmission, and when it gives up.
    "net.ipv4.tcp_retries1",
    "net.ipv4.tcp_retries2",
    "net.ipv4.tcp_rto_min_us",
    "net.ipv4.tcp_rto_max_ms",
    "net.ipv4.tcp_early_retrans",
    "net.ipv4.tcp_recovery",
    "net.ipv4.tcp_sack",
    "net.ipv4.tcp_thin_linear_timeouts",
    // Keepalive.
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    // Memory of all sockets, and of each.
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.core.rmem_default",
    "net.core.rmem_max",
    "net.core.wmem_default",
    "net.core.wmem_max",
    // Window and bandwidth.
    "net.ipv4.tcp_window_scaling",
    "net.ipv4.tcp_moderate_rcvbuf",
    "net.ipv4.tcp_adv_win_scale",
    "net.ipv4.tcp_shrink_window",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_limit_output_bytes",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_no_metrics_save",
    "net.ipv4.tcp_fastopen",
    // Packets between device and TCP.
    "net.core.netdev_max_backlog",
    "net.core.netdev_budget",
    "net.core.netdev_budget_usecs",
    "net.core.dev_weight",
    // File descriptors.
    "fs.file-max",
    "fs.nr_open",
];

/// The most numbers that one setting has (`tcp_mem`: min, pressure, max).
const NUMBERS_MAX: usize = 3;

/// No setting in the list is longer; ports set aside one by one may be.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// What one setting says: one to three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    numbers: [i64; NUMBERS_MAX],
    len: u8,
}

impl Value {
    /// Takes the numbers out of a setting's text; `None` if it is anything but one to three numbers.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut value = Self { numbers: [0; NUMBERS_MAX], len: 0 };
        for word in text.split_ascii_whitespace() {
            *value.numbers.get_mut(usize::from(value.len))? = word.parse().ok()?;
            value.len += 1;
        }
        (value.len > 0).then_some(value)
    }

    /// Its numbers, in their order.
    #[must_use]
    pub fn numbers(&self) -> &[i64] {
        &self.numbers[..usize::from(self.len)]
    }
}

const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

/// Whose files are read: settings of the whole node stand beside those of its own namespace only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The host's namespace.
    Host,
    /// Another one.
    Other,
}

/// The settings that one reading found in a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    values: [Option<Value>; SETTINGS.len()],
    /// Ports that `connect()` may take: those of `ip_local_port_range` that are not among
    /// `ip_local_reserved_ports`.
    pub ephemeral_ports: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { values: [None; SETTINGS.len()], ephemeral_ports: None }
    }
}

impl Settings {
    /// Reads the settings of the namespace that the calling thread is in.
    #[must_use]
    pub fn read(whose: Whose) -> Self {
        Self::read_from(Path::new(SYSCTL_DIR), whose)
    }

    /// Reads the settings below `dir`, laid out as `/proc/sys` is. One that cannot be read is absent.
    #[must_use]
    pub fn read_from(dir: &Path, whose: Whose) -> Self {
        let mut settings = Self::default();
        for (name, value) in SETTINGS.iter().zip(&mut settings.values) {
            if whose == Whose::Host || !is_of_node(name) {
                *value = text(dir, name).and_then(|text| Value::parse(&text));
            }
        }
        let reserved = text(dir, RESERVED_PORTS);
        settings.ephemeral_ports = settings
            .get("net.ipv4.ip_local_port_range")
            .zip(reserved)
            .and_then(|(range, reserved)| ephemeral_ports(range, &reserved));
        settings
    }

    /// The setting of this name, if it is in the list and the kernel has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value> {
        let index = SETTINGS.iter().position(|listed| *listed == name)?;
        self.values[index]
    }

    /// Every setting that was found, in the list's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Value)> {
        SETTINGS.into_iter().zip(self.values).filter_map(|(name, value)| Some((name, value?)))
    }

    /// The settings that are not as they are in `host`.
    pub fn differing<'a>(&'a self, host: &'a Self) -> impl Iterator<Item = (&'static str, Value)> + 'a {
        self.iter().filter(|(name, value)| host.get(name) != Some(*value))
    }
}

/// Whether a setting has nothing to do with network namespaces.
fn is_of_node(name: &str) -> bool {
    !name.starts_with("net.")
}

/// The text of a setting by its name. No name in the list has a dot or a slash within a part.
fn text(dir: &Path, name: &str) -> Option<String> {
    let mut text = String::new();
    let file = File::open(dir.join(name.replace('.', "/"))).ok()?;
    file.take(TEXT_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// How many ports of a range are not set aside. `None` for anything that the kernel would not write.
fn ephemeral_ports(range: Value, reserved: &str) -> Option<u32> {
    let &[first, last] = range.numbers() else { return None };
    let (first, last) = (u16::try_from(first).ok()?, u16::try_from(last).ok()?);
    let all = u32::from(last.checked_sub(first)?) + 1;
    Some(all - reserved_within(reserved, first, last)?)
}

/// How many ports from `first` to `last` a list names.
fn reserved_within(list: &str, first: u16, last: u16) -> Option<u32> {
    let clipped = |(from, to): (u16, u16)| (from.max(first), to.min(last));
    let count = |(from, to): (u16, u16)| u32::from(to).saturating_add(1).saturating_sub(u32::from(from));
    Some(ranges(list)?.into_iter().map(clipped).map(count).sum())
}

/// The ranges of a list such as `8080,9148-9200`, both ends inclusive. The kernel writes it in ascending order, and
/// nothing twice.
fn ranges(list: &str) -> Option<Vec<(u16, u16)>> {
    let mut ranges = Vec::new();
    let mut beyond = 0;
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u16, u16) = (from.parse().ok()?, to.parse().ok()?);
        if from > to || u32::from(from) < beyond {
            return None;
        }
        beyond = u32::from(to) + 1;
        ranges.push((from, to));
    }
    Some(ranges)
}

/// Ports that are set aside in the namespace that the calling thread is in (`ip_local_reserved_ports`).
#[must_use]
pub fn reserved_ports() -> Vec<(u16, u16)> {
    text(Path::new(SYSCTL_DIR), RESERVED_PORTS).as_deref().and_then(ranges).unwrap_or_default()
}
