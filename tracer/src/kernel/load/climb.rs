//! Climbs down one ladder: tries each rung's points and their ways, best first, and keeps why one does not hold.

use std::{fs::File, io, path::Path};

use aya::{
    Btf as AyaBtf,
    programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError},
};

use super::{
    Kernel,
    error::{chain, errno, verifier_reason},
};
use crate::kernel::{
    hooks::{Attach, Hook, Ladder, LadderReport, Point, Refusal, Rung, Stage, explain},
    listening::listening_sockets,
    walk::start_walk,
};

impl Kernel {
    pub(super) fn climb_down(&mut self, ladder: &Ladder, btf: &AyaBtf) -> LadderReport {
        let mut refusals = Vec::new();
        for (index, rung) in ladder.rungs.iter().enumerate() {
            if let Some(hooks) = self.try_rung(rung, btf, &mut refusals) {
                let standing = stands(ladder, Some((index, &hooks)), refusals);
                let is_of_ipv4_alone = self.facts.has_ipv6() && lacks_ipv6(rung, &hooks);
                return if is_of_ipv4_alone { standing.of_ipv4_alone(ipv6_is_loaded()) } else { standing };
            }
        }
        stands(ladder, None, refusals)
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
        if hook.attach == Attach::SockDiag {
            let listed = listening_sockets(1).map(drop);
            return listed
                .map_err(|error| explain(hook.attach, Stage::Attach, error.raw_os_error(), &error.to_string()));
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
                AttachError::Io(error) => explain(hook.attach, Stage::Attach, errno(&error), &chain(&error)),
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
}

/// Whether a function of IPv6 is not hooked.
fn lacks_ipv6(rung: &Rung, hooks: &[Hook]) -> bool {
    let is_hooked = |point: &Point| point.ways.iter().any(|way| way.iter().all(|hook| hooks.contains(hook)));
    rung.points.iter().any(|point| point.of_ipv6 && !is_hooked(point))
}

/// Whether the kernel has IPv6 now: built in, or as a module that is loaded.
#[must_use]
pub fn ipv6_is_loaded() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// The report on a ladder that stands on a rung's hooks, or on its fallback.
pub(super) fn stands(ladder: &Ladder, rung: Option<(usize, &[Hook])>, refusals: Vec<Refusal>) -> LadderReport {
    let (signal, index) = (ladder.signal, rung.map(|(index, _)| index));
    let (in_force, cost, hooks) = match rung {
        Some((index, hooks)) => (named(ladder.rungs[index].name, hooks), ladder.rungs[index].cost, names_of(hooks)),
        None => (ladder.fallback.to_owned(), ladder.fallback_cost, Vec::new()),
    };
    LadderReport { signal, rung: index, in_force, cost: cost.to_owned(), hooks, refusals, ipv4_alone: false }
}

/// A rung's name with the kinds of hooks that carry it.
fn named(rung: &str, hooks: &[Hook]) -> String {
    let kinds = kinds_of(hooks);
    if kinds.is_empty() { rung.to_owned() } else { format!("{rung} ({kinds})") }
}

pub(super) fn load(program: &mut Program, attach: Attach, btf: &AyaBtf) -> Result<(), ProgramError> {
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

fn attach(program: &mut Program, attach: Attach, cgroup: Option<&Path>) -> Result<(), AttachError> {
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
        // This one needs a map, see `rows`.
        (Program::Iter(_), Attach::Iterator("bpf_map_elem")) => {}
        // Each pass attaches it anew; whether it may is found out here.
        (Program::Iter(program), _) => drop(start_walk(program).map_err(AttachError::Io)?),
        _ => return Err(ProgramError::UnexpectedProgramType.into()),
    }
    Ok(())
}

pub(super) fn refusal(attach: Attach, stage: Stage, error: &ProgramError) -> Refusal {
    if matches!(error, ProgramError::Btf(_)) {
        return explain(attach, Stage::Missing, None, &error.to_string());
    }
    let detail = match error {
        ProgramError::LoadError { verifier_log, .. } => {
            let log = verifier_log.to_string();
            tracing::debug!(hook = attach.describe(), "the verifier's log:\n{log}");
            verifier_reason(&log).unwrap_or_default().to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::hooks::{LADDERS, Signal};

    #[test]
    fn only_functions_of_ipv6_make_a_rung_one_of_ipv4_alone() {
        for (signal, ipv6) in [(Signal::ListenDrops, 3), (Signal::ConnectErrors, 1)] {
            let rung = &LADDERS.iter().find(|ladder| ladder.signal == signal).unwrap().rungs[0];
            let first_ways = |wanted: &dyn Fn(&Point) -> bool| -> Vec<Hook> {
                rung.points.iter().filter(|point| wanted(point)).flat_map(|point| point.ways[0].to_vec()).collect()
            };
            assert!(!lacks_ipv6(rung, &first_ways(&|_| true)));
            assert!(!lacks_ipv6(rung, &first_ways(&|point| !point.optional || point.of_ipv6)), "others are optional");
            assert!(lacks_ipv6(rung, &first_ways(&|point| !point.of_ipv6)));
            assert_eq!(rung.points.iter().filter(|point| point.of_ipv6).count(), ipv6);
        }
    }
}
