//! What is read inside of one namespace, by the thread that visits it. Keeps nothing: it takes what is wanted of all
//! namespaces, and gives what it found in this one.

use std::{collections::HashSet, io, path::Path, sync::Arc, time::Instant};

use super::{
    listening::{self, Walk},
    outage,
    registry::Reading,
    settings::SettingsReading,
    socket_pass::Walked,
};
use crate::{
    errand::thread_cpu_time,
    kernel::{
        netns::Inside,
        proc_sys::ProcSys,
        walk::{Walker, Walks},
    },
    pipeline::{
        kernel_counters::{KernelCounters, Sockstat, Sysctls},
        snapshot::Gathered,
        sysctls::{Settings, Whose},
    },
};

/// What a pass wants of each namespace.
pub struct Wanted {
    /// The iterators.
    pub walker: Walker,
    /// Those of this pass.
    pub walks: Walks,
    /// Namespaces whose table of listeners need not be walked for, where it cannot be asked for.
    pub listed: HashSet<u64>,
    /// Where settings are read.
    pub proc_sys: ProcSys,
    /// Namespaces whose settings are as new as they need be.
    pub fresh: HashSet<u64>,
}

impl Wanted {
    /// The walks in the namespace `id`, if there are any.
    #[must_use]
    pub fn walks_in(&self, id: u64) -> Vec<Walk> {
        listening::walks(self.walks, !self.listed.contains(&id))
    }
}

/// What was found in one.
pub struct Seen {
    /// The figures.
    pub reading: Reading,
    /// The listeners of its table, where that can be asked for.
    pub gathered: Gathered,
    /// Why they could not be listed, if so.
    pub unlisted: Option<io::Error>,
    /// What listing took.
    pub walked: Walked,
}

/// Reads the namespace that the calling thread is in; its settings only if there is time for them.
pub fn read(wanted: &Wanted, inside: &Inside<'_>, whose: Whose, may_read_settings: bool) -> io::Result<Seen> {
    let inum = inside.inum();
    let id = wanted.walker.netns_id(inside).map_err(outage::of("telling which it is"))?;
    let counters = Arc::new(KernelCounters::read().map_err(outage::of("reading its counters"))?);
    let mut gathered = Gathered::default();
    let ask = || listening::ask(&wanted.walker, wanted.walks, (id, inum), &mut gathered);
    let (asked, walked) = Walked::of(ask);
    let root = wanted.proc_sys.root();
    let reading = Reading {
        id,
        inum,
        counters,
        sockstat: Sockstat::read().unwrap_or_default(),
        sysctls: Sysctls::read_from(&root.path.join("net")).unwrap_or_default(),
        settings: (may_read_settings && !wanted.fresh.contains(&id)).then(|| read_settings(&root.path, whose)),
    };
    Ok(Seen { reading, gathered, unlisted: asked.err(), walked })
}

/// Walks over the sockets of the namespace `id` that the calling thread is in, unless it has become another one.
pub fn walk(walker: &Walker, inside: &Inside<'_>, id: u64, walks: &[Walk]) -> (io::Result<Gathered>, Walked) {
    Walked::of(|| {
        let mut gathered = Gathered::default();
        // The inode number may have found a new owner since it was read.
        if walker.netns_id(inside)? == id {
            for walk in walks {
                walker.walk(walk.program, |record| {
                    if walk.has_listeners {
                        gathered.add(record);
                    }
                })?;
            }
        }
        Ok(gathered)
    })
}

fn read_settings(dir: &Path, whose: Whose) -> SettingsReading {
    let (read, cpu) = (Instant::now(), thread_cpu_time());
    let settings = Arc::new(Settings::read_from(dir, whose));
    SettingsReading { settings, read, took: read.elapsed(), cpu: thread_cpu_time().saturating_sub(cpu) }
}
