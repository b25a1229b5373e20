//! The worker's port pass: enters the namespace whose turn it is, runs the walk, and keeps walks and
//! the other passes to their shares of the processor. What is decided is decided in `pipeline::ports`.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    registry::Reading,
    worker::{Worker, thread_cpu_time},
};
use crate::{
    kernel::{
        hooks::Signal,
        maps::Fill,
        netns::{self, Discovery, VisitError},
    },
    pipeline::ports::{Busiest, Candidate, PortUse, Ports, Walk},
    view::Pass,
};

/// While walks are wanted, they have one half of the passes' share of a core and the other passes the
/// other, so that neither can starve the other.
const SHARES: u32 = 2;

/// Walks and what they cost.
#[derive(Debug, Default)]
pub struct PortPass {
    /// When which namespace is walked, and what was found.
    pub ports: Ports,
    /// How full the map was after the last walk.
    pub fill: Option<Fill>,
    /// Processor time of this pass's walk.
    cpu: Duration,
}

impl PortPass {
    /// What passes that took `cpu`, this pass's walk included, count for when their interval is
    /// stretched: the walk has a budget of its own.
    #[must_use]
    pub fn weighed(&self, cpu: Duration) -> Duration {
        let others = cpu.saturating_sub(self.cpu);
        if self.ports.are_wanted() { others * SHARES } else { others }
    }

    /// The walks as a row among the passes.
    #[must_use]
    pub fn row(&self, interval: Duration) -> Option<Pass> {
        let walks = self.ports.pass(interval)?;
        Some(Pass { name: "ports", duration: walks.duration, ended: walks.ended, interval: walks.interval })
    }
}

impl Worker {
    /// Walks the namespace whose turn it is, if there is one and the budget allows.
    pub(super) fn walk_ports(&mut self, discovery: &Discovery, readings: &[Reading]) {
        self.ports.cpu = Duration::ZERO;
        if self.report.of(Signal::EphemeralPorts).is_none_or(|ladder| ladder.rung.is_none()) {
            return;
        }
        let candidates: Vec<_> = readings.iter().filter_map(candidate).collect();
        let Some(next) = self.ports.ports.next(&candidates, Instant::now()) else { return };
        let (cpu, started) = (thread_cpu_time(), Instant::now());
        let found = match self.walk(discovery, &next) {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::debug!(inum = next.inum, %error, "cannot walk a namespace's sockets");
                None
            }
        };
        self.ports.cpu = thread_cpu_time().saturating_sub(cpu);
        let walk = Walk { duration: started.elapsed(), cpu: self.ports.cpu, ended: Instant::now() };
        let percent = f64::from(self.cpu_percent.max(1)) / f64::from(SHARES);
        self.ports.ports.note(next.id, found, walk, percent);
    }

    fn walk(&mut self, discovery: &Discovery, next: &Candidate) -> io::Result<PortUse> {
        let Some(namespace) = discovery.namespaces.get(&next.inum) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        self.maps.port_walk.prepare(next.range)?;
        let has_cookie = self.kernel.has_net_cookie();
        let kernel = &mut self.kernel;
        let walked = netns::visit(namespace, |inside| {
            // The inode number may have found a new owner since it was read.
            if has_cookie && inside.net_cookie()? != Some(next.id) {
                return Err(io::ErrorKind::NotFound.into());
            }
            kernel.walk_ports()
        });
        match walked {
            Ok(result) => result?,
            Err(error @ VisitError::Stranded { .. }) => {
                self.stranded = Some(error);
                return Err(io::Error::other("the worker cannot return to the host's namespace"));
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        let mut busiest = Busiest::default();
        let walked = self.maps.port_walk.collect(|key, usage| busiest.add(key, usage))?;
        self.ports.fill = Some(walked.fill);
        Ok(PortUse::new(Instant::now(), next.range, busiest, walked.refused, walked.refused_most))
    }
}

/// What bounds the use of ports in a namespace without a walk.
fn candidate(reading: &Reading) -> Option<Candidate> {
    let sockstat = &reading.sockstat;
    // A kernel without IPv6 has no sockets of it.
    let sockets = sockstat.tcp_inuse? + sockstat.tcp_tw? + sockstat.tcp6_inuse.unwrap_or(0);
    Some(Candidate { id: reading.id, inum: reading.inum, sockets, range: reading.sysctls.ip_local_port_range? })
}
