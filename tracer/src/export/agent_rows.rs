//! Rows about the agent itself: hooks, events and their losses, maps, passes, the process; and what the
//! node has for it.

use std::{fs, io, time::SystemTime};

use tracer_ebpf::settings::KINDS_OF_AGENT;

use super::{
    collector::{Sources, number},
    metrics::MetricId,
    rows::Rows,
};
use crate::{
    kernel::{
        hooks::{LADDERS, Ladder, LadderReport, Verdict},
        shortage,
    },
    log_lines, obstacles,
    pipeline::counters::Counts,
};

/// Adds all rows about the agent. Fails where a file cannot be opened for want of descriptors or memory.
pub fn add(rows: &mut Rows<'_>, sources: &Sources<'_>, counts: &Counts) -> io::Result<()> {
    hooks(rows, sources);
    events(rows, sources)?;
    maps(rows, sources, counts)?;
    caches(rows, sources);
    passes(rows, sources);
    programs(rows, sources);
    let node = rustix::system::sysinfo();
    rows.add(MetricId::NodeMemory, &[], number(node.totalram) * f64::from(node.mem_unit));
    rows.add(MetricId::LogLinesLost, &[], number(log_lines::lost()));
    rows.add(MetricId::BuildInfo, &[env!("CARGO_PKG_VERSION"), env!("TRACER_REVISION")], 1.0);
    process(rows)
}

/// Every hook of every ladder, so that one that is lost shows as a change from 1 to 0.
fn hooks(rows: &mut Rows<'_>, sources: &Sources<'_>) {
    for (ladder, report) in LADDERS.iter().zip(&sources.report.ladders) {
        for name in hooks_of(ladder, report) {
            let attached = report.hooks.contains(&name);
            rows.add(MetricId::HookAttached, &[ladder.signal.name(), &name], f64::from(u8::from(attached)));
        }
    }
}

/// The names of all hooks that may serve the ladder; none where it stands best without any, since none is missing.
fn hooks_of(ladder: &Ladder, report: &LadderReport) -> Vec<String> {
    if report.verdict() == Verdict::Best && report.hooks.is_empty() {
        return Vec::new();
    }
    let points = ladder.rungs.iter().flat_map(|rung| rung.points);
    let mut names: Vec<String> =
        points.flat_map(|point| point.ways).flat_map(|way| way.iter()).map(|hook| hook.attach.describe()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn events(rows: &mut Rows<'_>, sources: &Sources<'_>) -> io::Result<()> {
    let tallies = sources.maps.tallies()?;
    for (kind, tally) in tallies.into_iter().filter(|(kind, _)| KINDS_OF_AGENT & kind.bit() != 0) {
        let kind_name = kind.name();
        rows.add(MetricId::Events, &[kind_name], number(tally.emitted));
        rows.add(MetricId::EventsLost, &[kind_name, "ring"], number(tally.lost_ring));
        rows.add(MetricId::EventsLost, &[kind_name, "rate"], number(tally.lost_rate));
        let undecoded = sources.losses.of(Some(kind));
        rows.add(MetricId::EventsLost, &[kind_name, "decode"], number(undecoded));
    }
    rows.add(MetricId::EventsLost, &["unknown", "decode"], number(sources.losses.of(None)));
    Ok(())
}

fn maps(rows: &mut Rows<'_>, sources: &Sources<'_>, counts: &Counts) -> io::Result<()> {
    for fill in &sources.view.fills {
        rows.add(MetricId::MapEntries, &[fill.map], number(fill.entries as u64));
        rows.add(MetricId::MapCapacity, &[fill.map], f64::from(fill.capacity));
    }
    for (counter, n) in &counts.lost {
        rows.add(MetricId::CountsLost, &[counter.name()], number(*n));
    }
    let refused = sources.maps.quotas.refused()?;
    rows.add(MetricId::RowsRefused, &["listeners"], number(refused.listeners));
    rows.add(MetricId::RowsRefused, &["workloads"], number(refused.workloads));
    let left_out = sources.view.left_out;
    rows.add(MetricId::ListenerNamespacesLeftOut, &[], number(left_out.namespaces));
    rows.add(MetricId::ListenerDescriptorsLeftOut, &[], number(left_out.descriptors));
    rows.add(MetricId::ListenerProcessesLeftOut, &[], number(left_out.processes));
    Ok(())
}

fn caches(rows: &mut Rows<'_>, sources: &Sources<'_>) {
    for fill in sources.labels.fills() {
        rows.add(MetricId::OwnerCacheEntries, &[fill.cache], number(fill.entries as u64));
        rows.add(MetricId::OwnerCacheCapacity, &[fill.cache], number(fill.capacity as u64));
    }
}

/// Runs only where the kernel counts them; a program that ran never says so by their absence.
fn programs(rows: &mut Rows<'_>, sources: &Sources<'_>) {
    for program in &sources.view.programs {
        let labels = [program.name.as_str()];
        if program.runs > 0 {
            rows.add(MetricId::ProgramRuns, &labels, number(program.runs));
            rows.add(MetricId::ProgramRunSeconds, &labels, program.run_time.as_secs_f64());
        }
        if let Some(missed) = program.missed_runs {
            rows.add(MetricId::ProgramMissedRuns, &labels, number(missed));
        }
    }
}

fn passes(rows: &mut Rows<'_>, sources: &Sources<'_>) {
    for pass in &sources.view.passes {
        let age = sources.now.saturating_duration_since(pass.ended);
        rows.add(MetricId::PassDuration, &[pass.name], pass.duration.as_secs_f64());
        rows.add(MetricId::PassAge, &[pass.name], age.as_secs_f64());
        rows.add(MetricId::PassInterval, &[pass.name], pass.interval.as_secs_f64());
    }
    let budget = &sources.view.budget;
    rows.add(MetricId::PassIntervalConfigured, &[], budget.interval.as_secs_f64());
    rows.add(MetricId::PassCpu, &[], budget.taken);
    rows.add(MetricId::PassCpuLimit, &[], budget.limit);
    for obstacle in obstacles::ALL {
        rows.add(MetricId::PassObstacles, &[obstacle.name()], number(sources.obstacles.count(obstacle) as u64));
    }
}

/// The agent's own use of the node, as every exporter shows it. What cannot be read for another reason than want is
/// absent.
fn process(rows: &mut Rows<'_>) -> io::Result<()> {
    let ticks = rustix::param::clock_ticks_per_second();
    let read = |path: &str| shortage::unless_short(fs::read_to_string(path));
    if let Some((cpu_ticks, start_ticks)) = read("/proc/self/stat")?.as_deref().and_then(parse_stat) {
        rows.add(MetricId::ProcessCpuSeconds, &[], number(cpu_ticks) / number(ticks));
        if let Some(boot) = read("/proc/uptime")?.as_deref().and_then(boot_time_seconds) {
            rows.add(MetricId::ProcessStartTime, &[], boot + number(start_ticks) / number(ticks));
        }
    }
    let statm = read("/proc/self/statm")?;
    if let Some(pages) = statm.as_deref().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok()) {
        rows.add(MetricId::ProcessResidentMemory, &[], number(pages * rustix::param::page_size() as u64));
    }
    if let Some(descriptors) = shortage::unless_short(fs::read_dir("/proc/self/fd"))? {
        rows.add(MetricId::ProcessOpenFds, &[], number(descriptors.count() as u64));
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        rows.add(MetricId::ProcessMaxFds, &[], number(limit));
    }
    Ok(())
}

/// CPU time (user and system) and start time of `/proc/PID/stat`, in clock ticks. The name in
/// brackets may hold anything, so fields are counted from its end.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let field = |number: usize| rest.split(' ').nth(number - 3)?.trim().parse::<u64>().ok();
    Some((field(14)? + field(15)?, field(22)?))
}

/// When the node booted, seconds since the Unix epoch.
fn boot_time_seconds(uptime: &str) -> Option<f64> {
    let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(now.as_secs_f64() - uptime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::hooks::Signal;

    #[test]
    fn a_signal_that_needs_no_hook_lacks_none() {
        let ladder = LADDERS.iter().find(|ladder| ladder.signal == Signal::Namespaces).unwrap();
        let report = |rung, hooks: &[&str]| LadderReport {
            signal: ladder.signal,
            rung,
            in_force: String::new(),
            cost: String::new(),
            hooks: hooks.iter().map(|&hook| hook.to_owned()).collect(),
            refusals: Vec::new(),
            ipv4_alone: false,
        };
        assert!(hooks_of(ladder, &report(Some(0), &[])).is_empty());
        assert_eq!(hooks_of(ladder, &report(Some(0), &["iter/netlink"])), ["iter/netlink"]);
        assert_eq!(hooks_of(ladder, &report(None, &[])), ["iter/netlink"], "so that its loss shows");
    }

    #[test]
    fn stat_is_read_from_the_end_of_the_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 1 0 12345 1000 200";
        assert_eq!(parse_stat(stat), Some((12, 12345)));
        assert_eq!(parse_stat("garbage"), None);
        assert_eq!(parse_stat("1 (x) S 1"), None);
    }
}
