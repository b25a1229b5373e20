//! The kernel's own counters and settings of one network namespace.
//!
//! Owns the parsers of `netstat`, `snmp` and `sockstat` and of the few settings that other figures of the same
//! pass are held against (`sysctls` has all of them, read seldom), and the reader that feeds them. Called by the worker inside a namespace; the figures go to reconcile and to the
//! collector. A name that the running kernel does not know is `None`, never zero. Keeps no state, logs nothing.

use std::path::Path;
use std::str::FromStr;
use std::{fs, io};

#[cfg(test)]
mod tests;

/// The calling thread's network statistics. `/proc/net` would show the main thread's namespace instead.
const NET_DIR: &str = "/proc/thread-self/net";

/// Network settings; the kernel shows those of the namespace that the calling thread is in.
const SYSCTL_DIR: &str = "/proc/sys/net";

/// Declares [`KernelCounters`]: one field for each MIB name, by the table that it stands in.
macro_rules! kernel_counters {
    ($($table:ident { $($(#[$doc:meta])* $mib:literal $field:ident,)+ })+) => {
        /// The TCP counters of a network namespace since its creation; `None` where the kernel does not have one.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct KernelCounters {
            $($(#[doc = concat!("`", stringify!($table), $mib, "`, as `nstat` calls it.")] $(#[$doc])* pub $field: Option<u64>,)+)+
        }

        impl KernelCounters {
            /// The field for a MIB name of a table.
            fn field(&mut self, table: &str, mib: &str) -> Option<&mut Option<u64>> {
                match (table, mib) {
                    $($((stringify!($table), $mib) => Some(&mut self.$field),)+)+
                    _ => None,
                }
            }
        }
    };
}

kernel_counters! {
    TcpExt {
        "ListenDrops" listen_drops,
        "ListenOverflows" listen_overflows,
        "TCPReqQFullDrop" req_q_full_drop,
        "TCPReqQFullDoCookies" req_q_full_do_cookies,
        "TCPSynRetrans" syn_retrans,
        "TCPRetransFail" retrans_fail,
        "TCPTimeWaitOverflow" time_wait_overflow,
        "TCPTimeouts" timeouts,
        "TCPLossProbes" loss_probes,
        "TCPFastRetrans" fast_retrans,
        "TCPSlowStartRetrans" slow_start_retrans,
        "SyncookiesSent" syncookies_sent,
        "SyncookiesRecv" syncookies_recv,
        "SyncookiesFailed" syncookies_failed,
        "TCPAbortOnData" abort_on_data,
        "TCPAbortOnClose" abort_on_close,
        "TCPAbortOnMemory" abort_on_memory,
        /// Includes connections that keepalive found dead.
        "TCPAbortOnTimeout" abort_on_timeout,
        "TCPAbortOnLinger" abort_on_linger,
        "TCPAbortFailed" abort_failed,
        "TCPFromZeroWindowAdv" from_zero_window_adv,
        "TCPToZeroWindowAdv" to_zero_window_adv,
        "TCPWantZeroWindowAdv" want_zero_window_adv,
        /// Probes sent to a peer whose window is closed.
        "TCPWinProbe" win_probe,
        "TCPMemoryPressures" memory_pressures,
        "TCPRcvQDrop" rcv_q_drop,
        "TCPBacklogDrop" backlog_drop,
        "TCPDeferAcceptDrop" defer_accept_drop,
    }
    Tcp {
        "ActiveOpens" active_opens,
        "PassiveOpens" passive_opens,
        "AttemptFails" attempt_fails,
        "EstabResets" estab_resets,
        /// A level, not a count: sockets in ESTABLISHED and CLOSE_WAIT.
        "CurrEstab" curr_estab,
        "InSegs" in_segs,
        "OutSegs" out_segs,
        "RetransSegs" retrans_segs,
        "InErrs" in_errs,
        "OutRsts" out_rsts,
    }
}

impl KernelCounters {
    /// Reads the counters of the namespace that the calling thread is in.
    pub fn read() -> io::Result<Self> {
        let dir = Path::new(NET_DIR);
        Ok(Self::parse(&read(dir, "netstat")?, &read(dir, "snmp")?))
    }

    /// Takes the counters out of the text of `netstat` and `snmp`.
    #[must_use]
    pub fn parse(netstat: &str, snmp: &str) -> Self {
        let mut counters = Self::default();
        counters.take(netstat);
        counters.take(snmp);
        counters
    }

    /// Takes the counters out of pairs of lines: `Table: names …`, then `Table: values …`.
    fn take(&mut self, text: &str) {
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        let mut header: Option<(&str, &str)> = None;
        for (table, rest) in lines.by_ref() {
            match header.take() {
                Some((named, names)) if named == table => self.take_table(table, names, rest),
                _ => header = Some((table, rest)),
            }
        }
    }

    fn take_table(&mut self, table: &str, names: &str, values: &str) {
        // With a name or a value missing nothing tells which value belongs to which name.
        if names.split_ascii_whitespace().count() != values.split_ascii_whitespace().count() {
            return;
        }
        for (name, value) in names.split_ascii_whitespace().zip(values.split_ascii_whitespace()) {
            if let Some(field) = self.field(table, name) {
                // Negative values (`MaxConn -1`: no limit) are no counts.
                *field = value.parse().ok();
            }
        }
    }
}

/// A counter of the kernel that nothing is compared with, since the agent's baseline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// The kernel's figure at the last reading.
    last: u64,
    counted: Option<u64>,
}

impl Since {
    /// Of a counter that stood at `baseline` when counting began; where it was not read, it began at zero.
    #[must_use]
    pub fn baseline(baseline: Option<u64>) -> Self {
        Self { last: baseline.unwrap_or(0), counted: None }
    }

    /// Takes a reading. Below the last one the counter is that of another namespace under the same identity, and
    /// began at zero.
    pub fn take(&mut self, reading: Option<u64>) {
        let Some(now) = reading else { return };
        *self.counted.get_or_insert(0) += now.checked_sub(self.last).unwrap_or(now);
        self.last = now;
    }

    /// What was counted; `None` while it was not read.
    #[must_use]
    pub fn counted(self) -> Option<u64> {
        self.counted
    }
}

/// Segments of a namespace since the agent's baseline: what its retransmits are a share of must have begun with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// `OutSegs`.
    pub sent: Since,
    /// `InSegs`.
    pub received: Since,
}

impl Segments {
    /// Of a namespace that had these counters when counting began.
    #[must_use]
    pub fn baseline(counters: &KernelCounters) -> Self {
        Self { sent: Since::baseline(counters.out_segs), received: Since::baseline(counters.in_segs) }
    }

    /// Takes a reading.
    pub fn take(&mut self, counters: &KernelCounters) {
        self.sent.take(counters.out_segs);
        self.received.take(counters.in_segs);
    }
}

/// The TCP lines of `sockstat` and `sockstat6`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockstat {
    /// IPv4 sockets of this namespace that are bound or connected (IPv6 ones stand in `sockstat6`).
    pub tcp_inuse: Option<u64>,
    /// IPv6 sockets likewise; `None` without IPv6.
    pub tcp6_inuse: Option<u64>,
    /// Sockets that no process owns any more, on the whole node.
    pub tcp_orphan: Option<u64>,
    /// `TIME_WAIT` sockets of this namespace.
    pub tcp_tw: Option<u64>,
    /// TCP sockets of the whole node.
    pub tcp_alloc: Option<u64>,
    /// Memory of all TCP sockets of the node, in pages.
    pub tcp_mem: Option<u64>,
}

impl Sockstat {
    /// Reads the lines of the namespace that the calling thread is in.
    pub fn read() -> io::Result<Self> {
        let dir = Path::new(NET_DIR);
        let tcp6_inuse = optional(dir, "sockstat6")?.as_deref().and_then(tcp6_inuse);
        Ok(Self { tcp6_inuse, ..Self::parse(&read(dir, "sockstat")?) })
    }

    /// Takes the figures out of the text of `sockstat`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut sockstat = Self::default();
        let Some(line) = text.lines().find_map(|line| line.strip_prefix("TCP:")) else {
            return sockstat;
        };
        let mut words = line.split_ascii_whitespace();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            let field = match name {
                "inuse" => &mut sockstat.tcp_inuse,
                "orphan" => &mut sockstat.tcp_orphan,
                "tw" => &mut sockstat.tcp_tw,
                "alloc" => &mut sockstat.tcp_alloc,
                "mem" => &mut sockstat.tcp_mem,
                _ => continue,
            };
            *field = value.parse().ok();
        }
        sockstat
    }
}

/// The figure of `sockstat6`.
fn tcp6_inuse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("TCP6: inuse "))?.trim().parse().ok()
}

/// Settings of a network namespace that are read in each pass; `None` where the running kernel does not have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sysctls {
    /// `net.ipv4.tcp_max_tw_buckets`: `TIME_WAIT` sockets allowed in this namespace.
    pub tcp_max_tw_buckets: Option<i32>,
    /// `net.ipv4.tcp_syncookies`: 0 never, 1 when the SYN queue is full, 2 always.
    pub tcp_syncookies: Option<i32>,
    /// `net.ipv4.tcp_max_syn_backlog`: half-open connections allowed for one listener.
    pub tcp_max_syn_backlog: Option<i32>,
    /// `net.ipv4.ip_local_port_range`: first and last ephemeral port.
    pub ip_local_port_range: Option<(u16, u16)>,
}

impl Sysctls {
    /// Reads the settings of the namespace that the calling thread is in.
    pub fn read() -> io::Result<Self> {
        Self::read_from(Path::new(SYSCTL_DIR))
    }

    /// Reads the settings below `dir`, laid out as `/proc/sys/net` is.
    pub fn read_from(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            tcp_max_tw_buckets: setting(dir, "ipv4/tcp_max_tw_buckets")?,
            tcp_syncookies: setting(dir, "ipv4/tcp_syncookies")?,
            tcp_max_syn_backlog: setting(dir, "ipv4/tcp_max_syn_backlog")?,
            ip_local_port_range: optional(dir, "ipv4/ip_local_port_range")?.and_then(|text| port_range(&text)),
        })
    }
}

/// A setting of one number; `None` when there is no such file.
fn setting<T: FromStr>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    Ok(optional(dir, name)?.and_then(|text| text.trim().parse().ok()))
}

/// Two ports with white space between them.
fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some((first.parse().ok()?, last.trim_start().parse().ok()?))
}

fn optional(dir: &Path, name: &str) -> io::Result<Option<String>> {
    match read(dir, name) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The text of a file, with its path in the error.
fn read(dir: &Path, name: &str) -> io::Result<String> {
    let path = dir.join(name);
    fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("reading {}: {error}", path.display())))
}
