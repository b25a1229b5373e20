//! Ties the programs that read maps to the maps they read; if the kernel refuses, look-ups read them.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::programs::Program;

use super::{
    Kernel,
    climb::stands,
    error::{chain, errno},
};
use crate::kernel::{
    hooks::{Attach, LADDERS, Report, Signal, Stage, explain},
    maps::Maps,
};

impl Kernel {
    /// Lets `maps` read by iterators if their ladder got so far, and says in the report if it may not.
    pub(super) fn read_by_iterators(&mut self, maps: &Maps, report: &mut Report) {
        if !report.stands_on(Signal::MapRows, "iterator") {
            return;
        }
        let Err(error) = maps.read_by(|program| self.iterator_fd(program)) else { return };
        let refusal = explain(Attach::Iterator("bpf_map_elem"), Stage::Attach, errno(&error), &chain(&error));
        let ladder = LADDERS.iter().find(|ladder| ladder.signal == Signal::MapRows);
        let standing = report.ladders.iter_mut().find(|standing| standing.signal == Signal::MapRows);
        if let (Some(ladder), Some(standing)) = (ladder, standing) {
            standing.refusals.push(refusal);
            *standing = stands(ladder, None, std::mem::take(&mut standing.refusals));
        }
    }

    fn iterator_fd(&mut self, name: &'static str) -> io::Result<OwnedFd> {
        let Some(Program::Iter(program)) = self.program_mut(name) else {
            return Err(io::Error::other("the iterator is not in the eBPF object"));
        };
        program.fd().map_err(io::Error::other)?.as_fd().try_clone_to_owned()
    }
}
