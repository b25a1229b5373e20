//! Rows of the node as a whole: what all its namespaces share.
//!
//! Reads the last pass's view alone. Orphans and TCP's memory are one account for all namespaces, which every
//! namespace's `sockstat` shows and only the host's settings limit, so they are taken from the host's.

use super::{
    collector::number,
    metrics::{MEMORY_LEVELS, MetricId},
    rows::Rows,
};
use crate::{
    pipeline::{node::Node, sysctls::Settings},
    view::View,
};

/// All rows of the node; what was not read has none.
pub fn add(rows: &mut Rows<'_>, view: &View) {
    packets_and_files(rows, &view.node);
    let Some(host) = view.host().filter(|host| host.alive) else { return };
    if let Some(orphans) = host.sockstat.tcp_orphan {
        rows.add(MetricId::TcpOrphanSockets, &[], number(orphans));
    }
    if let Some(units) = host.sockstat.tcp_mem {
        let bytes = units.saturating_mul(view.node.tcp_memory_unit_bytes);
        rows.add(MetricId::TcpMemory, &[], number(bytes));
    }
    if let Some(reading) = &host.settings {
        limits(rows, &reading.settings, rustix::param::page_size() as u64);
    }
}

fn packets_and_files(rows: &mut Rows<'_>, node: &Node) {
    for softnet in &node.softnet {
        let cpu = softnet.cpu.to_string();
        rows.add(MetricId::SoftnetDropped, &[&cpu], f64::from(softnet.dropped));
        rows.add(MetricId::SoftnetSqueezed, &[&cpu], f64::from(softnet.squeezed));
    }
    if let Some(files) = node.files {
        rows.add(MetricId::FileHandles, &[], number(files.open));
        rows.add(MetricId::FileHandlesLimit, &[], number(files.limit));
    }
}

fn limits(rows: &mut Rows<'_>, settings: &Settings, page_bytes: u64) {
    if let Some([limit]) = positive(settings, "net.ipv4.tcp_max_orphans") {
        rows.add(MetricId::TcpOrphanLimit, &[], number(limit));
    }
    let pages: Option<[u64; 3]> = positive(settings, "net.ipv4.tcp_mem");
    for (level, pages) in MEMORY_LEVELS.into_iter().zip(pages.into_iter().flatten()) {
        rows.add(MetricId::TcpMemoryLimit, &[level], number(pages.saturating_mul(page_bytes)));
    }
}

/// The numbers of a setting that is made of so many, none of them negative.
fn positive<const COUNT: usize>(settings: &Settings, name: &str) -> Option<[u64; COUNT]> {
    let value = settings.get(name)?;
    let numbers: &[i64; COUNT] = value.numbers().try_into().ok()?;
    numbers.iter().all(|number| *number >= 0).then(|| numbers.map(i64::unsigned_abs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::{
            encode::encode,
            namespace_rows::tests::{namespace, settings},
            rows::Suppressed,
        },
        pipeline::{
            kernel_counters::Sockstat,
            node::{Files, Softnet},
        },
    };

    fn lines(view: &View) -> Vec<String> {
        let suppressed = Suppressed::default();
        let mut rows = Rows::new(100, &suppressed);
        add(&mut rows, view);
        let text = String::from_utf8(encode(&rows).to_vec()).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn a_node_has_rows_for_what_was_read() {
        let mut host = namespace("host");
        host.sockstat = Sockstat { tcp_orphan: Some(3), tcp_mem: Some(10), ..Sockstat::default() };
        host.settings = Some(settings(&[("net/ipv4/tcp_mem", "1\t2\t8388608"), ("net/ipv4/tcp_max_orphans", "8192")]));
        let node = Node {
            softnet: vec![Softnet { cpu: 2, dropped: 5, squeezed: u32::MAX }],
            files: Some(Files { open: 800, limit: 2000 }),
            tcp_memory_unit_bytes: 4096,
        };
        let page = rustix::param::page_size();
        let expected = format!(
            "tracer_tcp_orphan_sockets 3
tracer_tcp_orphan_limit 8192
tracer_tcp_memory_bytes 40960
tracer_tcp_memory_limit_bytes{{level=\"max\"}} {}
tracer_tcp_memory_limit_bytes{{level=\"min\"}} {page}
tracer_tcp_memory_limit_bytes{{level=\"pressure\"}} {}
tracer_softnet_dropped_packets_total{{cpu=\"2\"}} 5
tracer_softnet_squeezed_total{{cpu=\"2\"}} 4294967295
tracer_file_handles 800
tracer_file_handles_limit 2000
",
            8_388_608 * page,
            2 * page
        );
        assert_eq!(
            lines(&View { namespaces: vec![host], node, ..View::default() }),
            expected.lines().collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_was_not_read_has_no_row() {
        assert!(lines(&View::default()).is_empty());
        let mut other = namespace("4026532000");
        other.sockstat = Sockstat { tcp_orphan: Some(3), tcp_mem: Some(10), ..Sockstat::default() };
        assert!(lines(&View { namespaces: vec![other], ..View::default() }).is_empty(), "not the host's");
        let mut host = namespace("host");
        host.settings = Some(settings(&[("net/ipv4/tcp_mem", "1\t2"), ("net/ipv4/tcp_max_orphans", "-1")]));
        assert!(lines(&View { namespaces: vec![host], ..View::default() }).is_empty(), "odd settings");
    }
}
