//! Names of errors, as the kernel numbers them on x86-64 and arm64. Pure.

/// The name of an errno; `None` for those that neither TCP nor bpf(2) gives.
#[must_use]
pub const fn name(errno: u16) -> Option<&'static str> {
    Some(match errno {
        1 => "EPERM",
        2 => "ENOENT",
        3 => "ESRCH",
        4 => "EINTR",
        7 => "E2BIG",
        9 => "EBADF",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        14 => "EFAULT",
        16 => "EBUSY",
        17 => "EEXIST",
        19 => "ENODEV",
        22 => "EINVAL",
        23 => "ENFILE",
        24 => "EMFILE",
        28 => "ENOSPC",
        32 => "EPIPE",
        38 => "ENOSYS",
        92 => "ENOPROTOOPT",
        95 => "EOPNOTSUPP",
        97 => "EAFNOSUPPORT",
        98 => "EADDRINUSE",
        99 => "EADDRNOTAVAIL",
        100 => "ENETDOWN",
        101 => "ENETUNREACH",
        103 => "ECONNABORTED",
        104 => "ECONNRESET",
        105 => "ENOBUFS",
        107 => "ENOTCONN",
        110 => "ETIMEDOUT",
        111 => "ECONNREFUSED",
        112 => "EHOSTDOWN",
        113 => "EHOSTUNREACH",
        // The kernel's own, which user space has no word for.
        524 => "ENOTSUPP",
        _ => return None,
    })
}

/// The name of an errno, or its number.
#[must_use]
pub fn named(errno: i32) -> String {
    let name = u16::try_from(errno).ok().and_then(name);
    name.map_or_else(|| format!("errno {errno}"), str::to_owned)
}
