//! What `/proc` says at the moment, beside the rows that show it: the kernel's counters of a namespace by
//! kind, and the figures of the node.
//!
//! The agent's rows are its last pass's, so figures are compared only where they stood still around a pass
//! and a scrape.

use std::collections::BTreeMap;

use super::agent::Agent;
use super::counters::Counters;
use super::equations::as_value;
use super::netns::Netns;
use super::scrape::Scrape;
use super::wait::equal;

/// A row of a namespace that is one counter of the kernel: metric, its own label, counter.
type Row = (&'static str, Option<(&'static str, &'static str)>, &'static str);

const ROWS: &[Row] = &[
    ("tracer_tcp_syn_cookies_total", Some(("result", "sent")), "SyncookiesSent"),
    ("tracer_tcp_syn_cookies_total", Some(("result", "received")), "SyncookiesRecv"),
    ("tracer_tcp_syn_cookies_total", Some(("result", "failed")), "SyncookiesFailed"),
    ("tracer_tcp_aborts_total", Some(("reason", "data")), "TCPAbortOnData"),
    ("tracer_tcp_aborts_total", Some(("reason", "close")), "TCPAbortOnClose"),
    ("tracer_tcp_aborts_total", Some(("reason", "memory")), "TCPAbortOnMemory"),
    ("tracer_tcp_aborts_total", Some(("reason", "timeout")), "TCPAbortOnTimeout"),
    ("tracer_tcp_aborts_total", Some(("reason", "linger")), "TCPAbortOnLinger"),
    ("tracer_tcp_aborts_total", Some(("reason", "failed")), "TCPAbortFailed"),
    ("tracer_tcp_zero_window_total", Some(("direction", "to_zero")), "TCPToZeroWindowAdv"),
    ("tracer_tcp_zero_window_total", Some(("direction", "from_zero")), "TCPFromZeroWindowAdv"),
    ("tracer_tcp_zero_window_total", Some(("direction", "want_zero")), "TCPWantZeroWindowAdv"),
    ("tracer_tcp_zero_window_total", Some(("direction", "peer_probe")), "TCPWinProbe"),
    ("tracer_tcp_memory_pressure_total", None, "TCPMemoryPressures"),
    ("tracer_tcp_receive_queue_drops_total", None, "TCPRcvQDrop"),
];

/// Whether every such row of the namespaces is what the kernel has counted since they were made.
pub(crate) fn rows_are_the_kernels(agent: &Agent, namespaces: &[&Netns]) -> Result<(), String> {
    let read = || -> Vec<Counters> { namespaces.iter().map(|netns| Counters::read(netns)).collect() };
    let before = read();
    agent.await_pass();
    let scrape = agent.scrape();
    if read() != before {
        return Err("the kernel's counters moved around the scrape".to_owned());
    }
    namespaces.iter().zip(&before).try_for_each(|(netns, counters)| compare(&scrape, &netns.inode(), counters))
}

fn compare(scrape: &Scrape, inode: &str, counters: &Counters) -> Result<(), String> {
    for (metric, own, counter) in ROWS {
        let labels: Vec<_> = [("netns", inode)].into_iter().chain(*own).collect();
        equal(counter, &scrape.one(metric, &labels)?, &as_value(counters.get(counter)))?;
    }
    Ok(())
}

/// Figures of the node, by the rows that show them.
pub(crate) type Figures = BTreeMap<String, f64>;

/// The node's figures as `/proc` has them now.
pub(crate) fn node() -> Figures {
    let mut figures = Figures::new();
    let softnet = read("net/softnet_stat");
    for line in softnet.lines() {
        let columns: Vec<u32> = line.split(' ').map(|column| u32::from_str_radix(column, 16).unwrap()).collect();
        figures.insert(format!("tracer_softnet_dropped_packets_total {}", columns[12]), columns[1].into());
        figures.insert(format!("tracer_softnet_squeezed_total {}", columns[12]), columns[2].into());
    }
    let files = numbers("sys/fs/file-nr");
    figures.insert("tracer_file_handles ".to_owned(), as_value(files[0]));
    figures.insert("tracer_file_handles_limit ".to_owned(), as_value(files[2]));
    figures.insert("tracer_tcp_orphan_sockets ".to_owned(), as_value(sockstat("orphan")));
    figures.insert("tracer_tcp_orphan_limit ".to_owned(), as_value(numbers("sys/net/ipv4/tcp_max_orphans")[0]));
    let page = rustix::param::page_size() as u64;
    // Everywhere a page of memory: with larger pages only from 6.0 on, and no test runs on older ones.
    figures.insert("tracer_tcp_memory_bytes ".to_owned(), as_value(sockstat("mem") * page));
    for (level, pages) in ["min", "pressure", "max"].into_iter().zip(numbers("sys/net/ipv4/tcp_mem")) {
        figures.insert(format!("tracer_tcp_memory_limit_bytes {level}"), as_value(pages * page));
    }
    figures
}

/// The same figures in a scrape.
pub(crate) fn node_rows(scrape: &Scrape) -> Figures {
    let mut figures = Figures::new();
    for (metric, label) in [
        ("tracer_softnet_dropped_packets_total", "cpu"),
        ("tracer_softnet_squeezed_total", "cpu"),
        ("tracer_file_handles", ""),
        ("tracer_file_handles_limit", ""),
        ("tracer_tcp_orphan_sockets", ""),
        ("tracer_tcp_orphan_limit", ""),
        ("tracer_tcp_memory_bytes", ""),
        ("tracer_tcp_memory_limit_bytes", "level"),
    ] {
        let rows = scrape.rows(metric, &[]);
        figures.extend(rows.map(|row| (format!("{metric} {}", row.label(label)), row.value)));
    }
    figures
}

/// One figure of the line `TCP:` of the node.
pub(crate) fn sockstat(name: &str) -> u64 {
    let text = read("net/sockstat");
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap();
    let mut words = line.split_whitespace().skip_while(|word| *word != name);
    words.nth(1).unwrap().parse().unwrap()
}

fn numbers(file: &str) -> Vec<u64> {
    read(file).split_whitespace().map(|number| number.parse().unwrap()).collect()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{file}")).unwrap()
}
