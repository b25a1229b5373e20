//! Loads the eBPF object and climbs down each ladder until a rung holds.
//!
//! Owns the loaded programs: dropping [`Kernel`] detaches everything. Maps are made by
//! [`Kernel::prepare`], hooks attached by [`Kernel::attach`], so that baselines can be read between.

mod climb;
mod error;
mod facts;
mod identity;
mod reset_reasons;
mod rows;

use std::os::fd::AsFd;

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::{Program, ProgramType},
    sys::{BpfHelper, is_helper_supported},
};
use tracer_ebpf::settings::{ABSENT, Settings, switch};
use zerocopy::IntoBytes;

pub use climb::ipv6_is_loaded;
pub(super) use error::errno;
pub use error::{LoadError, chain};

use self::{
    error::{object_refused, ring_refused},
    facts::Facts,
    identity::{Opened, open_with_identity},
};
use super::{
    btf::Btf,
    hooks::{Attach, Hook, HookKind, LADDERS, Ladder, Refusal, Report, Signal, When},
    identity::Identity,
    maps::Maps,
    program_stats::ProgramStats,
};

/// The eBPF object, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer.bpf.o"));

/// Sizes and switches that the caller chooses.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Kinds of hooks not to try.
    pub disabled: Vec<HookKind>,
    /// Size of the ring in bytes; a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Records a second, kind and CPU; 0 = no limit.
    pub rate_limit: u64,
    /// Kinds of records that are put on the ring (`Kind::bit`).
    pub kinds: u64,
    /// Signals whose ladders are tried; `None` = all.
    pub signals: Option<Vec<Signal>>,
    /// Listeners with a row of their own.
    pub listeners_max: u32,
    /// Workloads with rows of their own.
    pub workloads_max: u32,
    /// Ports with rows of their own, for each workload.
    pub ports_max: u64,
    /// Whether the SYN queue is full at its limit on this kernel.
    pub syn_queue_full_at_limit: bool,
    /// Where cgroup v2 is mounted, if it is.
    pub cgroup_root: Option<std::path::PathBuf>,
    /// Whether the programs' debug output is wanted.
    pub debug: bool,
}

/// The loaded object.
pub struct Kernel {
    ebpf: Ebpf,
    options: LoadOptions,
    facts: Facts,
    shapes: Shapes,
    /// The kernel's types, if they were needed already: large, and freed once all programs are loaded.
    btf: Option<AyaBtf>,
    /// Why namespaces are told apart by less than they could be.
    without_identity: Option<Refusal>,
}

/// Argument counts that decide which of several programs fits.
struct Shapes(Vec<(Attach, When, bool)>);

impl Shapes {
    fn read(btf: &Btf, facts: &Facts) -> Self {
        let hooks = LADDERS
            .iter()
            .flat_map(|ladder| ladder.rungs)
            .flat_map(|rung| rung.points)
            .flat_map(|point| point.ways)
            .flat_map(|way| way.iter());
        Self(hooks.map(|hook| (hook.attach, hook.when, fits(btf, facts, hook))).collect())
    }

    fn fits(&self, hook: &Hook) -> bool {
        self.0.iter().any(|&(attach, when, fits)| attach == hook.attach && when == hook.when && fits)
    }
}

fn fits(btf: &Btf, facts: &Facts, hook: &Hook) -> bool {
    match (hook.attach, hook.when) {
        (_, When::ListenOverflowReason) => facts.listen_overflow_reason.is_some(),
        // The function hands the sequence number over since then, which says that the check is to be skipped.
        (_, When::TimeWaitSkipsSynQueue) => btf.func_args("tcp_timewait_state_process").is_some_and(|args| args >= 4),
        (Attach::BtfTracepoint(name), When::TracepointArgs(n)) => btf.tracepoint_args(name) == Some(n),
        (Attach::BtfTracepoint(name), _) => btf.tracepoint_args(name).is_some(),
        (Attach::Fentry(name) | Attach::Fexit(name), When::FunctionArgs(n)) => btf.func_args(name) == Some(n),
        (Attach::Fentry(name) | Attach::Fexit(name), _) => btf.has_func(name),
        _ => true,
    }
}

impl Kernel {
    /// Makes the maps and hands the constants over; attaches nothing.
    pub fn prepare(btf: &Btf, options: LoadOptions) -> Result<Self, LoadError> {
        let mut facts = Facts::read(btf)?;
        let Opened { ebpf, btf: types, without_identity } = open_with_identity(&mut facts, &options)?;
        Ok(Self { ebpf, options, shapes: Shapes::read(btf, &facts), facts, btf: types, without_identity })
    }

    /// Handles of all maps, independent of the programs' life.
    pub fn maps(&self) -> Result<Maps, LoadError> {
        Maps::open(|name| {
            let map = self.ebpf.map(name).ok_or(LoadError::MissingMap(name))?;
            let data = map_data(map).ok_or(LoadError::MissingMap(name))?;
            Ok(data.fd().as_fd().try_clone_to_owned()?)
        })
    }

    /// Takes the ring; to be called once.
    pub fn take_ring(&mut self) -> Result<RingBuf<MapData>, LoadError> {
        let map = self.ebpf.take_map("EVENTS").ok_or(LoadError::MissingMap("EVENTS"))?;
        RingBuf::try_from(map).map_err(|error| ring_refused(&error))
    }

    /// The object, for the programs' log output.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// How namespaces are told apart.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.facts.identity()
    }

    /// Whether programs read the cgroups of sockets.
    #[must_use]
    pub fn reads_cgroups(&self) -> bool {
        self.facts.offsets.sk_cgroup != ABSENT
    }

    /// Whether hooks see the calling thread's name, and not its process's.
    #[must_use]
    pub fn names_threads(&self) -> bool {
        !self.facts.has_current_task_btf
    }

    /// Attaches the best rung that holds of every ladder that is wanted; `maps` are those of this object.
    pub fn attach(&mut self, maps: &Maps) -> Result<Report, LoadError> {
        // Parsed once more because aya keeps its own copy to itself; freed when this returns.
        let btf = self.btf.take().map_or_else(AyaBtf::from_sys_fs, Ok)?;
        let mut report = Report::default();
        let signals = self.options.signals.clone();
        let wanted = |ladder: &&Ladder| signals.as_ref().is_none_or(|signals| signals.contains(&ladder.signal));
        for ladder in LADDERS.iter().filter(wanted) {
            report.ladders.push(match ladder.signal {
                Signal::Namespaces => self.told_apart(ladder),
                _ => self.climb_down(ladder, &btf),
            });
        }
        self.read_by_iterators(maps, &mut report);
        maps.set_switches(switches(&report))?;
        if report.stands_on(Signal::ListenDrops, "packets") {
            maps.expect_handshakes();
        }
        Ok(report)
    }

    /// One of the loaded programs.
    pub(super) fn program_mut(&mut self, name: &str) -> Option<&mut Program> {
        self.ebpf.program_mut(name)
    }

    /// What the kernel knows of each loaded program.
    #[must_use]
    pub fn program_stats(&self) -> Vec<ProgramStats> {
        self.ebpf.programs().filter_map(|(name, program)| ProgramStats::read(name, program)).collect()
    }
}

/// What the programs have to know of the hooks in force, as bits of `settings::switch`.
fn switches(report: &Report) -> u64 {
    let mut bits = 0;
    let kfree_skb = Attach::BtfTracepoint("kfree_skb").describe();
    if report.of(Signal::ListenDrops).is_some_and(|drops| drops.hooks.contains(&kfree_skb)) {
        bits |= switch::ACK_DROPS_BY_KFREE_SKB;
    }
    if report.stands_on(Signal::ListenDrops, "outcomes") {
        bits |= switch::CHILDREN_BY_EXIT;
    }
    if report.stands_on(Signal::TimeWaitOverflows, "candidates") {
        bits |= switch::TIME_WAIT_CANDIDATES;
    }
    if report.of(Signal::ListenDrops).is_some_and(|drops| drops.ipv4_alone) {
        bits |= switch::OUTCOMES_OF_IPV4_ALONE;
    }
    bits
}

/// Makes the maps, and hands the constants over.
fn open(facts: &Facts, options: &LoadOptions) -> Result<Ebpf, LoadError> {
    let settings = Settings {
        rate_limit: options.rate_limit,
        kinds: options.kinds,
        wakeup_bytes: u64::from(options.ring_bytes / 8),
        ports_per_workload: options.ports_max,
        reason_listen_overflow: facts.listen_overflow_reason.unwrap_or(ABSENT),
        death_row_is_pointer: facts.death_row_is_pointer.into(),
        local_ports_packed: facts.local_ports_packed.into(),
        has_current_task_btf: facts.has_current_task_btf.into(),
        syn_queue_full_at_limit: options.syn_queue_full_at_limit.into(),
        tick_ns: tick_ns(),
        may_probe_read: may_probe_read().into(),
        bound_port_mask: facts.bound_port_mask,
        transparent_mask: facts.transparent_mask,
        listeners_max: options.listeners_max,
        workloads_max: options.workloads_max,
        zero: 0,
        reset_reasons: facts.reset_reasons,
    };
    let log_level: u8 = if options.debug { aya_log_debug_level() } else { 0 };
    EbpfLoader::new()
        .override_global("OFFSETS", facts.offsets.as_bytes(), true)
        .override_global("SETTINGS", settings.as_bytes(), true)
        .override_global("AYA_LOG_LEVEL", &log_level, true)
        .map_max_entries("EVENTS", options.ring_bytes)
        .map_max_entries("LISTENERS", options.listeners_max)
        .map_max_entries("WORKLOADS", options.workloads_max)
        .map_max_entries("SOCKETS", options.workloads_max)
        .map_max_entries("COUNTERS", options.workloads_max.saturating_mul(13))
        .map_max_entries("PORTS", options.workloads_max.saturating_mul(4))
        .load(OBJECT)
        .map_err(|error| object_refused(&error))
}

/// Whether programs may read memory that no typed pointer leads to: under lockdown the kernel knows the helper and
/// refuses it. An error tells nothing, and then nobody calls it.
fn may_probe_read() -> bool {
    is_helper_supported(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_probe_read_kernel).unwrap_or(false)
}

/// Length of one of the kernel's ticks, in nanoseconds: the resolution of the clocks that it moves.
fn tick_ns() -> u32 {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    u32::try_from(tick.tv_nsec).unwrap_or(0)
}

/// The number that aya-log gives to its debug level.
fn aya_log_debug_level() -> u8 {
    log::Level::Debug as u8
}

fn map_data(map: &aya::maps::Map) -> Option<&MapData> {
    use aya::maps::Map;
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::PerCpuArray(data) | Map::RingBuf(data) => {
            Some(data)
        }
        _ => None,
    }
}
