//! What an ordinary user can multiply at little cost: a process with listeners, copies of their descriptors, and
//! forks that hold all of them.
//!
//! A perl script, as in [`super::script`].

use super::descriptors::have_descriptors;
use super::netns::Netns;
use super::script::Script;

/// Its children read the same stdin, and end with it; an alarm ends what a killed test leaves behind.
const SCRIPT: &str = r#"
use POSIX ();
my ($first, $listeners, $copies, $forks, $life_s) = @ARGV;
$0 = "multiplier"; alarm $life_s;
my @listeners;
for my $port ($first .. $first + $listeners - 1) {
    socket(my $listener, PF_INET, SOCK_STREAM, 6) or die "socket: $!";
    bind($listener, pack_sockaddr_in($port, inet_aton("127.0.0.1"))) or die "bind: $!";
    listen($listener, 16) or die "listen: $!";
    push @listeners, $listener;
}
# In turns, so that no two descriptors in a row lead to one socket.
for my $copy (0 .. $copies - 1) {
    defined POSIX::dup(fileno $listeners[$copy % $listeners]) or die "dup: $!";
}
for (1 .. $forks) {
    my $pid = fork(); die "fork: $!" unless defined $pid;
    if (!$pid) { alarm $life_s; POSIX::read(0, my $line, 1); POSIX::_exit(0); }
}
print "ready\n";
POSIX::read(0, my $line, 1);
"#;

/// Ends what a test leaves behind that was killed.
const LIFE_S: u32 = 300;

/// Descriptors beside those of listeners.
const FURTHER_DESCRIPTORS: u64 = 100;

/// What is multiplied.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) first_port: u16,
    pub(crate) listeners: u32,
    /// Further descriptors that lead to these listeners.
    pub(crate) copies: u32,
    /// Processes beside the first that hold all of them.
    pub(crate) forks: u32,
}

/// Starts the processes and returns once all is held.
pub(crate) fn multiply(netns: &Netns, plan: Plan) -> Script {
    have_descriptors(u64::from(plan.listeners + plan.copies) + FURTHER_DESCRIPTORS);
    let numbers = [u32::from(plan.first_port), plan.listeners, plan.copies, plan.forks, LIFE_S];
    let arguments = numbers.map(|number| number.to_string());
    Script::start(netns, SCRIPT, &arguments.each_ref().map(String::as_str))
}
