//! Sockets that live without a descriptor of any process: their only reference is in flight, or io_uring's.

use std::io::{Error, IoSlice};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};

/// Sends the descriptor through a socket that nobody reads; it lives while the result does.
pub(crate) fn in_flight(fd: OwnedFd) -> (OwnedFd, OwnedFd) {
    let (from, to) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&from, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::empty()).unwrap();
    drop(fd);
    (from, to)
}

/// Registers the descriptor with a ring and closes it; it lives while the ring does.
pub(crate) fn registered(fd: OwnedFd) -> OwnedFd {
    const REGISTER_FILES: libc::c_long = 2;
    /// `struct io_uring_params`
    const PARAMS_BYTES: usize = 120;
    let mut params = [0_u64; PARAMS_BYTES / 8];
    // SAFETY: the call takes a number of entries and a structure of this size, which it fills in.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1 as libc::c_long, params.as_mut_ptr()) };
    assert!(ring >= 0, "io_uring_setup: {}", Error::last_os_error());
    // SAFETY: the kernel has just made this descriptor for us.
    let ring = unsafe { OwnedFd::from_raw_fd(i32::try_from(ring).unwrap()) };
    let files = [fd.as_raw_fd()];
    // SAFETY: the call reads one descriptor from the array.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), REGISTER_FILES, files.as_ptr(), 1 as libc::c_long)
    };
    assert!(result == 0, "io_uring_register: {}", Error::last_os_error());
    drop(fd);
    ring
}
