//! Owners as a Kubernetes node has them: pods with a network namespace and a sandbox of their own, cgroups
//! and logs named as kubelet and the runtimes name them; and a socket that one process opened and another
//! serves.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::cgroup::Cgroup;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::drops::{ACCEPT_QUEUE_FULL_SYN, assert_drops, drops_are};
use crate::lab::equations::DROPS;
use crate::lab::foreign::{ForeignListener, Plan};
use crate::lab::netns::Netns;
use crate::lab::pod::{NAMESPACE, Pod, id};
use crate::lab::rungs::{Drops, Signal};
use crate::lab::scrape::Sample;
use crate::lab::script::Script;
use crate::lab::setting::patient;
use crate::lab::sockets::Client;
use crate::lab::wait::{equal, until};

const PORT: u16 = 8111;
const LIMIT: Duration = Duration::from_secs(15);
const PASS_INTERVAL: Duration = Duration::from_millis(200);
const RETAIN: Duration = Duration::from_millis(1500);
const RETIRED: &str = "tracer_retired_total";
const QUEUE: &str = "tracer_tcp_accept_queue_length";
/// Metrics by network namespace, each with one row for it.
const BY_NAMESPACE: [&str; 5] = [
    "tracer_tcp_segments_sent_total",
    "tracer_tcp_segments_received_total",
    "tracer_tcp_time_wait_sockets",
    "tracer_tcp_time_wait_limit",
    "tracer_netns_info",
];

/// Listens in one cgroup; a child in another one keeps the socket alone, and accepts one connection for each
/// line that it is told.
const ACTIVATION: &str = r#"
my ($port, $from, $to) = @ARGV;
$0 = "activator"; enter($from);
socket(my $listener, PF_INET, SOCK_STREAM, 6) or die "socket: $!";
bind($listener, pack_sockaddr_in($port, inet_aton("127.0.0.1"))) or die "bind: $!";
listen($listener, 2) or die "listen: $!";
my $child = fork() // die "fork: $!";
if ($child) { close($listener); waitpid($child, 0); exit 0; }
enter($to); $0 = "service"; print "ready\n";
while (<STDIN>) { accept(my $connection, $listener) or die "accept: $!"; print "accepted\n"; }
"#;

/// Whether the rows of the container's listener have so many drops, in all of its lives.
fn owns(pod: &Pod, agent: &Agent, count: u64) -> Result<(), String> {
    let inode = pod.netns.inode();
    let own = [("netns", inode.as_str()), ("container", "app"), ("unit", ""), ("process", "service")];
    drops_are(agent, &[&own[..], &NAMESPACE].concat(), &[(ACCEPT_QUEUE_FULL_SYN, count)])
}

fn address() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT)
}

/// Ten clients for a queue of three.
fn seven_drops(netns: &Netns) {
    drop(Client::connect_many(netns, SocketAddr::V4(address()), 10));
}

fn listen(netns: &Netns, cgroup: &Cgroup) -> ForeignListener {
    let plan = Plan { process: "service", address: address(), backlog: 2, defer_accept_s: 0, cgroup: cgroup.path() };
    ForeignListener::start(netns, &plan)
}

#[test]
fn listener_and_namespace_of_a_pod() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pod = Pod::start(Netns::single());
    let watch = Watch::from_now(&pod.netns);
    let agent = pod.agent(&[]);
    let container = pod.container(1);
    pod.name("app", 1);
    let listener = listen(&pod.netns, &container);
    seven_drops(&pod.netns);
    until("the pod's drops", LIMIT, || owns(&pod, &agent, 7));
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("ListenDrops"), 7);

    let scrape = agent.scrape();
    let netns = ("netns", watch.inode.as_str());
    let owner = [&[netns, ("container", "app")], &NAMESPACE[..]].concat();
    assert_eq!(scrape.one(QUEUE, &owner), Ok(3.0));
    assert_eq!(scrape.one("tracer_tcp_accept_queue_limit", &owner), Ok(2.0));
    for metric in BY_NAMESPACE {
        scrape.one(metric, &[&[netns], &NAMESPACE[..]].concat()).unwrap();
    }
    // The test's own connections are made outside of the pod's cgroups, and inside of its namespace.
    assert!(scrape.rows("tracer_tcp_connect_syn_retries_count", &[netns]).count() > 0);
    // Whatever else is known of the namespace is the pod's: only a unit's process can be its guest.
    let is_stray =
        |row: &&Sample| row.label("unit").is_empty() && NAMESPACE.iter().any(|(name, value)| row.label(name) != *value);
    let labels = [netns];
    let strays: Vec<_> = scrape.with(&labels).filter(is_stray).collect();
    assert!(strays.is_empty(), "{strays:#?}");
    listener.exit();
}

/// Whoever has a cgroup of their own gives what is inside any name, that of a pod's container or of another unit.
#[test]
fn names_in_a_delegated_cgroup_are_nobodys() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pod = Pod::start(Netns::single());
    let agent = pod.agent(&[]);
    pod.name("app", 1);
    let root = format!("live{}.slice", std::process::id());
    let (given, manager) = (format!("{root}/given.service"), format!("{root}/user@1000.service"));
    let delegated = Cgroup::make(&given);
    delegated.delegate();
    let _managed = Cgroup::make(&manager);
    let unit = |inside: &str| Cgroup::make(&format!("{inside}/sshd.service"));
    // The user's manager has cgroups of its own by its name alone.
    for impostor in [pod.impostor(&given, 1), unit(&given), pod.impostor(&manager, 1), unit(&manager)] {
        // The listener's process is the first of its namespace as well.
        let netns = Netns::single();
        let watch = Watch::from_now(&netns);
        let listener = listen(&netns, &impostor);
        seven_drops(&netns);
        let name = if impostor.path().contains(&given) { "given.service" } else { "user@1000.service" };
        let labels = [("netns", watch.inode.as_str()), ("unit", name), ("process", "service")];
        until("the drops of the delegated unit", LIMIT, || drops_are(&agent, &labels, &[(ACCEPT_QUEUE_FULL_SYN, 7)]));
        assert_closes(&agent, &[&watch]);
        let scrape = agent.scrape();
        let own = [("netns", watch.inode.as_str())];
        let is_fooled = |row: &&Sample| {
            row.label("unit") == "sshd.service" || NAMESPACE.iter().any(|(name, value)| row.label(name) == *value)
        };
        let fooled: Vec<_> = scrape.with(&own).filter(is_fooled).collect();
        assert!(fooled.is_empty(), "{fooled:#?}");
        listener.exit();
    }
}

/// No hook saw `listen()`: the agent comes last.
#[test]
fn listener_of_a_pod_that_is_older_than_the_agent() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let pod = Pod::start(Netns::single());
    let container = pod.container(1);
    pod.name("app", 1);
    let listener = listen(&pod.netns, &container);
    let watch = Watch::from_now(&pod.netns);
    let agent = pod.agent(&[]);
    let process = if agent.rungs().tells_holders() { "service" } else { "" };
    let own = [("netns", watch.inode.as_str()), ("container", "app"), ("unit", ""), ("process", process)];
    let owner = [&own[..], &NAMESPACE].concat();
    assert_eq!(agent.scrape().one(QUEUE, &owner), Ok(0.0));
    seven_drops(&pod.netns);
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("ListenDrops"), 7);
    assert_drops(&agent, &owner, &[(ACCEPT_QUEUE_FULL_SYN, 7)]);
    assert_eq!(agent.scrape().one(QUEUE, &owner), Ok(3.0));
    listener.exit();
}

#[test]
fn rows_wait_for_a_name_that_comes_late() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pod = Pod::start(Netns::single());
    let watch = Watch::from_now(&pod.netns);
    let agent = pod.agent(&[]);
    let container = pod.container(1);
    let listener = listen(&pod.netns, &container);
    seven_drops(&pod.netns);
    agent.await_pass();
    let early = agent.scrape();
    pod.name("app", 1);
    assert_eq!(early.rows(QUEUE, &[("netns", &watch.inode)]).count(), 0, "{}", early.show(QUEUE, &[]));
    until("the pod's drops", LIMIT, || {
        assert_eq!(agent.scrape().with(&[("container", &id(1)[..12])]).count(), 0, "a row had the id for a while");
        owns(&pod, &agent, 7)
    });
    assert_closes(&agent, &[&watch]);
    listener.exit();
}

#[test]
fn series_of_a_container_go_on_with_its_restart_and_end_with_it() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pod = Pod::start(Netns::single());
    let watch = Watch::from_now(&pod.netns);
    let inode = watch.inode.clone();
    // The next start must come within that, or nobody inherits.
    let retain = patient(RETAIN);
    let agent = pod.agent(&["--retain", &format!("{}ms", retain.as_millis())]);
    for life in 1..=2 {
        // Another id, hence another cgroup, under the same names.
        let container = pod.container(life);
        pod.name("app", life);
        let listener = listen(&pod.netns, &container);
        seven_drops(&pod.netns);
        until("this life's drops", LIMIT, || owns(&pod, &agent, u64::from(life) * 7));
        // Long enough for the rows of the last life to be removed, and for a fall to show.
        let deadline = Instant::now() + retain * 3 / 2;
        while Instant::now() < deadline {
            agent.await_pass();
            owns(&pod, &agent, u64::from(life) * 7).unwrap_or_else(|error| panic!("the series changed: {error}"));
        }
        listener.exit();
    }
    assert_eq!(watch.delta("ListenDrops"), 14);
    // What only the namespace is known to have dropped stays with the pod.
    let retired = |unowned| {
        let scrape = agent.scrape();
        let rows = scrape.with(&[("netns", &inode), ("container", "app")]).count();
        equal("rows of the container", &rows, &0)?;
        let unknown = if unowned { scrape.sum(DROPS, &[("netns", &inode), ("reason", "unknown")]) } else { 0 };
        equal("retired", &(scrape.sum(RETIRED, &[("signal", "listen_drops")]) + unknown), &14)
    };
    until("the container's last value to be retired", LIMIT, || retired(agent.rungs().drops == Drops::Totals));
    assert_closes(&agent, &[&watch]);
    // And everything of the pod with its namespace.
    drop(pod);
    until("the pod's rows to go", LIMIT, || {
        equal("rows of the pod", &agent.scrape().with(&[("netns", &inode)]).count(), &0)?;
        retired(false)
    });
}

#[test]
fn socket_that_another_process_serves() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::with(PASS_INTERVAL, &[]);
    let names = ["socket", "service"].map(|part| format!("tracer-live-{}-{part}.service", std::process::id()));
    let [activator, service] = names.clone().map(|name| Cgroup::make(&name));
    let arguments = [&PORT.to_string(), activator.path(), service.path()];
    let mut server = Script::start(&netns, ACTIVATION, &arguments);
    seven_drops(&netns);
    let owners = [(names[0].as_str(), "activator"), (names[1].as_str(), "service")];
    // A walk over descriptors tells holders, one over sockets does not: there it is who called listen().
    let [(unit, process), (_, stranger)] = if agent.rungs().tells_holders() { [owners[1], owners[0]] } else { owners };
    let owner = [("netns", watch.inode.as_str()), ("unit", unit), ("process", process)];
    until("the server's drops", LIMIT, || {
        drops_are(&agent, &owner, &[(ACCEPT_QUEUE_FULL_SYN, 7)])?;
        let scrape = agent.scrape();
        equal("its queue", &scrape.one(QUEUE, &owner)?, &3.0)?;
        equal("rows of the other process", &scrape.with(&[("process", stranger)]).count(), &0)
    });
    for _ in 0..3 {
        server.tell("", "accepted");
    }
    until("the queue to be empty", LIMIT, || equal("its queue", &agent.scrape().one(QUEUE, &owner)?, &0.0));
    assert_eq!(agent.scrape().sum("tracer_tcp_accepted_connections_total", &owner), 3);
    assert_closes(&agent, &[&watch]);
    drop(server);
}
