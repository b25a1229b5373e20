//! Iterators over the entries of one map: linked once, opened for each reading.

use std::{
    fs::File,
    io,
    os::fd::{BorrowedFd, FromRawFd as _, OwnedFd},
};

use zerocopy::IntoBytes;

use super::{Command, address, bpf, raw};

/// `BPF_TRACE_ITER` of `enum bpf_attach_type`.
const TRACE_ITER: u32 = 28;

/// `bpf_attr` of `BPF_LINK_CREATE` for an iterator.
#[derive(IntoBytes)]
#[repr(C)]
struct LinkAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    padding: u32,
}

/// `bpf_attr` of `BPF_ITER_CREATE`.
#[derive(IntoBytes)]
#[repr(C)]
struct IterAttr {
    link_fd: u32,
    flags: u32,
}

/// Ties a loaded `iter/bpf_map_elem` program to a map. EACCES if the program reads more of a key or a
/// value than the map has.
pub fn link_map_iterator(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // `union bpf_iter_link_info`, whose first member is the map.
    let info = raw(map);
    let attr = LinkAttr { iter_info: address(&raw const info), iter_info_len: u32::BITS / 8, ..LinkAttr::of(program) };
    link(attr)
}

/// Makes a link of a loaded iterator that goes over no map.
pub fn link_iterator(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    link(LinkAttr::of(program))
}

impl LinkAttr {
    fn of(program: BorrowedFd<'_>) -> Self {
        Self {
            prog_fd: raw(program),
            target_fd: 0,
            attach_type: TRACE_ITER,
            flags: 0,
            iter_info: 0,
            iter_info_len: 0,
            padding: 0,
        }
    }
}

fn link(mut attr: LinkAttr) -> io::Result<OwnedFd> {
    // SAFETY: `attr` names nothing, or a number of its caller's and its length; the kernel only reads it.
    let fd = unsafe { bpf(Command::LinkCreate, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a link's iterator, at its beginning.
pub fn open_iterator(link: BorrowedFd<'_>) -> io::Result<File> {
    let mut attr = IterAttr { link_fd: raw(link), flags: 0 };
    // SAFETY: `attr` holds no address.
    let fd = unsafe { bpf(Command::IterCreate, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { File::from_raw_fd(fd) })
}
