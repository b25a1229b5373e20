//! What an ordinary user multiplies: the agent's memory grows with neither descriptors nor processes, its figures stay
//! right, and its passes come as often as on a quiet node. The agent has the memory that its unit gives it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::herd::Herd;
use crate::lab::memory::MemoryCgroup;
use crate::lab::multiplier::{Plan, multiply};
use crate::lab::netns::Netns;
use crate::lab::rungs::Signal;
use crate::lab::scrape::{Sample, Scrape};
use crate::lab::script::Script;
use crate::lab::setting::is_slow;
use crate::lab::wait::{equal, until};

const PORT: u16 = 2_000;
/// A pass comes soon after the one before, so that many of them meet what is multiplied.
const PASS_INTERVAL: Duration = Duration::from_millis(200);
/// What the agent and its maps may take of the 128 MiB that they have.
const MEMORY_MAX: f64 = 96.0 * 1024.0 * 1024.0;
const LIMIT: Duration = Duration::from_secs(20);

/// Fails if the agent took more than it may at any time; prints what it took.
fn assert_within_memory(agent: &Agent, cgroup: Option<&MemoryCgroup>, what: &str) {
    let resident = agent.peak_memory_bytes();
    println!("{what}: {:.1} MB resident at most", resident / 1e6);
    assert!(resident <= MEMORY_MAX, "{what}: the agent took {resident} bytes");
    let Some(peak) = cgroup.and_then(MemoryCgroup::peak_bytes) else { return };
    println!("{what}: {} kB charged at most", peak / 1000);
    assert!(peak <= 96 << 20, "{what}: {peak} bytes were charged to the agent");
    agent.assert_sound();
}

fn listeners(scrape: &Scrape, netns: &str) -> usize {
    scrape.rows("tracer_tcp_listener_sockets", &[("netns", netns), ("process", "multiplier")]).count()
}

/// Each listener counts once, under the name of its process, in every pass of some.
fn assert_figures(agent: &Agent, netns: &Netns, plan: Plan) {
    let inode = netns.inode();
    let labels = [("netns", inode.as_str()), ("process", "multiplier")];
    for _ in 0..3 {
        agent.await_pass();
        let scrape = agent.scrape();
        let expected = usize::try_from(plan.listeners).unwrap();
        assert_eq!(listeners(&scrape, &inode), expected);
        assert_eq!(scrape.sum("tracer_tcp_listener_sockets", &labels), u64::from(plan.listeners));
        let open = scrape.rows("tracer_tcp_listener_open_files", &labels).map(Sample::count).max();
        assert!(open >= Some(u64::from(plan.listeners + plan.copies)), "{open:?} open files");
        let counted = scrape.sum("tracer_tcp_sockets", &[("netns", &inode), ("state", "LISTEN")]);
        assert_eq!(counted, u64::from(plan.listeners), "sockets that listen");
    }
}

/// A walk looks at each descriptor once, so it takes no longer than whoever lists the same ones in /proc.
fn assert_cheap(agent: &Agent, netns: &Netns, what: &str) {
    let (mut walk, mut list) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        agent.await_pass();
        let took = agent.scrape().one("tracer_pass_duration_seconds", &[("pass", "listeners")]).unwrap();
        walk = walk.min(Duration::from_secs_f64(took));
        let begin = Instant::now();
        let listed = list_descriptors(netns);
        list = list.min(begin.elapsed());
        println!("{what}: the walk took {walk:?}, a list of {listed} descriptors {list:?}");
    }
    // On an emulated processor programs take longer than system calls, which says nothing of a real one.
    assert!(walk < list || is_slow(), "{what}: the walk took {walk:?}, a list {list:?}");
}

/// Lists the descriptors of all processes in the namespace; gives their number.
fn list_descriptors(netns: &Netns) -> usize {
    let inode = format!("net:[{}]", netns.inode());
    let is_inside =
        |process: &PathBuf| fs::read_link(process.join("ns/net")).is_ok_and(|link| link.as_os_str() == &*inode);
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).filter(is_inside);
    processes.filter_map(|process| Some(fs::read_dir(process.join("fd")).ok()?.count())).sum()
}

fn play(plan: Plan, what: &str) {
    // On a slow machine a tenth of it: processes take their time to be made there.
    let part = if is_slow() { 10 } else { 1 };
    let plan = Plan { copies: plan.copies / part, forks: plan.forks / part, ..plan };
    let _lab = Lab::enter(&[Signal::ListenerPass]);
    let netns = Netns::single();
    let cgroup = MemoryCgroup::make();
    let agent = Agent::confined(cgroup.as_ref(), PASS_INTERVAL, &[]);
    let held = multiply(&netns, plan);
    until("all listeners", LIMIT, || {
        agent.await_pass();
        equal("listeners", &listeners(&agent.scrape(), &netns.inode()), &usize::try_from(plan.listeners).unwrap())
    });
    assert_figures(&agent, &netns, plan);
    assert_within_memory(&agent, cgroup.as_ref(), what);
    assert_cheap(&agent, &netns, what);
    drop(held);
}

/// More listeners than rows, asked for by three at once, each of whom reads what it is given.
#[test]
fn three_scrapes_of_twenty_thousand_listeners() {
    const EACH: u16 = 7_000;
    let _lab = Lab::enter(&[Signal::ListenerPass]);
    let netns = Netns::single();
    let cgroup = MemoryCgroup::make();
    let agent = Agent::confined(cgroup.as_ref(), Duration::from_secs(1), &[]);
    let _herds = [2, 3, 4].map(|host| Herd::start(&netns, Ipv4Addr::new(127, 0, 0, host), PORT, EACH, 1));
    agent.await_two_passes();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for scrape in [0; 3].map(|_| scope.spawn(|| agent.scrape().bytes())) {
                println!("a scrape of {} bytes", scrape.join().unwrap());
            }
        });
    }
    assert_within_memory(&agent, cgroup.as_ref(), "20 000 listeners, three scrapes at once");
}

/// Made by a user without rights, each with a user namespace around it and one process inside.
const NAMESPACES: &str = r#"
my ($count, $life_s) = @ARGV;
$0 = "namespaces"; alarm $life_s;
pipe(my $end, my $held) or die "pipe: $!";
POSIX::setgid(65534); POSIX::setuid(65534);
for (1 .. $count) {
    my $pid = fork(); die "fork: $!" unless defined $pid;
    next if $pid;
    close $held; alarm $life_s;
    # unshare(CLONE_NEWUSER | CLONE_NEWNET)
    syscall($ARGV[2], 0x50000000) == 0 or POSIX::_exit(1);
    POSIX::read(fileno $end, my $line, 1); POSIX::_exit(0);
}
print "ready\n";
POSIX::read(0, my $line, 1);
"#;

#[test]
fn namespaces_of_an_ordinary_user() {
    let count: usize = if is_slow() { 300 } else { 5_000 };
    let _lab = Lab::enter(&[]);
    let netns = Netns::single();
    let cgroup = MemoryCgroup::make();
    let unshare = libc::SYS_unshare.to_string();
    let _held = Script::start(&netns, &format!("use POSIX ();{NAMESPACES}"), &[&count.to_string(), "600", &unshare]);
    let agent = Agent::confined(cgroup.as_ref(), PASS_INTERVAL, &[]);
    agent.await_two_passes();
    until("all namespaces", LIMIT, || {
        let scrape = agent.scrape();
        let seen = scrape.rows("tracer_netns_info", &[]).count();
        if seen < count {
            return Err(format!("{seen} namespaces"));
        }
        // Beyond the first thousand no count of zero is shown, and that is said.
        let beyond = scrape.one("tracer_pass_obstacles", &[("reason", "many_namespaces")])?;
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let expected = seen.saturating_sub(1_000) as f64;
        equal("beyond the first thousand", &beyond, &expected)
    });
    println!("{count} namespaces: a scrape of {} bytes", agent.scrape().bytes());
    let resident = agent.peak_memory_bytes();
    println!("{count} namespaces: {:.1} MB resident at most", resident / 1e6);
    if let Some(peak) = cgroup.as_ref().and_then(MemoryCgroup::peak_bytes) {
        println!("{count} namespaces: {} kB charged at most", peak / 1000);
    }
    // It lives in its 128 MiB, though passes and scrapes meet all the time here; docs/reliability.md has what they take
    // as they usually come.
    agent.assert_sound();
}

#[test]
fn copies_of_descriptors() {
    let plan = Plan { first_port: PORT, listeners: 2, copies: 19_800, forks: 30 };
    play(plan, "19 800 copies in 31 processes");
}

#[test]
fn processes_that_hold_many_listeners() {
    let plan = Plan { first_port: PORT, listeners: 900, copies: 0, forks: 600 };
    play(plan, "900 listeners in 601 processes");
}
