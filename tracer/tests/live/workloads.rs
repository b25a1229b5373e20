//! Owners of what no listener counts: `TIME_WAIT` overflows, connects that found no port, retransmits and
//! connections that were given up. Two workloads share a namespace, so that it can name neither; each has
//! what its own sockets did, to the unit.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::cgroup::Cgroup;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::equations::{RESETS, RETRANSMITS, TIME_WAIT_OVERFLOWS, TIMEOUTS};
use crate::lab::firewall::Firewall;
use crate::lab::netns::{Netns, Pair, SERVER_V4};
use crate::lab::pod::{NAMESPACE, Pod};
use crate::lab::rungs::Signal;
use crate::lab::script::Script;
use crate::lab::setting::patient;
use crate::lab::sockets::Listener;

const PORT: u16 = 8098;
/// Outlasts the test; ends what is left behind of one that was killed.
const LIFE: Duration = Duration::from_mins(1);
const SIGNALS: [Signal; 3] = [Signal::TimeWaitOverflows, Signal::Connections, Signal::Retransmits];

const CONNECTS: &str = "tracer_tcp_connect_syn_retries_count";
const CONNECT_FAILURES: &str = "tracer_tcp_connect_failures_total";

/// Room for 4 and 50 closes.
const BUCKETS: &str = "4";
const CLOSES: usize = 50;
const OVERFLOWS: u64 = 46;
/// Two ports, for two connections that stay.
const PORT_RANGE: &str = "40000 40001";
/// Connects without a port, of the one workload and of the other.
const WITHOUT_PORT: [u64; 2] = [3, 2];

/// Makes connections of its cgroup, and does to them what it is told.
const CLIENT: &str = r#"
my ($cgroup, $address, $port, $life_s) = @ARGV;
alarm $life_s;
enter($cgroup);
my $to = pack_sockaddr_in($port, inet_aton($address));
my @kept;
sub connected { socket(my $client, PF_INET, SOCK_STREAM, 6) or die "socket: $!"; return connect($client, $to) ? $client : undef; }
sub made { return connected() // die "connect: $!"; }
sub set { my ($socket, $level, $option, $value) = @_; setsockopt($socket, $level, $option, pack("i", $value)) or die "option $option: $!"; }
# As linux/tcp.h numbers them: after a second alone three probes, a second apart; and 1.5 s for what was sent.
sub probe { my ($socket) = @_; set($socket, 6, @$_) for [4, 1], [5, 1], [6, 3]; set($socket, SOL_SOCKET, SO_KEEPALIVE, 1); }
sub send_and_wait { my ($socket) = @_; set($socket, 6, 18, 1500); syswrite($socket, "lost") == 4 or die "write: $!"; }
sub given_up { my ($socket) = @_; die "not given up: $!" if defined(sysread($socket, my $byte, 1)) || !$!{ETIMEDOUT}; }
my %acts = (
    close => sub { close(made()) for 1 .. $_[0]; },
    keep => sub { push @kept, made() for 1 .. $_[0]; },
    fail => sub { for (1 .. $_[0]) { die "connect: $!" if defined(connected()) || !$!{EADDRNOTAVAIL}; } },
    lose => sub { my ($silent, $idle) = @kept; probe($idle); send_and_wait($silent); given_up($_) for $silent, $idle; },
);
print "ready\n";
while (<STDIN>) { my ($act, $count) = split; $acts{$act}->($count); print "done\n"; }
"#;

/// A process in a cgroup of its own.
struct Workload {
    client: Script,
    /// What names it, beside its namespace.
    labels: Vec<(&'static str, String)>,
}

impl Workload {
    fn start(netns: &Netns, cgroup: &Cgroup, labels: &[(&'static str, &str)]) -> Self {
        let life_s = patient(LIFE).as_secs().to_string();
        let client = Script::start(netns, CLIENT, &[cgroup.path(), &SERVER_V4.to_string(), &PORT.to_string(), &life_s]);
        Self { client, labels: labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect() }
    }

    /// The sum over its rows that carry `labels` as well.
    fn sum(&self, agent: &Agent, watch: &Watch<'_>, metric: &str, labels: &[(&str, &str)]) -> u64 {
        let own = self.labels.iter().map(|(name, value)| (*name, value.as_str()));
        let all: Vec<_> =
            [("netns", watch.inode.as_str())].into_iter().chain(own).chain(labels.iter().copied()).collect();
        agent.scrape().sum(metric, &all)
    }
}

/// Takes the connections that a client makes and closes, after it did.
fn take_closed(listener: &Listener) {
    for _ in 0..CLOSES {
        assert_eq!(listener.accept_stream().read(&mut [0; 1]).unwrap(), 0, "end of stream expected");
    }
}

/// All that the first workload meets; the second one only finds no port. What is given back keeps the servers' ends
/// quiet: a FIN for a client that is gone would be answered with a reset, and on hybrid hosts that one has an owner.
#[must_use]
fn provoke<'a>(client: &Netns, server: &'a Netns, workloads: &mut [Workload; 2]) -> ([TcpStream; 2], Firewall<'a>) {
    let listener = Listener::open(server, SocketAddr::from((SERVER_V4, PORT)), 128);
    let [first, second] = workloads;
    client.set_tcp("tcp_max_tw_buckets", BUCKETS);
    first.client.tell(&format!("close {CLOSES}"), "done");
    take_closed(&listener);
    client.set_tcp("ip_local_port_range", PORT_RANGE);
    first.client.tell("keep 2", "done");
    let kept = [listener.accept_stream(), listener.accept_stream()];
    for (workload, count) in [first, second].into_iter().zip(WITHOUT_PORT) {
        workload.client.tell(&format!("fail {count}"), "done");
    }
    let cut = Firewall::install(server, "input", "meta l4proto tcp drop");
    workloads[0].client.tell("lose", "done");
    (kept, cut)
}

/// What the kernel counted is the first one's; the second one has what it met, and no more.
fn each_has_its_own(agent: &Agent, watch: &Watch<'_>, workloads: &[Workload; 2]) {
    let sums = |metric, labels: &[(&str, &str)]| workloads.each_ref().map(|one| one.sum(agent, watch, metric, labels));
    let counted = ["TCPTimeWaitOverflow", "TCPAbortOnTimeout", "TCPKeepAlive"].map(|name| watch.delta(name));
    assert_eq!(counted, [OVERFLOWS, 2, 3]);
    assert_eq!(sums(TIME_WAIT_OVERFLOWS, &[]), [OVERFLOWS, 0]);

    let port = PORT.to_string();
    let to_server = ("port", port.as_str());
    // The kernel counts those that got a port, and the processes say how many did not.
    assert_eq!(sums(CONNECTS, &[("result", "established")]), [watch.delta("ActiveOpens"), 0]);
    assert_eq!(sums(CONNECT_FAILURES, &[("error", "no_port"), to_server]), WITHOUT_PORT);
    assert_eq!(sums(CONNECT_FAILURES, &[]), WITHOUT_PORT, "nothing else failed");

    for cause in ["retransmit", "keepalive"] {
        assert_eq!(sums(TIMEOUTS, &[("role", "client"), to_server, ("cause", cause)]), [1, 0], "{cause}");
    }
    assert_eq!(sums(TIMEOUTS, &[]), [watch.delta("TCPAbortOnTimeout"), 0]);
    // The one that keepalive found dead is reset. What is sent where no socket is left counts for the namespace, for
    // which its lowest process may speak; how much that is depends on whether close() still held the socket when the
    // last ACK came.
    let [of_first, of_second] = sums(RESETS, &[("direction", "sent")]);
    let sent = watch.delta("OutRsts");
    assert!(of_first == 1 && of_second < sent, "{of_first} and {of_second} of {sent} resets");

    // Those that the kernel did not show to the hook, which the closing check has held against its number.
    let unseen = agent.scrape().sum(RETRANSMITS, &[("netns", &watch.inode), ("cause", "unknown")]);
    let segments = watch.delta("RetransSegs");
    assert!(segments >= 2, "only {segments} segments sent again");
    assert_eq!(sums(RETRANSMITS, &[("role", "client"), to_server]), [segments - unseen, 0]);
}

#[test]
fn two_units_in_one_namespace() {
    let _lab = Lab::enter(&SIGNALS);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.client);
    let agent = Agent::start();
    let names = ["client", "other"].map(|part| format!("tracer-live-{}-{part}.service", std::process::id()));
    let cgroups = names.each_ref().map(|name| Cgroup::make(name));
    // The lowest process, which would speak for the namespace, is the other one's.
    let [second, first] =
        [1, 0].map(|number| Workload::start(&pair.client, &cgroups[number], &[("unit", names[number].as_str())]));
    let mut workloads = [first, second];
    let _quiet = provoke(&pair.client, &pair.server, &mut workloads);
    assert_closes(&agent, &[&watch]);
    each_has_its_own(&agent, &watch, &workloads);
    drop(workloads);
}

#[test]
fn two_containers_of_one_pod() {
    let _lab = Lab::enter(&SIGNALS);
    let Pair { client, server } = Pair::new();
    let pod = Pod::start(client);
    let watch = Watch::from_now(&pod.netns);
    let agent = pod.agent(&[]);
    let names = ["app", "sidecar"];
    let cgroups = [1, 2].map(|number| pod.container(number));
    names.iter().zip(1..).for_each(|(name, number)| pod.name(name, number));
    let mut workloads = [0, 1].map(|number| {
        let labels = [&[("container", names[number]), ("unit", "")], &NAMESPACE[..]].concat();
        Workload::start(&pod.netns, &cgroups[number], &labels)
    });
    let _quiet = provoke(&pod.netns, &server, &mut workloads);
    assert_closes(&agent, &[&watch]);
    each_has_its_own(&agent, &watch, &workloads);
    drop(workloads);
}
