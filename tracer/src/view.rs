//! What the last pass found, as the exporter reads it. A value: the worker makes a new one each
//! pass and hands it over whole.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tracer_ebpf::counter::ListenerKey;

use crate::{
    agent::{descriptors::ByProcess, legacy::Legacy, settings::SettingsReading},
    kernel::{maps::Fill, program_stats::ProgramStats},
    pipeline::{
        attribute::Owner,
        counters::{Closing, Totals},
        kernel_counters::{KernelCounters, Segments, Sockstat, Sysctls},
        node::Node,
        ports::PortUse,
        reconcile::Books,
        snapshot::{LeftOut, Listener},
        sockets::Sockets,
    },
};

/// The result of all passes so far.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Namespaces, living and lately dead, but for those whose names are still awaited.
    pub namespaces: Vec<Namespace>,
    /// Listening sockets by identity.
    pub listeners: BTreeMap<ListenerKey, Listener>,
    /// What bounds left out of these.
    pub left_out: LeftOut,
    /// Open sockets by owner; `None` while no walk has counted them.
    pub sockets: Option<Arc<Sockets>>,
    /// Open files of the processes that hold them.
    pub open_files: ByProcess,
    /// What the node as a whole tells.
    pub node: Node,
    /// Value of series that were removed.
    pub retired: Totals,
    /// Counts of dead namespaces that no reading of the kernel confirms.
    pub unverified: Totals,
    /// Values of rows that are gone, under their heirs' keys.
    pub legacy: Legacy,
    /// How the passes went.
    pub passes: Vec<Pass>,
    /// Ephemeral ports, by the id of the namespaces that are near their range.
    pub ports: BTreeMap<u64, PortUse>,
    /// How full the maps were.
    pub fills: Vec<Fill>,
    /// What the kernel knows of the programs.
    pub programs: Vec<ProgramStats>,
    /// What passes take of a processor, and may.
    pub budget: Budget,
    /// Namespaces that could not be looked at for want of rights.
    pub namespaces_denied: usize,
}

/// Namespaces that show all their rows: twice a node of 500 pods. Of others counts of zero are left out.
pub const WITH_ZEROS_MAX: usize = 1_000;

/// One network namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Identity in the maps.
    pub id: u64,
    /// Inode number.
    pub inum: u32,
    /// Value of the `netns` label: `host`, or the inode number.
    pub label: String,
    /// Name under /run/netns, if it has one.
    pub name: String,
    /// Whether it is the namespace of PID 1.
    pub is_host: bool,
    /// Lowest PID inside, for attribution.
    pub lowest_pid: Option<u32>,
    /// How often another namespace has taken over the identity, where that can happen.
    pub life: u32,
    /// Whose it is; empty for the host's.
    pub owner: Arc<Owner>,
    /// Whether the last pass still found it.
    pub alive: bool,
    /// Whether it is there and the last pass could not read it.
    pub is_stale: bool,
    /// Comparison with the kernel's counters.
    pub books: Books,
    /// The kernel's counters at the last reading.
    pub counters: Arc<KernelCounters>,
    /// Those of them that retransmits are held against.
    pub segments: Segments,
    /// Sockets in use.
    pub sockstat: Sockstat,
    /// Settings that are read in each pass.
    pub sysctls: Sysctls,
    /// All settings that are shown; `None` until they were read.
    pub settings: Option<SettingsReading>,
}

/// What passes take, and what they were told to keep to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    /// Time between two passes as configured.
    pub interval: Duration,
    /// Share of one processor that they take at their present intervals.
    pub taken: f64,
    /// Share that they are to keep to.
    pub limit: f64,
}

/// One kind of pass.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Name as a metric label.
    pub name: &'static str,
    /// How long the last one took.
    pub duration: Duration,
    /// When it ended.
    pub ended: Instant,
    /// Time between two passes now.
    pub interval: Duration,
}

impl View {
    /// The namespace with this id.
    #[must_use]
    pub fn namespace(&self, id: u64) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.id == id)
    }

    /// The host's namespace, if it was found.
    #[must_use]
    pub fn host(&self) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.is_host)
    }

    /// The largest difference of all namespaces and signals, for a quick look.
    #[must_use]
    pub fn largest_difference(&self) -> i64 {
        let differences = self
            .namespaces
            .iter()
            .flat_map(|namespace| Closing::ALL.into_iter().filter_map(|signal| namespace.books.difference(signal)));
        differences.max_by_key(|difference| difference.unsigned_abs()).unwrap_or(0)
    }
}
