//! A TCP socket that its program holds locked: it sends from a page that nobody provides, and the kernel waits for the
//! page with the socket's lock held. Any user can do so with a file system of their own; userfaultfd(2) is less to write.

use super::netns::Netns;
use super::script::Script;

const SCRIPT: &str = r#"
my ($userfaultfd, $mmap, $sendto, $prctl, $port) = map { $_ + 0 } @ARGV;
socket(my $server, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
bind($server, pack_sockaddr_in($port, INADDR_LOOPBACK)) or die "bind: $!";
listen($server, 1) or die "listen: $!";
socket(my $client, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
connect($client, pack_sockaddr_in($port, INADDR_LOOPBACK)) or die "connect: $!";
my $child = fork;
if (!$child) {
    syscall($prctl, 1, 9, 0, 0, 0);     # PR_SET_PDEATHSIG, SIGKILL
    my $fd = syscall($userfaultfd, 0);
    open(my $faults, "+<&=", $fd) or die "userfaultfd: $!";
    my $api = pack("QQQ", 0xaa, 0, 0);
    ioctl($faults, 0xc018aa3f, $api) or die "UFFDIO_API: $!";
    my $page = syscall($mmap, 0, 4096, 3, 0x22, -1, 0);     # anonymous and private, to be read and written
    my $pages = pack("QQQQ", $page, 4096, 1, 0);            # UFFDIO_REGISTER_MODE_MISSING
    ioctl($faults, 0xc020aa00, $pages) or die "UFFDIO_REGISTER: $!";
    print "ready\n";
    syscall($sendto, fileno($client), $page, 4096, 0, 0, 0);
    exit;
}
<STDIN>;
kill KILL => $child;
waitpid($child, 0);
"#;

/// Locks a socket of this namespace, of two that are connected, until the script is dropped.
pub(crate) fn lock_a_socket(netns: &Netns, port: u16) -> Script {
    let calls = [libc::SYS_userfaultfd, libc::SYS_mmap, libc::SYS_sendto, libc::SYS_prctl, port.into()];
    let arguments = calls.map(|number| number.to_string());
    Script::start(netns, SCRIPT, &arguments.each_ref().map(String::as_str))
}
