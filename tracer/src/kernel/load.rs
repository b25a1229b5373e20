//! Loads the eBPF object and climbs down each ladder until a rung holds.
//!
//! Owns the loaded programs: dropping [`Kernel`] detaches everything. Maps are made by
//! [`Kernel::prepare`], hooks attached by [`Kernel::attach`], so that baselines can be read between.

mod error;
mod facts;
mod reset_reasons;
mod rows;

use std::{fs::File, io, os::fd::AsFd};

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError},
};
use tracer_ebpf::settings::{ABSENT, Settings, switch};
use zerocopy::IntoBytes;

pub use error::LoadError;

use self::{
    error::{chain, errno, maps_refused, verifier_reason},
    facts::Facts,
};
use super::{
    btf::Btf,
    hooks::{
        Attach, Hook, HookKind, LADDERS, Ladder, LadderReport, NETNS_IDENTITY, Point, Refusal, Report, Rung, Signal,
        Stage, When, explain,
    },
    identity::{self, Identity},
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
        if options.disabled.contains(&HookKind::Iterator) {
            facts.offsets.net_hash_mix = ABSENT;
        }
        let mut ebpf = open(&facts, &options)?;
        let mut types = None;
        if facts.identity() == Identity::HashMix {
            let types = types.insert(AyaBtf::from_sys_fs()?);
            if let Err(error) = load_identity(&mut ebpf, types) {
                tracing::warn!(%error, "namespaces are told apart by inode numbers alone, which are used again");
                facts.offsets.net_hash_mix = ABSENT;
                // The maps first: locked memory may be limited.
                drop(ebpf);
                ebpf = open(&facts, &options)?;
            }
        }
        Ok(Self { ebpf, options, shapes: Shapes::read(btf, &facts), facts, btf: types })
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
        RingBuf::try_from(map).map_err(|error| maps_refused(&error))
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
            report.ladders.push(self.climb_down(ladder, &btf));
        }
        self.read_by_iterators(maps, &mut report);
        maps.set_switches(switches(&report))?;
        Ok(report)
    }

    fn climb_down(&mut self, ladder: &Ladder, btf: &AyaBtf) -> LadderReport {
        let mut refusals = Vec::new();
        for (index, rung) in ladder.rungs.iter().enumerate() {
            if let Some(hooks) = self.try_rung(rung, btf, &mut refusals) {
                let kinds = kinds_of(&hooks);
                return LadderReport {
                    signal: ladder.signal,
                    rung: Some(index),
                    in_force: if kinds.is_empty() { rung.name.to_owned() } else { format!("{} ({kinds})", rung.name) },
                    cost: rung.cost.to_owned(),
                    hooks: names_of(&hooks),
                    refusals,
                };
            }
        }
        LadderReport {
            signal: ladder.signal,
            rung: None,
            in_force: ladder.fallback.to_owned(),
            cost: "no owner, no reason".to_owned(),
            hooks: Vec::new(),
            refusals,
        }
    }

    /// Attaches all points of a rung, or none.
    fn try_rung(&mut self, rung: &Rung, btf: &AyaBtf, refusals: &mut Vec<Refusal>) -> Option<Vec<Hook>> {
        let mut attached = Vec::new();
        for point in rung.points {
            match self.try_point(point, btf, refusals) {
                Some(hooks) => attached.extend_from_slice(hooks),
                None if point.optional => {}
                None => {
                    for hook in &attached {
                        self.unload(hook);
                    }
                    return None;
                }
            }
        }
        Some(attached)
    }

    /// Attaches the first way of a point that holds.
    fn try_point(&mut self, point: &Point, btf: &AyaBtf, refusals: &mut Vec<Refusal>) -> Option<&'static [Hook]> {
        let mut missing = None;
        for way in point.ways {
            if let Some(hook) = way.iter().find(|hook| !self.shapes.fits(hook)) {
                missing = Some(hook);
                continue;
            }
            match self.try_way(way, btf) {
                Ok(()) => return Some(way),
                Err(refusal) => refusals.push(refusal),
            }
        }
        if let Some(hook) = missing
            && refusals.is_empty()
            && !point.optional
        {
            refusals.push(explain(hook.attach, Stage::Missing, None, &format!("{:?}", hook.when)));
        }
        None
    }

    fn try_way(&mut self, way: &[Hook], btf: &AyaBtf) -> Result<(), Refusal> {
        for (index, hook) in way.iter().enumerate() {
            if let Err(refusal) = self.try_hook(hook, btf) {
                for earlier in &way[..index] {
                    self.unload(earlier);
                }
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn try_hook(&mut self, hook: &Hook, btf: &AyaBtf) -> Result<(), Refusal> {
        if self.options.disabled.contains(&hook.attach.kind()) {
            return Err(explain(hook.attach, Stage::SwitchedOff, None, ""));
        }
        let cgroup = self.options.cgroup_root.clone();
        let Some(program) = self.ebpf.program_mut(hook.program) else {
            return Err(explain(hook.attach, Stage::Missing, None, "not in the eBPF object"));
        };
        load(program, hook.attach, btf).map_err(|error| refusal(hook.attach, Stage::Load, &error))?;
        let attached = attach(program, hook.attach, cgroup.as_deref());
        attached.map_err(|error| {
            self.unload(hook);
            match error {
                AttachError::Program(error) => refusal(hook.attach, Stage::Attach, &error),
                AttachError::Io(error) => explain(hook.attach, Stage::Attach, error.raw_os_error(), &error.to_string()),
            }
        })
    }

    /// Detaches and unloads; a program that never got that far has nothing to undo.
    fn unload(&mut self, hook: &Hook) {
        let unloaded = match self.ebpf.program_mut(hook.program) {
            Some(Program::BtfTracePoint(program)) => program.unload(),
            Some(Program::FEntry(program)) => program.unload(),
            Some(Program::FExit(program)) => program.unload(),
            Some(Program::KProbe(program)) => program.unload(),
            Some(Program::CgroupSkb(program)) => program.unload(),
            Some(Program::Iter(program)) => program.unload(),
            _ => Ok(()),
        };
        if let Err(error) = unloaded {
            tracing::debug!(program = hook.program, %error, "unload");
        }
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
    if report.stands_on(Signal::TimeWaitOverflows, "candidates") {
        bits |= switch::TIME_WAIT_CANDIDATES;
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
        .map_err(|error| maps_refused(&error))
}

/// Loads the program that tells namespaces apart, and tries it on this thread's.
fn load_identity(ebpf: &mut Ebpf, btf: &AyaBtf) -> io::Result<()> {
    let program = ebpf.program_mut(NETNS_IDENTITY.program).ok_or(io::ErrorKind::NotFound)?;
    load(program, NETNS_IDENTITY.attach, btf).map_err(io::Error::other)?;
    let own = rustix::fs::stat("/proc/thread-self/ns/net")?.st_ino;
    identity::identified(&identity::ask(ebpf)?, u32::try_from(own).map_err(io::Error::other)?)?;
    Ok(())
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

fn load(program: &mut Program, attach: Attach, btf: &AyaBtf) -> Result<(), ProgramError> {
    match (program, attach) {
        (Program::BtfTracePoint(program), Attach::BtfTracepoint(name)) => program.load(name, btf),
        (Program::FEntry(program), Attach::Fentry(name)) => program.load(name, btf),
        (Program::FExit(program), Attach::Fexit(name)) => program.load(name, btf),
        (Program::KProbe(program), Attach::Kprobe(_) | Attach::Kretprobe(_)) => program.load(),
        (Program::CgroupSkb(program), Attach::CgroupIngress | Attach::CgroupEgress) => program.load(),
        (Program::Iter(program), Attach::Iterator(name)) => program.load(name, btf),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

enum AttachError {
    Program(ProgramError),
    Io(io::Error),
}

impl From<ProgramError> for AttachError {
    fn from(error: ProgramError) -> Self {
        Self::Program(error)
    }
}

fn attach(program: &mut Program, attach: Attach, cgroup: Option<&std::path::Path>) -> Result<(), AttachError> {
    match (program, attach) {
        (Program::BtfTracePoint(program), _) => program.attach().map(|_| ())?,
        (Program::FEntry(program), _) => program.attach().map(|_| ())?,
        (Program::FExit(program), _) => program.attach().map(|_| ())?,
        (Program::KProbe(program), Attach::Kprobe(name) | Attach::Kretprobe(name)) => {
            program.attach(name, 0).map(|_| ())?;
        }
        (Program::CgroupSkb(program), direction) => {
            let root = cgroup.ok_or_else(|| io::Error::other("the root of cgroup v2 is not mounted here"));
            let root = root.and_then(File::open).map_err(AttachError::Io)?;
            let direction = if direction == Attach::CgroupIngress {
                CgroupSkbAttachType::Ingress
            } else {
                CgroupSkbAttachType::Egress
            };
            program.attach(root, direction, CgroupAttachMode::Single)?;
        }
        // Iterators are attached anew for each pass.
        (Program::Iter(_), _) => {}
        _ => return Err(ProgramError::UnexpectedProgramType.into()),
    }
    Ok(())
}

fn refusal(attach: Attach, stage: Stage, error: &ProgramError) -> Refusal {
    if matches!(error, ProgramError::Btf(_)) {
        return explain(attach, Stage::Missing, None, &error.to_string());
    }
    let detail = match error {
        ProgramError::LoadError { verifier_log, io_error } => {
            let log = verifier_log.to_string();
            tracing::debug!(hook = attach.describe(), "the verifier's log:\n{log}");
            verifier_reason(&log).map_or_else(|| io_error.to_string(), str::to_owned)
        }
        other => chain(other),
    };
    explain(attach, stage, errno(error), &detail)
}

/// The hooks' names, each once: several programs may hang on one.
fn names_of(hooks: &[Hook]) -> Vec<String> {
    let mut names: Vec<String> = hooks.iter().map(|hook| hook.attach.describe()).collect();
    names.dedup();
    names
}

fn kinds_of(hooks: &[Hook]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for hook in hooks {
        let kind = hook.attach.kind().name();
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(" + ")
}
