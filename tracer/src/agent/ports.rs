//! The worker's port pass: enters the namespace whose turn it is, runs the walk, and keeps walks and
//! the other passes to their shares of the processor. What is decided is decided in `pipeline::ports`.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{outage::Outage, registry::Reading, worker::Worker};
use crate::{
    kernel::{
        hooks::Signal,
        maps::Fill,
        netns::{Discovery, VisitError},
    },
    pipeline::{
        ports::{Busiest, Candidate, PortUse, Ports, Walk, bound_ports},
        sysctls,
    },
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
    /// Why the last walk failed, as far as that was said.
    outage: Outage,
    /// Processor time of this pass's walk.
    cpu: Duration,
}

impl PortPass {
    /// What passes that took `cpu`, this pass's walk included, took without it: the walk has a budget of
    /// its own.
    #[must_use]
    pub fn cpu_of_others(&self, cpu: Duration) -> Duration {
        cpu.saturating_sub(self.cpu)
    }

    /// The share of a core that walks leave to the other passes, of the percent that all may take.
    #[must_use]
    pub fn share_of_others(&self, cpu_percent: u32) -> f64 {
        let share = f64::from(cpu_percent.max(1)) / 100.0;
        if self.ports.are_wanted() { share / f64::from(SHARES) } else { share }
    }

    /// The walks as a row among the passes.
    #[must_use]
    pub fn row(&self, interval: Duration) -> Option<Pass> {
        let walks = self.ports.pass(interval)?;
        Some(Pass { name: "ports", duration: walks.duration, ended: walks.ended, interval: walks.interval })
    }
}

impl Worker {
    /// Walks the namespace whose turn it is, if there is one, the budget allows, and no walk hangs.
    pub(super) fn walk_ports(&mut self, discovery: &Discovery, readings: &[Reading]) {
        self.ports.cpu = Duration::ZERO;
        if self.report.of(Signal::EphemeralPorts).is_none_or(|ladder| ladder.rung.is_none()) || self.walks_hang() {
            return;
        }
        let candidates: Vec<_> = readings.iter().filter_map(candidate).collect();
        let Some(next) = self.ports.ports.next(&candidates, Instant::now()) else { return };
        let (cpu, started) = (self.cpu_time(), Instant::now());
        let found = match self.walk(discovery, &next) {
            Ok(found) => {
                if self.ports.outage.ends() {
                    tracing::info!("namespaces' sockets are walked for their ports again");
                }
                Some(found)
            }
            // A namespace that died meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                if let Some(cause) = self.ports.outage.begins(&error) {
                    tracing::warn!(cause, inum = next.inum, "cannot walk a namespace's sockets for their ports");
                }
                None
            }
        };
        self.ports.cpu = self.cpu_time().saturating_sub(cpu);
        let walk = Walk { duration: started.elapsed(), cpu: self.ports.cpu, ended: Instant::now() };
        let percent = f64::from(self.cpu_percent.max(1)) / f64::from(SHARES);
        self.ports.ports.note(next.id, found, walk, percent);
    }

    fn walk(&mut self, discovery: &Discovery, next: &Candidate) -> io::Result<PortUse> {
        let Some(namespace) = discovery.namespaces.get(&next.inum) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        self.maps.port_walk.prepare(next.range)?;
        let (walker, id) = (self.walker.clone(), next.id);
        let walked = self.walking.visit(namespace, move |inside| {
            // The inode number may have found a new owner since it was read.
            if walker.netns_id(inside)? != id {
                return Err(io::Error::from(io::ErrorKind::NotFound));
            }
            // The walk writes nothing; what it counted is in its maps.
            walker.walk("ports_by_netns", |_| {})?;
            Ok(sysctls::reserved_ports())
        });
        let reserved = match walked {
            Ok(result) => result?,
            Err(VisitError::Gone) => return Err(io::ErrorKind::NotFound.into()),
            Err(error) => return Err(io::Error::other(error)),
        };
        let mut busiest = Busiest::default();
        let walked = self.maps.port_walk.collect(|key, usage| busiest.add(key, usage))?;
        self.ports.fill = Some(walked.fill);
        let bound = bound_ports(walked.bound.as_slice(), &reserved);
        Ok(PortUse::new(Instant::now(), next.range, busiest, bound, [walked.refused, walked.refused_most]))
    }
}

/// What bounds the use of ports in a namespace without a walk.
fn candidate(reading: &Reading) -> Option<Candidate> {
    let sockstat = &reading.sockstat;
    // A kernel without IPv6 has no sockets of it.
    let sockets = sockstat.tcp_inuse? + sockstat.tcp_tw? + sockstat.tcp6_inuse.unwrap_or(0);
    Some(Candidate { id: reading.id, inum: reading.inum, sockets, range: reading.sysctls.ip_local_port_range? })
}
