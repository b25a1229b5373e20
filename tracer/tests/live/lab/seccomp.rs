//! System calls that the kernel answers with an errno, by their first argument, for one process and its children.

use std::process::Command;

use super::setting::agent_binary;

/// A command of bpf(2), numbered as in the kernel's `include/uapi/linux/bpf.h`.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Bpf {
    MapCreate = 0,
    ProgLoad = 5,
    BtfLoad = 18,
    LinkCreate = 28,
    IterCreate = 33,
}

/// Installs a seccomp filter and becomes another program. The filter reads the system call's number at offset 0 of
/// `struct seccomp_data`, and the low half of its first argument at offset 16.
const REFUSE: &str = r#"
use strict;
my ($prctl, $call, $first, $errno) = map { $_ + 0 } splice(@ARGV, 0, 4);
my $filter = pack("(SCCL)*",
    0x20, 0, 0, 0,                      # load the number
    0x15, 0, 3, $call,                  # another one: allow
    0x20, 0, 0, 16,                     # load the argument
    0x15, 0, 1, $first,                 # another one: allow
    0x06, 0, 0, 0x00050000 | $errno,    # SECCOMP_RET_ERRNO
    0x06, 0, 0, 0x7fff0000);            # SECCOMP_RET_ALLOW
my $program = pack("S x6 P", length($filter) / 8, $filter);
# PR_SET_SECCOMP, SECCOMP_MODE_FILTER. Root needs no PR_SET_NO_NEW_PRIVS.
syscall($prctl, 22, 2, $program) == 0 or die "seccomp: $!";
exec { $ARGV[0] } @ARGV or die "exec: $!";
"#;

/// The agent's binary, for which every call of `command` fails with `errno`.
pub(crate) fn agent_refused(command: Bpf, errno: i32) -> Command {
    refused(libc::SYS_bpf, i64::from(command as u8), errno)
}

/// The agent's binary on a kernel that has no IPv6, as far as it can tell.
pub(crate) fn agent_without_ipv6() -> Command {
    refused(libc::SYS_socket, i64::from(libc::AF_INET6), libc::EAFNOSUPPORT)
}

fn refused(call: i64, first: i64, errno: i32) -> Command {
    let numbers = [libc::SYS_prctl, call, first, i64::from(errno)];
    let mut perl = Command::new("perl");
    perl.args(["-e", REFUSE]).args(numbers.map(|number| number.to_string())).arg(agent_binary());
    perl
}
