//! Rows of namespaces as they come out: what is told, what is not, and which settings differ.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    agent::settings::SettingsReading,
    export::{encode::encode, rows::Suppressed},
    pipeline::{
        kernel_counters::{Segments, Sockstat, Sysctls},
        reconcile::Books,
        sysctls::{Settings, Whose},
    },
};

/// A living namespace of which nothing was read.
pub(crate) fn namespace(label: &str) -> Namespace {
    Namespace {
        id: 1,
        inum: 1,
        label: label.to_owned(),
        name: String::new(),
        is_host: label == "host",
        lowest_pid: None,
        alive: true,
        is_stale: false,
        books: Books::default(),
        counters: Arc::default(),
        segments: Segments::default(),
        sockstat: Sockstat::default(),
        sysctls: Sysctls::default(),
        settings: None,
        life: 0,
        owner: Arc::default(),
    }
}

/// The reading of a tree like `/proc/sys` with these files.
pub(crate) fn settings(files: &[(&str, &str)]) -> SettingsReading {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let settings = Arc::new(Settings::read_from(dir.path(), Whose::Host));
    SettingsReading { settings, read: Instant::now(), took: Duration::ZERO, cpu: Duration::ZERO }
}

/// The lines of samples that `make` adds.
fn lines(make: impl FnOnce(&mut Rows<'_>)) -> Vec<String> {
    let suppressed = Suppressed::default();
    let mut rows = Rows::new(100, &suppressed);
    make(&mut rows);
    let text = String::from_utf8(encode(&rows).to_vec()).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn the_kernels_counters_come_out_under_their_kinds() {
    let mut namespace = namespace("7");
    let kinds = "SyncookiesSent SyncookiesRecv SyncookiesFailed TCPAbortOnData TCPAbortOnClose TCPAbortOnMemory \
                 TCPAbortOnTimeout TCPAbortOnLinger TCPAbortFailed TCPFromZeroWindowAdv TCPToZeroWindowAdv \
                 TCPWantZeroWindowAdv TCPWinProbe TCPMemoryPressures TCPRcvQDrop";
    let netstat = format!("TcpExt: {kinds}\nTcpExt: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15\n");
    namespace.counters = Arc::new(KernelCounters::parse(&netstat, ""));
    let group = r#"netns="7",namespace="",pod="""#;
    let mut expected = vec![
        format!("tracer_tcp_memory_pressure_total{{{group}}} 14"),
        format!("tracer_tcp_receive_queue_drops_total{{{group}}} 15"),
        r#"tracer_netns_info{netns="7",name="",namespace="",pod=""} 1"#.to_owned(),
    ];
    for (metric, label, values) in [
        ("syn_cookies", "result", &[("sent", 1), ("received", 2), ("failed", 3)][..]),
        ("aborts", "reason", &[("data", 4), ("close", 5), ("memory", 6), ("timeout", 7), ("linger", 8), ("failed", 9)]),
        ("zero_window", "direction", &[("from_zero", 10), ("to_zero", 11), ("want_zero", 12), ("peer_probe", 13)]),
    ] {
        for (value, count) in values {
            expected.push(format!("tracer_tcp_{metric}_total{{{group},{label}=\"{value}\"}} {count}"));
        }
    }
    let mut found = lines(|rows| add(rows, &namespace));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn what_the_kernel_does_not_tell_has_no_row() {
    let mut namespace = namespace("7");
    let only = [r#"tracer_netns_info{netns="7",name="",namespace="",pod=""} 1"#];
    assert_eq!(lines(|rows| add(rows, &namespace)), only);
    namespace.alive = false;
    assert!(lines(|rows| add(rows, &namespace)).is_empty());
}

#[test]
fn ports_are_told_once_the_settings_were_read() {
    let mut namespace = namespace("7");
    let range = ("net/ipv4/ip_local_port_range", "40000 40099");
    namespace.settings = Some(settings(&[range, ("net/ipv4/ip_local_reserved_ports", "40000-40009\n")]));
    let row = r#"tracer_tcp_ephemeral_ports_available{netns="7",namespace="",pod=""} 90"#;
    assert!(lines(|rows| add(rows, &namespace)).contains(&row.to_owned()));
}

#[test]
fn settings_are_the_hosts_and_what_differs() {
    let with = |label, files: &[(&str, &str)]| Namespace { settings: Some(settings(files)), ..namespace(label) };
    let (somaxconn, range) = (("net/core/somaxconn", "4096"), ("net/ipv4/ip_local_port_range", "32768\t60999"));
    let host = with("host", &[somaxconn, range, ("net/ipv4/tcp_mem", "1 2 3")]);
    let same = with("7", &[somaxconn, range]);
    let other = with("8", &[("net/core/somaxconn", "128"), ("net/ipv4/ip_local_port_range", "32768\t50000")]);
    let dead = Namespace { alive: false, ..with("9", &[("net/core/somaxconn", "128")]) };
    let unread = namespace("10");
    let view = View { namespaces: vec![host, same, other, dead, unread], ..View::default() };
    let mut expected: Vec<String> = [
        r#"{netns="8",name="net.core.somaxconn",index=""} 128"#,
        r#"{netns="8",name="net.ipv4.ip_local_port_range",index="0"} 32768"#,
        r#"{netns="8",name="net.ipv4.ip_local_port_range",index="1"} 50000"#,
        r#"{netns="host",name="net.core.somaxconn",index=""} 4096"#,
        r#"{netns="host",name="net.ipv4.ip_local_port_range",index="0"} 32768"#,
        r#"{netns="host",name="net.ipv4.ip_local_port_range",index="1"} 60999"#,
        r#"{netns="host",name="net.ipv4.tcp_mem",index="0"} 1"#,
        r#"{netns="host",name="net.ipv4.tcp_mem",index="1"} 2"#,
        r#"{netns="host",name="net.ipv4.tcp_mem",index="2"} 3"#,
    ]
    .map(|row| format!("tracer_sysctl_value{row}"))
    .into();
    let mut found = lines(|rows| add_settings(rows, &view));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let without_host = View { namespaces: vec![with("7", &[somaxconn])], ..View::default() };
    assert!(lines(|rows| add_settings(rows, &without_host)).is_empty());
}
