//! Visits to namespaces, on a thread that may be lost: one that hangs inside, or cannot come back, is left there, and
//! another makes the next visit.

use std::{collections::HashSet, io, sync::Arc, time::Duration};

use super::inside::{self, Seen, Wanted};

use crate::{
    errand::{Errands, Limits},
    kernel::{
        netns::{self, Discovery, Inside, NetnsRef, Roots, VisitError},
        proc_sys::ProcSys,
        shortage, viewpoint,
        walk::{Walker, Walks},
    },
    obstacles::{Obstacle, Obstacles},
    pipeline::sysctls::Whose,
};

/// A reading takes a millisecond, a walk over a million sockets a second. No program can make a reading hang: four that
/// do are a lock of the kernel; together they hold up a pass for twenty seconds, and further ones not at all. A walk
/// waits for each socket's lock, so any program can make one hang, and walks are visits of their own.
const LIMITS: Limits = Limits { time: Duration::from_secs(5), left_behind: 4 };

/// Makes visits.
pub struct Visits(Errands<u32>);

impl Visits {
    /// Those that read counters, settings and tables.
    #[must_use]
    pub const fn to_read() -> Self {
        Self(Errands::new("visits", LIMITS))
    }

    /// Those that walk over sockets.
    #[must_use]
    pub const fn to_walk() -> Self {
        Self(Errands::new("walks", LIMITS))
    }

    /// Runs `look` inside of a namespace.
    pub fn visit<T: Send + 'static>(
        &mut self,
        namespace: &NetnsRef,
        look: impl FnOnce(&Inside<'_>) -> T + Send + 'static,
    ) -> Result<T, VisitError> {
        let inum = namespace.inum;
        let namespace = namespace.clone();
        let visited = self.0.run(inum, move || netns::visit(&namespace, look));
        let visited = visited.unwrap_or_else(|error| Err(lost(inum, error)));
        if let Err(VisitError::Stranded { .. }) = visited {
            self.0.renew();
        }
        visited
    }

    /// The namespaces in which visits hang.
    pub fn left_behind(&self) -> impl Iterator<Item = &u32> {
        self.0.left_behind()
    }

    /// CPU time of all visits that ended in time.
    #[must_use]
    pub const fn cpu_time(&self) -> Duration {
        self.0.cpu_time()
    }
}

/// What became of a visit: what was seen, or nothing, and why not.
pub fn noted(inum: u32, visited: Result<io::Result<Seen>, VisitError>, met: &mut Obstacles) -> Option<Seen> {
    match visited {
        Ok(Ok(seen)) => return Some(seen),
        Ok(Err(error)) => {
            met.note(Obstacle::Unreadable, format_args!("namespace {inum}: {}", shortage::explain(&error)));
        }
        // A namespace that dies meanwhile is none of anybody's errors.
        Err(VisitError::Gone) => {}
        Err(error @ VisitError::Hung { .. }) => met.note(Obstacle::Hung, error),
        Err(error) => met.note(Obstacle::Refused, shortage::explain(&error)),
    }
    None
}

/// Notes what the search for namespaces passed over.
pub fn note_unseen(discovery: &Discovery, met: &mut Obstacles) {
    viewpoint::note(met);
    met.note_many(Obstacle::Denied, discovery.denied, "EACCES");
    met.note_many(Obstacle::BeyondLimit, discovery.beyond_limit, "too many");
    for unread in &discovery.unread {
        met.note_directory(&unread.path, unread.kind, &unread.cause);
    }
}

/// Enters each namespace of the node once; returns how many could be read, and what was met on the way.
pub fn try_each(walker: Walker) -> io::Result<(usize, Obstacles)> {
    let (mut visits, mut met) = (Visits::to_read(), Obstacles::default());
    let discovery = netns::discover(&Roots::default())?;
    note_unseen(&discovery, &mut met);
    let wanted = Wanted {
        walker,
        walks: Walks::default(),
        listed: HashSet::new(),
        proc_sys: ProcSys::default(),
        fresh: HashSet::new(),
    };
    let wanted = Arc::new(wanted);
    let mut read = 0;
    for namespace in discovery.namespaces.values() {
        let wanted = Arc::clone(&wanted);
        let visited = visits.visit(namespace, move |inside| inside::read(&wanted, inside, Whose::Other, false));
        read += usize::from(noted(namespace.inum, visited, &mut met).is_some());
    }
    Ok((read, met))
}

fn lost(inum: u32, error: io::Error) -> VisitError {
    match error.kind() {
        io::ErrorKind::TimedOut => VisitError::Hung { inum },
        _ => VisitError::Enter { inum, source: error },
    }
}
