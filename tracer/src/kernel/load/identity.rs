//! Opens the object with what tells namespaces apart, and reports that as a ladder.
//!
//! Decided before anything counts, since all programs count by it.

use aya::{Btf as AyaBtf, Ebpf, programs::ProgramError};
use tracer_ebpf::settings::ABSENT;

use super::{
    Kernel, LoadError, LoadOptions,
    climb::{load, refusal, stands},
    facts::Facts,
    open,
};
use crate::kernel::{
    hooks::{HookKind, Ladder, LadderReport, NETNS_IDENTITY, Refusal, Stage, explain},
    identity::{self, Identity},
};

/// The object, with its maps.
pub(super) struct Opened {
    pub ebpf: Ebpf,
    /// The kernel's types, if they were needed.
    pub btf: Option<AyaBtf>,
    /// Why namespaces are told apart by less than they could be.
    pub without_identity: Option<Refusal>,
}

/// Makes the maps. Where the kernel does not tell namespaces apart for user space, loads and tries the program that
/// does; without it the programs are told to go by inode numbers.
pub(super) fn open_with_identity(facts: &mut Facts, options: &LoadOptions) -> Result<Opened, LoadError> {
    if facts.identity() != Identity::HashMix {
        return Ok(Opened { ebpf: open(facts, options)?, btf: None, without_identity: None });
    }
    let btf = AyaBtf::from_sys_fs()?;
    match with_program(facts, options, &btf)? {
        Ok(ebpf) => Ok(Opened { ebpf, btf: Some(btf), without_identity: None }),
        Err(refusal) => {
            facts.offsets.net_hash_mix = ABSENT;
            Ok(Opened { ebpf: open(facts, options)?, btf: Some(btf), without_identity: Some(refusal) })
        }
    }
}

/// The object with the program in it; if that is refused, nothing is left of either: locked memory may be limited.
fn with_program(facts: &Facts, options: &LoadOptions, btf: &AyaBtf) -> Result<Result<Ebpf, Refusal>, LoadError> {
    if options.disabled.contains(&HookKind::Iterator) {
        return Ok(Err(explain(NETNS_IDENTITY.attach, Stage::SwitchedOff, None, "")));
    }
    let mut ebpf = open(facts, options)?;
    Ok(load_and_try(&mut ebpf, btf).map(|()| ebpf))
}

/// Loads the program, and asks it of this thread's namespace.
fn load_and_try(ebpf: &mut Ebpf, btf: &AyaBtf) -> Result<(), Refusal> {
    let attach = NETNS_IDENTITY.attach;
    let program = ebpf.program_mut(NETNS_IDENTITY.program);
    let loaded = program.ok_or(ProgramError::UnexpectedProgramType).and_then(|program| load(program, attach, btf));
    loaded.map_err(|error| refusal(attach, Stage::Load, &error))?;
    let tried = identity::own(ebpf);
    tried.map_err(|error| explain(attach, Stage::Attach, error.raw_os_error(), &error.to_string()))?;
    Ok(())
}

impl Kernel {
    /// By what namespaces are told apart.
    pub(super) fn told_apart(&self, ladder: &Ladder) -> LadderReport {
        match self.identity() {
            Identity::Cookie => stands(ladder, Some((0, &[])), Vec::new()),
            Identity::HashMix => stands(ladder, Some((0, &[NETNS_IDENTITY])), Vec::new()),
            Identity::Inode => stands(ladder, None, self.without_identity.iter().cloned().collect()),
        }
    }
}
