//! Ties the programs that read maps to the maps they read; if the kernel refuses, look-ups read them.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::programs::Program;

use super::Kernel;
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
        let fallback = LADDERS.iter().find(|ladder| ladder.signal == Signal::MapRows).map(|ladder| ladder.fallback);
        if let Some(ladder) = report.ladders.iter_mut().find(|ladder| ladder.signal == Signal::MapRows) {
            ladder.rung = None;
            fallback.unwrap_or_default().clone_into(&mut ladder.in_force);
            ladder.hooks.clear();
            let attach = Attach::Iterator("bpf_map_elem");
            ladder.refusals.push(explain(attach, Stage::Attach, error.raw_os_error(), &error.to_string()));
        }
    }

    fn iterator_fd(&mut self, name: &'static str) -> io::Result<OwnedFd> {
        let Some(Program::Iter(program)) = self.program_mut(name) else {
            return Err(io::Error::other("the iterator is not in the eBPF object"));
        };
        program.fd().map_err(io::Error::other)?.as_fd().try_clone_to_owned()
    }
}
