//! Settings as kernels write them, texts that none writes, and the running kernel's own.

use std::collections::HashSet;
use std::fs;

use proptest::prelude::*;

use super::*;
use crate::kernel::netns::scratch::ScratchNetns;
use crate::kernel::netns::visit;

/// A tree like `/proc/sys` with these files.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn value(text: &str) -> Value {
    Value::parse(text).unwrap()
}

#[test]
fn a_setting_is_listed_once_and_as_sysctl_writes_it() {
    assert_eq!(SETTINGS.into_iter().collect::<HashSet<_>>().len(), SETTINGS.len());
    for name in SETTINGS {
        let plain = |part: &str| !part.is_empty() && !part.contains(['/', ' ']);
        assert!(name.contains('.') && name.split('.').all(plain), "{name}");
    }
}

#[test]
fn one_to_three_numbers_are_a_value() {
    assert_eq!(value("4096\n").numbers(), [4096]);
    assert_eq!(value("32768\t60999\n").numbers(), [32_768, 60_999]);
    assert_eq!(value("189207\t252278\t378414\n").numbers(), [189_207, 252_278, 378_414]);
    assert_eq!(value("-1\n").numbers(), [-1]);
    assert_eq!(value("9223372036854775807\n").numbers(), [i64::MAX]);
    for odd in ["", "\n", "cubic\n", "1 2 3 4\n", "1,2\n", "9223372036854775808\n"] {
        assert_eq!(Value::parse(odd), None, "{odd:?}");
    }
}

#[test]
fn settings_are_found_by_name_and_may_be_missing() {
    let dir = tree(&[
        ("net/ipv4/tcp_mem", "1\t2\t3\n"),
        ("net/core/somaxconn", "128\n"),
        ("net/ipv4/tcp_syncookies", "much\n"),
        ("fs/file-max", "9223372036854775807\n"),
    ]);
    let host = Settings::read_from(dir.path(), Whose::Host);
    let found: Vec<_> = host.iter().collect();
    assert_eq!(
        found,
        [
            ("net.core.somaxconn", value("128")),
            ("net.ipv4.tcp_mem", value("1 2 3")),
            ("fs.file-max", value("9223372036854775807")),
        ]
    );
    assert_eq!((host.get("net.ipv4.tcp_sack"), host.get("net.ipv4.nothing")), (None, None));
    assert_eq!(host.ephemeral_ports, None);
    let other = Settings::read_from(dir.path(), Whose::Other);
    assert_eq!(other.get("fs.file-max"), None, "the node's own, and no namespace's");
    assert_eq!(other.get("net.core.somaxconn"), Some(value("128")));
}

#[test]
fn a_namespace_differs_by_what_it_has_and_the_host_has_not() {
    let host = tree(&[("net/core/somaxconn", "128"), ("net/ipv4/tcp_mem", "1 2 3"), ("net/ipv4/tcp_sack", "1")]);
    let other = tree(&[("net/core/somaxconn", "64"), ("net/ipv4/tcp_sack", "1"), ("net/ipv4/tcp_fin_timeout", "60")]);
    let [host, other] = [host, other].map(|dir| Settings::read_from(dir.path(), Whose::Other));
    let differing: Vec<_> = other.differing(&host).collect();
    assert_eq!(differing, [("net.core.somaxconn", value("64")), ("net.ipv4.tcp_fin_timeout", value("60"))]);
    assert_eq!(host.differing(&host).count(), 0);
}

#[test]
fn ports_that_are_set_aside_are_not_available() {
    let ports = |range: &str, reserved: &str| ephemeral_ports(value(range), reserved);
    for (reserved, expected) in [
        ("\n", 100),
        ("8080\n", 100),
        ("40000\n", 99),
        ("40099,40100\n", 99),
        ("8080,39990-40009,40050,40090-60000\n", 79),
        ("0-65535\n", 0),
    ] {
        assert_eq!(ports("40000 40099", reserved), Some(expected), "{reserved:?}");
    }
    assert_eq!(ports("1 65535", ""), Some(65_535));
    assert_eq!(ports("7 7", ""), Some(1));
    for (range, reserved) in [
        ("40000 40099", "40010,40010"),
        ("40000 40099", "40010-40000"),
        ("40000 40099", "70000"),
        ("40000 40099", "a"),
        ("40099 40000", ""),
        ("40000", ""),
        ("40000 70000", ""),
    ] {
        assert_eq!(ports(range, reserved), None, "{range:?} {reserved:?}");
    }
}

#[test]
fn the_running_kernel_has_what_every_supported_one_has() {
    let settings = Settings::read(Whose::Host);
    for name in [
        "net.core.somaxconn",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_keepalive_time",
        "fs.file-max",
        "fs.nr_open",
    ] {
        assert!(settings.get(name).is_some(), "{name} in {settings:?}");
    }
    assert!(settings.ephemeral_ports.is_some_and(|ports| ports > 0));
}

#[test]
fn live_settings_are_those_of_the_visited_namespace() {
    let home = Settings::read(Whose::Other);
    let scratch = ScratchNetns::add("settings");
    let (fresh, changed) = visit(&scratch.find(), |_| {
        let fresh = Settings::read(Whose::Other);
        fs::write("/proc/sys/net/ipv4/tcp_retries2", "7").unwrap();
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40099").unwrap();
        fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "40001,40050-40059,50000").unwrap();
        (fresh, Settings::read(Whose::Other))
    })
    .unwrap();
    let differing: Vec<_> = changed.differing(&fresh).collect();
    assert_eq!(
        differing,
        [("net.ipv4.ip_local_port_range", value("40000 40099")), ("net.ipv4.tcp_retries2", value("7"))]
    );
    assert_eq!(changed.ephemeral_ports, Some(89));
    assert_eq!(changed.get("net.ipv4.tcp_mem"), None, "the node's, not shown in other namespaces");
    assert_eq!(Settings::read(Whose::Other), home);
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "([0-9]{1,5}|-|,|[ \t]|\\PC){0,60}", first: u16, last: u16) {
        let range = Value::parse(&text);
        if let Some(range) = range {
            prop_assert!((1..=NUMBERS_MAX).contains(&range.numbers().len()));
            let _ = ephemeral_ports(range, &text);
        }
        let bounds = value(&format!("{first} {last}"));
        if let Some(ports) = ephemeral_ports(bounds, &text) {
            prop_assert!(ports <= u32::from(last - first) + 1);
        }
    }

    #[test]
    fn ports_are_counted_as_one_by_one(mut set in prop::collection::btree_set(0_u16..200, 0..100), first in 0_u16..200) {
        set.insert(first);
        let list = set.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let within = set.range(first..=150.max(first)).count();
        prop_assert_eq!(reserved_within(&list, first, 150.max(first)), Some(u32::try_from(within).unwrap()));
    }
}
