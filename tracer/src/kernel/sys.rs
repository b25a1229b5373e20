//! System calls that no safe wrapper offers.
//!
//! Owns every `unsafe` block of the agent: one small function per call, safe to use from outside.
//! Holds no state and decides nothing; callers see `io::Result`.
#![expect(
    unsafe_code,
    reason = "these calls have no safe wrapper; each block says why it is sound"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `getsockopt(SOL_SOCKET, SO_NETNS_COOKIE)`: the number, unique since boot, of the network namespace that
/// `socket` belongs to. Kernels before 5.14 answer `ENOPROTOOPT`.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: `socket` is open for the duration of the call; the kernel writes at most `length` = 8 bytes,
    // the size of `cookie`, and `length` itself; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}
