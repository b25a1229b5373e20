//! Walks over the sockets of single namespaces. Such a walk waits for the lock of each socket, and a program that sends
//! from memory which does not answer holds one for as long as it likes. So walks are visits of their own: one that
//! hangs is left behind, and the namespace's counters are read without it.

use super::{
    inside::{self, Wanted},
    registry::Reading,
    worker::Worker,
};
use crate::{
    kernel::{netns::Discovery, shortage},
    obstacles::Obstacle,
    pipeline::snapshot::Found,
};

impl Worker {
    /// Walks over the sockets of each namespace that was read, where that is how they are found.
    pub(super) fn walk_each(
        &mut self,
        discovery: &Discovery,
        readings: &[Reading],
        wanted: &Wanted,
        found: &mut Found<'_>,
    ) {
        for &Reading { id, inum, .. } in readings {
            let (walks, namespace) = (wanted.walks_in(id), discovery.namespaces.get(&inum));
            let Some(namespace) = namespace.filter(|_| !walks.is_empty()) else { continue };
            let walker = self.walker.clone();
            let walked = self.walking.visit(namespace, move |inside| inside::walk(&walker, inside, id, &walks));
            let gathered = match walked {
                Ok((gathered, walked)) => {
                    self.socket_pass.add(walked);
                    gathered
                }
                Err(error) => Err(std::io::Error::other(error)),
            };
            match gathered {
                Ok(gathered) => found.add_gathered(id, gathered),
                Err(error) => {
                    found.unlisted.insert(id);
                    self.met.note(Obstacle::Unlisted, format_args!("namespace {inum}: {}", shortage::explain(&error)));
                    self.failed = Some(error);
                }
            }
        }
    }

    /// Whether a walk hangs. Let go, it would go on counting in maps that others count in by then.
    pub(super) fn walks_hang(&self) -> bool {
        self.walking.left_behind().next().is_some()
    }

    /// Notes the walks that hang.
    pub(super) fn note_walks(&mut self) {
        for inum in self.walking.left_behind() {
            self.met.note(Obstacle::WalkHung, format_args!("namespace {inum}"));
        }
    }
}
