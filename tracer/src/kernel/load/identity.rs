//! Opens the object with what tells namespaces apart, and reports that as a ladder.
//!
//! Decided before anything counts, since all programs count by it.

use aya::{Btf as AyaBtf, Ebpf};
use tracer_ebpf::settings::ABSENT;

use super::{
    Kernel, LoadError, LoadOptions,
    climb::{load, refusal, stands},
    error::{chain, errno},
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
    if options.disabled.contains(&HookKind::Iterator) {
        return by_inode(facts, options, None, explain(NETNS_IDENTITY.attach, Stage::SwitchedOff, None, ""));
    }
    let btf = AyaBtf::from_sys_fs()?;
    let mut ebpf = open(facts, options)?;
    let Err(refusal) = load_and_try(&mut ebpf, &btf) else {
        return Ok(Opened { ebpf, btf: Some(btf), without_identity: None });
    };
    // For those who look at events alone, and see no ladders.
    tracing::warn!(
        cause = refusal.cause,
        remedy = refusal.remedy,
        "namespaces are told apart by inode numbers alone, which are used again"
    );
    // Before the maps are made anew: locked memory may be limited.
    drop(ebpf);
    by_inode(facts, options, Some(btf), refusal)
}

fn by_inode(
    facts: &mut Facts,
    options: &LoadOptions,
    btf: Option<AyaBtf>,
    refusal: Refusal,
) -> Result<Opened, LoadError> {
    facts.offsets.net_hash_mix = ABSENT;
    Ok(Opened { ebpf: open(facts, options)?, btf, without_identity: Some(refusal) })
}

/// Loads the program, and asks it of this thread's namespace.
fn load_and_try(ebpf: &mut Ebpf, btf: &AyaBtf) -> Result<(), Refusal> {
    let attach = NETNS_IDENTITY.attach;
    let Some(program) = ebpf.program_mut(NETNS_IDENTITY.program) else {
        return Err(explain(attach, Stage::Missing, None, "not in the eBPF object"));
    };
    load(program, attach, btf).map_err(|error| refusal(attach, Stage::Load, &error))?;
    match identity::own(ebpf) {
        Ok(_) => Ok(()),
        Err(error) => Err(explain(attach, Stage::Attach, errno(&error), &chain(&error))),
    }
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
