//! A system call of one process that the test answers: let through, refused with an errno, or held for as long as the
//! test likes, as a kernel lock or a dead server would hold it.
//!
//! The agent is started under a seccomp filter that asks a small program about each such call; what that answers
//! stands in a file, and a test may change it at any time.

use std::process::Command;

use tempfile::TempDir;

use super::setting::agent_binary;

/// Installs the filter, leaves a child behind that answers, and becomes the agent. The child dies with the agent.
const GATE: &str = r#"
use strict;
my ($seccomp, $prctl, $call, $argument, $key_bytes, $policy) = splice(@ARGV, 0, 6);
$_ += 0 for ($seccomp, $prctl, $call, $argument, $key_bytes);
# The number is at offset 0 of struct seccomp_data, the low half of the first argument at offset 16.
my @match = $argument < 0 ? () : (0x20, 0, 0, 16,  0x15, 0, 1, $argument);
my $skip = @match ? 3 : 1;
my $filter = pack("(SCCL)*",
    0x20, 0, 0, 0,
    0x15, 0, $skip, $call,
    @match,
    0x06, 0, 0, 0x7fc00000,             # SECCOMP_RET_USER_NOTIF
    0x06, 0, 0, 0x7fff0000);            # SECCOMP_RET_ALLOW
# Whether a call of bpf(2), as struct seccomp_notif has it, is about a map with such keys. The second argument points to
# the attributes, and the first of these is the map's descriptor.
sub is_meant {
    my (undef, $pid, undef, undef, undef, undef, undef, $attributes) = unpack("QLLlLQQQ", $_[0]);
    open(my $memory, "<:raw", "/proc/$pid/mem") or return 0;
    sysseek($memory, $attributes, 0);
    sysread($memory, my $fd, 4) == 4 or return 0;
    open(my $info, "<", "/proc/$pid/fdinfo/" . unpack("L", $fd)) or return 0;
    return grep { /^key_size:\s+$key_bytes$/ } <$info>;
}
my $program = pack("S x6 P", length($filter) / 8, $filter);
# SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_NEW_LISTENER
my $fd = syscall($seccomp, 1, 8, $program);
$fd >= 0 or die "seccomp: $!";
my $child = fork;
if (!$child) {
    syscall($prctl, 1, 9, 0, 0, 0);     # PR_SET_PDEATHSIG, SIGKILL
    open(STDIN, "<", "/dev/null"); open(STDOUT, ">", "/dev/null"); open(STDERR, ">", "/dev/null");
    open(my $listener, "+<&=", $fd) or exit 1;
    my @held;
    while (1) {
        vec(my $ready = '', $fd, 1) = 1;
        my $some = select($ready, undef, undef, 0.02);
        if ($some > 0) {
            my $call = "\0" x 80;
            # SECCOMP_IOCTL_NOTIF_RECV fails for a caller that has died meanwhile.
            ioctl($listener, 0xc0502100, $call) or next;
            push @held, [unpack("Q", $call), time, !$key_bytes || is_meant($call)];
        }
        open(my $file, "<", $policy) or exit 0;
        my ($word, $number) = split ' ', (<$file> // "");
        next if !defined $word;
        my @rest;
        for my $held (@held) {
            my ($id, $since, $is_meant) = @$held;
            my $is_held = $word eq "hold" || $word eq "delay" && time - $since < $number;
            push(@rest, $held), next if $is_meant && $is_held;
            my $refused = $is_meant && $word eq "refuse";
            # SECCOMP_IOCTL_NOTIF_SEND: an error, or SECCOMP_USER_NOTIF_FLAG_CONTINUE.
            my $answer = pack("QqlL", $id, 0, $refused ? -$number : 0, $refused ? 0 : 1);
            ioctl($listener, 0xc0182101, $answer);
        }
        @held = @rest;
    }
}
require POSIX;
POSIX::close($fd);
exec { $ARGV[0] } @ARGV or die "exec: $!";
"#;

/// The gate before one system call.
pub(crate) struct Gate {
    call: i64,
    /// The first argument that is meant; all of them if negative.
    argument: i64,
    /// Bytes of a key of the map that is meant; 0 where none is.
    key_bytes: i64,
    directory: TempDir,
}

impl Gate {
    /// Before each setns(2).
    pub(crate) fn on_setns() -> Self {
        Self::on(libc::SYS_setns, -1, 0)
    }

    /// Before each removal of a namespace's own row, which is the last of its rows to be removed.
    pub(crate) fn on_removal_of_namespaces() -> Self {
        // BPF_MAP_DELETE_ELEM, by the namespace's id.
        Self::on(libc::SYS_bpf, 3, 8)
    }

    fn on(call: i64, argument: i64, key_bytes: i64) -> Self {
        let gate = Self { call, argument, key_bytes, directory: tempfile::tempdir().unwrap() };
        gate.pass();
        gate
    }

    /// The agent behind it.
    pub(crate) fn agent(&self) -> Command {
        let numbers = [libc::SYS_seccomp, libc::SYS_prctl, self.call, self.argument, self.key_bytes];
        let mut perl = Command::new("perl");
        perl.args(["-e", GATE]).args(numbers.map(|number| number.to_string()));
        perl.arg(self.directory.path().join("policy")).arg(agent_binary());
        perl
    }

    /// Calls are let through from now on, and so are those that were held.
    pub(crate) fn pass(&self) {
        self.answer("pass");
    }

    /// Calls hang from now on.
    pub(crate) fn hold(&self) {
        self.answer("hold");
    }

    /// Each call takes so many seconds from now on, or up to one less.
    pub(crate) fn delay(&self, seconds: u32) {
        self.answer(&format!("delay {seconds}"));
    }

    /// Calls fail with this errno from now on.
    pub(crate) fn refuse(&self, errno: i32) {
        self.answer(&format!("refuse {errno}"));
    }

    /// Replaced whole, so that nobody reads half of it.
    fn answer(&self, policy: &str) {
        let new = self.directory.path().join("new");
        std::fs::write(&new, policy).unwrap();
        std::fs::rename(new, self.directory.path().join("policy")).unwrap();
    }
}
