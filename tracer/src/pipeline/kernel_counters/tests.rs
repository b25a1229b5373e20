//! Texts as several kernels write them, texts that no kernel writes, and the running kernel's own.

use proptest::prelude::*;

use super::*;
use crate::kernel::netns::scratch::ScratchNetns;
use crate::kernel::netns::visit;

/// Linux 5.10: an earlier set of names, in an earlier order.
const NETSTAT_5_10: &str = "\
TcpExt: SyncookiesSent SyncookiesRecv SyncookiesFailed EmbryonicRsts TW ListenOverflows ListenDrops TCPTimeouts TCPTimeWaitOverflow TCPReqQFullDoCookies TCPReqQFullDrop TCPRetransFail TCPSynRetrans TCPRcvQDrop
TcpExt: 3 2 1 0 12 56 57 9 46 10 5 4 20 0
IpExt: InNoRoutes InTruncatedPkts ListenDrops
IpExt: 0 0 999
";
const SNMP_5_10: &str = "\
Ip: Forwarding DefaultTTL InReceives
Ip: 2 64 8364
Icmp: InMsgs InErrors
Icmp: 1 0
IcmpMsg: InType3
IcmpMsg: 1
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 31 2 4 17 1 8304 4916 11 0 23 0
Udp: InDatagrams NoPorts
Udp: 59 0
";

/// Linux 6.1: names in between, one more table.
const NETSTAT_6_1: &str = "\
TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPFastRetrans TCPSlowStartRetrans TCPTimeouts TCPLossProbes TCPBacklogDrop PFMemallocDrop TCPTimeWaitOverflow TCPReqQFullDrop TCPSynRetrans TCPMigrateReqSuccess
TcpExt: 0 7 8 100 2 3 4 0 0 0 0 18446744073709551615 0
IpExt: InNoRoutes
IpExt: 0
MPTcpExt: MPCapableSYNRX MPTCPRetrans
MPTcpExt: 0 0
";

/// Linux 6.18: later names at the end and in the middle.
const NETSTAT_6_18: &str = "\
TcpExt: SyncookiesSent TSEcrRejected PAWSOldAck PAWSTimewait ListenOverflows ListenDrops TCPTimeWaitOverflow TCPRetransFail TCPAORequired TCPAODroppedIcmps
TcpExt: 0 1 2 3 4 5 6 7 8 9
";

#[test]
fn every_counter_comes_from_its_own_name() {
    let counters = KernelCounters::parse(NETSTAT_5_10, SNMP_5_10);
    let expected = KernelCounters {
        syncookies_sent: Some(3),
        syncookies_recv: Some(2),
        syncookies_failed: Some(1),
        listen_overflows: Some(56),
        listen_drops: Some(57),
        timeouts: Some(9),
        time_wait_overflow: Some(46),
        req_q_full_do_cookies: Some(10),
        req_q_full_drop: Some(5),
        retrans_fail: Some(4),
        syn_retrans: Some(20),
        rcv_q_drop: Some(0),
        active_opens: Some(31),
        passive_opens: Some(2),
        attempt_fails: Some(4),
        estab_resets: Some(17),
        curr_estab: Some(1),
        in_segs: Some(8304),
        out_segs: Some(4916),
        retrans_segs: Some(11),
        in_errs: Some(0),
        out_rsts: Some(23),
        ..KernelCounters::default()
    };
    assert_eq!(counters, expected);
}

#[test]
fn names_may_move_and_be_missing() {
    let counters = KernelCounters::parse(NETSTAT_6_1, "");
    assert_eq!(
        (counters.listen_overflows, counters.listen_drops, counters.fast_retrans),
        (Some(7), Some(8), Some(100))
    );
    assert_eq!(counters.syn_retrans, Some(u64::MAX));
    assert_eq!((counters.retrans_fail, counters.in_segs), (None, None));

    let counters = KernelCounters::parse(NETSTAT_6_18, SNMP_5_10);
    assert_eq!(
        (counters.listen_overflows, counters.listen_drops, counters.time_wait_overflow),
        (Some(4), Some(5), Some(6))
    );
    assert_eq!((counters.retrans_fail, counters.syn_retrans), (Some(7), None));
}

#[test]
fn a_table_whose_lines_do_not_match_is_left_out() {
    let parse = |netstat| KernelCounters::parse(netstat, "");
    let nothing = KernelCounters::default();
    assert_eq!(parse("TcpExt: TW ListenDrops\nTcpExt: 1\n"), nothing);
    assert_eq!(parse("TcpExt: ListenDrops\nTcpExt: 1 2\n"), nothing);
    assert_eq!(parse("TcpExt: ListenDrops\nIpExt: 5\n"), nothing);
    assert_eq!(parse("Tcp: ListenDrops\nTcp: 5\n"), nothing);
    assert_eq!(parse("TcpExt: ListenDrops\n"), nothing);
    assert_eq!(parse("TcpExt: ListenDrops TW\nTcpExt: -1 5\n"), nothing);
    // After a line without its pair the next pair still counts.
    let counters = parse("Cut: off\nTcpExt: ListenDrops\nTcpExt: 5\n");
    assert_eq!(counters.listen_drops, Some(5));
}

#[test]
fn sockstat_is_read_by_name() {
    let text = "sockets: used 14\nTCP: inuse 1 orphan 2 tw 3 alloc 4 mem 28\nUDP: inuse 9 mem 8\n";
    let expected = Sockstat {
        tcp_inuse: Some(1),
        tcp6_inuse: None,
        tcp_orphan: Some(2),
        tcp_tw: Some(3),
        tcp_alloc: Some(4),
        tcp_mem: Some(28),
    };
    assert_eq!(Sockstat::parse(text), expected);
    assert_eq!(Sockstat::parse("UDP: inuse 9 mem 8\n"), Sockstat::default());
    let odd = Sockstat::parse("TCP: inuse -1 new 7 tw 3 alloc");
    assert_eq!(odd, Sockstat { tcp_tw: Some(3), ..Sockstat::default() });
}

#[test]
fn sockets_of_ipv6_stand_in_a_file_of_their_own() {
    assert_eq!(tcp6_inuse("TCP6: inuse 7\nUDP6: inuse 2\n"), Some(7));
    assert_eq!(tcp6_inuse("UDP6: inuse 2\n"), None);
}

#[test]
fn settings_that_the_kernel_lacks_are_absent() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("ipv4/tcp_max_tw_buckets", "262144\n");
    write("ipv4/tcp_syncookies", "much\n");
    write("ipv4/tcp_max_syn_backlog", "-1\n");
    write("ipv4/ip_local_port_range", "32768\t60999\n");
    let expected = Sysctls {
        tcp_max_tw_buckets: Some(262_144),
        tcp_max_syn_backlog: Some(-1),
        ip_local_port_range: Some((32_768, 60_999)),
        ..Sysctls::default()
    };
    assert_eq!(Sysctls::read_from(dir.path()).unwrap(), expected);
}

#[test]
fn port_ranges() {
    assert_eq!(port_range("2 3"), Some((2, 3)));
    for odd in ["", "2", "2\t", "2 70000", "-1 5", "1 2 3"] {
        assert_eq!(port_range(odd), None, "{odd:?}");
    }
}

#[test]
fn the_running_kernel_has_the_counters_that_sums_close_against() {
    let counters = KernelCounters::read().unwrap();
    for counter in [
        counters.listen_drops,
        counters.listen_overflows,
        counters.req_q_full_drop,
        counters.retrans_segs,
        counters.syn_retrans,
        counters.retrans_fail,
        counters.time_wait_overflow,
        counters.passive_opens,
        counters.estab_resets,
        counters.out_rsts,
    ] {
        assert!(counter.is_some(), "{counters:?}");
    }
    let sockstat = Sockstat::read().unwrap();
    assert!(sockstat.tcp_tw.is_some() && sockstat.tcp_mem.is_some(), "{sockstat:?}");
}

#[test]
fn live_the_figures_are_those_of_the_visited_namespace() {
    let home = Sysctls::read().unwrap();
    let scratch = ScratchNetns::add("counters");
    let (counters, sysctls) = visit(&scratch.find(), |_| {
        fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "4").unwrap();
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40001").unwrap();
        (KernelCounters::read().unwrap(), Sysctls::read().unwrap())
    })
    .unwrap();
    assert_eq!(sysctls.tcp_max_tw_buckets, Some(4));
    assert_eq!(sysctls.ip_local_port_range, Some((40_000, 40_001)));
    assert_eq!(Sysctls::read().unwrap(), home);
    // Nothing was ever sent in there.
    assert_eq!((counters.in_segs, counters.out_segs), (Some(0), Some(0)));
}

proptest! {
    #[test]
    fn any_text_is_survived(netstat in "[\\PC\n :]{0,200}", snmp in "(Tcp:[ A-Za-z0-9-]{0,40}\n){0,4}") {
        let _ = KernelCounters::parse(&netstat, &snmp);
        let _ = Sockstat::parse(&netstat);
        port_range(&netstat);
    }

    #[test]
    fn a_counter_is_found_wherever_it_stands(before in prop::collection::vec(any::<u64>(), 0..20), drops: u64) {
        let names: String = (0..before.len()).map(|index| ["Other", "Xy"][index % 2]).flat_map(|name| [" ", name]).collect();
        let values: Vec<String> = before.iter().map(u64::to_string).collect();
        let values = values.join(" ");
        let text = format!("TcpExt: {names} ListenDrops\nTcpExt: {values} {drops}\n");
        let expected = KernelCounters { listen_drops: Some(drops), ..KernelCounters::default() };
        prop_assert_eq!(KernelCounters::parse(&text, ""), expected);
    }
}

#[test]
fn a_counter_is_shown_since_its_baseline() {
    let counted = |baseline, readings: &[Option<u64>]| {
        let mut since = Since::baseline(baseline);
        for reading in readings {
            since.take(*reading);
        }
        since.counted()
    };
    assert_eq!(counted(Some(1000), &[]), None, "not read yet");
    assert_eq!(counted(Some(1000), &[Some(1000)]), Some(0));
    assert_eq!(counted(Some(1000), &[Some(1003), Some(1010)]), Some(10));
    assert_eq!(counted(None, &[Some(7), None]), Some(7), "one that began after the agent");
    assert_eq!(counted(Some(1000), &[Some(1010), Some(3), Some(4)]), Some(14), "another namespace's, from zero");
    assert_eq!(counted(None, &[None]), None, "a kernel without it");
}
