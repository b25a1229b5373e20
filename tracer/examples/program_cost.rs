//! What loaded eBPF programs cost, as the kernel counts it: the part of `cargo xtask bench` that
//! needs aya. Keeps the kernel's run-time statistics on (BPF_ENABLE_STATS) and empty programs
//! attached for as long as it lives.
//!
//! Prints `ready`, then answers each line of standard input, the id of a process, with a line
//! `name runs nanoseconds` for each of its own programs and each that the process holds, and an
//! empty line. Ends with its input. Must not change anything about the programs that it looks at.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use aya::programs::{BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, loaded_programs};
use aya::sys::{Stats, enable_stats};
use aya::{Btf, Ebpf};

/// Built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.bpf.o"));

fn main() -> Result<()> {
    let _statistics = enable_stats(Stats::RunTime).context("switching the kernel's program statistics on")?;
    let _ebpf = attach_empty()?;
    println!("ready");
    for line in io::stdin().lines() {
        answer(&line?)?;
    }
    Ok(())
}

/// Attaches the empty programs; dropping the result detaches them.
fn attach_empty() -> Result<Ebpf> {
    let mut ebpf = Ebpf::load(OBJECT).context("loading the empty programs")?;
    let state: &mut BtfTracePoint =
        ebpf.program_mut("empty_set_state").context("no program empty_set_state")?.try_into()?;
    state.load("inet_sock_set_state", &Btf::from_sys_fs()?)?;
    state.attach()?;
    // Without cgroup v2 the agent has no packet programs to compare with either.
    if let Some(root) = cgroup_root()? {
        for (name, direction) in
            [("empty_ingress", CgroupSkbAttachType::Ingress), ("empty_egress", CgroupSkbAttachType::Egress)]
        {
            let packet: &mut CgroupSkb = ebpf.program_mut(name).context(name)?.try_into()?;
            packet.load()?;
            packet.attach(&root, direction, CgroupAttachMode::Single)?;
        }
    }
    Ok(ebpf)
}

/// Where cgroup v2 is mounted.
fn cgroup_root() -> Result<Option<File>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let cgroup2 = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let directory = fields.next()?;
        (fields.next()? == "cgroup2").then_some(directory)
    });
    Ok(cgroup2.map(File::open).transpose()?)
}

fn answer(pid: &str) -> Result<()> {
    let mut ids = held_programs("self")?;
    ids.extend(held_programs(pid.trim()).with_context(|| format!("reading the descriptors of process {pid}"))?);
    let mut out = io::stdout().lock();
    // One that is unloaded while the list is read is not one of these.
    for info in loaded_programs().filter_map(Result::ok) {
        if ids.contains(&info.id()) {
            let name = info.name_as_str().unwrap_or("?");
            writeln!(out, "{name} {} {}", info.run_count(), info.run_time().as_nanos())?;
        }
    }
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Ids of the programs that the process has open.
fn held_programs(process: &str) -> Result<HashSet<u32>> {
    let mut ids = HashSet::new();
    for descriptor in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        // A descriptor may be closed meanwhile; a program's is not.
        let Ok(text) = fs::read_to_string(descriptor?.path()) else { continue };
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}
