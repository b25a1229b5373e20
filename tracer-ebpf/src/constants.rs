//! What the agent hands over before load: field offsets and switches, in frozen `.rodata`.
//!
//! Each is read with a volatile load, so that the compiler does not fold the placeholder in; the
//! verifier then knows the value and removes branches that cannot be taken.

use tracer_ebpf::settings::{ABSENT, Offsets, Settings};

/// Filled in by the agent from the running kernel's BTF.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::NONE;

/// Filled in by the agent from its configuration.
#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings::NONE;

/// Reads one field of [`OFFSETS`], in bytes.
macro_rules! offset {
    ($field:ident) => {
        $crate::constants::constant(&$crate::constants::OFFSETS.$field)
    };
}

/// Reads one field of [`SETTINGS`].
macro_rules! setting {
    ($field:ident) => {
        $crate::constants::constant(&$crate::constants::SETTINGS.$field)
    };
}

pub(crate) use {offset, setting};

/// Reads a constant without letting the compiler see its placeholder.
#[inline(always)]
pub fn constant<T: Copy>(value: &T) -> T {
    // SAFETY: a reference to a static is valid and aligned.
    unsafe { core::ptr::read_volatile(value) }
}

/// Whether the running kernel has the field.
#[inline(always)]
pub fn present(offset: u32) -> bool {
    offset != ABSENT
}
