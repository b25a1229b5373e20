//! Connections whose listener has another address than they: TPROXY, as meshes redirect, and programs of the kind
//! sk_lookup. They count for the listener that they come to, and what is sent again on them bears the listener's port
//! and none that a client chose.
//!
//! And listeners that were reloaded while the agent started.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::firewall::Firewall;
use crate::lab::machine::machine;
use crate::lab::netns::{Netns, Pair, SERVER_V4, SERVER_V6};
use crate::lab::rungs::{Drops, Signal};
use crate::lab::script::Script;
use crate::lab::setting::lift_memlock_limit;
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::{equal, until};

const PROXY_PORT: u16 = 15001;
const CALLED_PORT: u16 = 8080;
const PASS_INTERVAL: Duration = Duration::from_millis(200);
const SCRAPES: Duration = Duration::from_secs(10);
const ACCEPTED: &str = "tracer_tcp_accepted_connections_total";
const RETRANSMITS: &str = "tracer_tcp_retransmitted_segments_total";
const NO_HOOKS_ON_DROPS: &[&str] = &["--disable-hooks", "fentry,kprobe,packet"];

/// A proxy: accepts one connection for each line, and sends on all of them when it is told `send`. Given the number of
/// bpf(2), it has a program of its own give it every connection of its namespace, else it is transparent.
const PROXY: &str = r#"
my ($family, $address, $port, $bpf) = @ARGV;
$0 = "proxy";
my $v6 = $family == 6;
socket(my $listener, $v6 ? PF_INET6 : PF_INET, SOCK_STREAM, 6) or die "socket: $!";
if (!$bpf) { setsockopt($listener, $v6 ? 41 : 0, $v6 ? 75 : 19, pack("i", 1)) or die "IP_TRANSPARENT: $!"; }
my $to = Socket::inet_pton($v6 ? AF_INET6 : AF_INET, $address);
bind($listener, $v6 ? Socket::pack_sockaddr_in6($port, $to) : pack_sockaddr_in($port, $to)) or die "bind: $!";
listen($listener, 64) or die "listen: $!";
sub bpf {
    my ($command, $attributes) = @_;
    my $result = syscall($bpf + 0, $command, $attributes, length $attributes);
    $result >= 0 or die "bpf $command: $!";
    $result;
}
if ($bpf) {
    my $map = bpf(0, pack("L4", 15, 4, 8, 1));  # BPF_MAP_TYPE_SOCKMAP
    my ($key, $value, $license) = (pack("L", 0), pack("Q", fileno $listener), "GPL");
    bpf(2, pack("L x4 P4 P8 Q", $map, $key, $value, 0));
    my @program = (
        [0xbf, 0x16, 0, 0],                                  # r6 = the context
        [0x62, 0x0a, -4, 0], [0xbf, 0xa2, 0, 0], [0x07, 0x02, 0, -4],
        [0x18, 0x11, 0, $map], [0, 0, 0, 0], [0x85, 0, 0, 1],   # r0 = bpf_map_lookup_elem(map, &0)
        [0x15, 0x00, 7, 0], [0xbf, 0x07, 0, 0],              # none: pass; else r7 = the listener
        [0xbf, 0x61, 0, 0], [0xbf, 0x72, 0, 0], [0xb7, 0x03, 0, 0], [0x85, 0, 0, 124],  # bpf_sk_assign
        [0xbf, 0x71, 0, 0], [0x85, 0, 0, 86],                # bpf_sk_release
        [0xb7, 0x00, 0, 1], [0x95, 0, 0, 0]);                # SK_PASS
    my $instructions = join "", map { pack "C C s l", @$_ } @program;
    # BPF_PROG_TYPE_SK_LOOKUP, to be attached as BPF_SK_LOOKUP.
    my $program = bpf(5, pack("L L P P4 x44 L", 30, scalar @program, $instructions, $license, 36));
    open(my $netns, "<", "/proc/self/ns/net") or die "netns: $!";
    our $link = bpf(28, pack("L4", $program, fileno $netns, 36, 0));
}
print "ready\n";
my @connections;
while (<STDIN>) {
    if (/send/) { for my $connection (@connections) { syswrite($connection, "x") or die "write: $!"; } print "sent\n"; next; }
    accept(my $connection, $listener) or die "accept: $!"; push @connections, $connection; print "accepted\n";
}
"#;

/// Who gives the proxy connections to another port.
enum By {
    Tproxy,
    SkLookup,
}

/// Ten connections to another port than the proxy's. `bound`: where the proxy listens.
fn counts_for_the_proxy(by: &By, called: IpAddr, bound: &str, flags: &[&str], is_older: bool) {
    let _lab = Lab::enter(&[Signal::Connections, Signal::ListenDrops, Signal::Retransmits]);
    let pair = Pair::new();
    let (server, family) = (&pair.server, if called.is_ipv6() { "6" } else { "4" });
    let target = match (bound, called.is_ipv6()) {
        ("127.0.0.1", _) => "ip to 127.0.0.1",
        ("::1", _) => "ip6 to [::1]",
        (_, false) => "ip to ",
        (_, true) => "ip6 to ",
    };
    let rule = format!("tcp dport {CALLED_PORT} tproxy {target}:{PROXY_PORT}");
    let (_redirect, bpf) = match by {
        By::Tproxy => (Some(Firewall::redirect(server, &rule)), String::new()),
        By::SkLookup => {
            lift_memlock_limit();
            (None, libc::SYS_bpf.to_string())
        }
    };
    let arguments = [family, bound, &PROXY_PORT.to_string(), &bpf];
    let older = is_older.then(|| Script::start(server, PROXY, &arguments));
    let watch = Watch::from_now(server);
    let clients_watch = Watch::from_now(&pair.client);
    let agent = Agent::with(PASS_INTERVAL, flags);
    let mut proxy = older.unwrap_or_else(|| Script::start(server, PROXY, &arguments));
    agent.await_two_passes();

    let to = SocketAddr::from((called, CALLED_PORT));
    let mut connections: Vec<_> = (0..10)
        .map(|_| {
            let client = Client::connect(&pair.client, to);
            proxy.tell("", "accepted");
            client.into_stream()
        })
        .collect();
    assert_closes(&agent, &[&watch, &clients_watch]);
    assert_eq!(watch.delta("PassiveOpens"), 10);
    let inode = watch.inode.clone();
    let netns = ("netns", inode.as_str());
    // The caller of listen() is known to an agent that was there, or by a walk over descriptors.
    let process = if agent.rungs().tells_holders() || !is_older { "proxy" } else { "" };
    let own = [netns, ("process", process), ("address", bound), ("port", "15001")];
    // A child that shows its own address when it is born leads back to its listener by a hook on its way alone.
    let is_told = agent.rungs().drops != Drops::Totals || machine().kernel < (6, 14, 0);
    let scrape = agent.scrape();
    let told = [scrape.sum(ACCEPTED, &own), scrape.sum(ACCEPTED, &[netns]) - scrape.sum(ACCEPTED, &own)];
    let expected = if is_told { [10, 0] } else { [0, 10] };
    assert_eq!(told, expected, "for the proxy, and for others\n{}", scrape.show(ACCEPTED, &[netns]));

    // Nothing of what the proxy sends arrives any more, so it is sent again.
    let loss = Firewall::install(&pair.client, "input", &format!("tcp sport {CALLED_PORT} drop"));
    proxy.tell("send", "sent");
    until("segments sent again", SCRAPES, || match watch.delta("RetransSegs") {
        10.. => Ok(()),
        segments => Err(format!("{segments}")),
    });
    drop(loss);
    for connection in &mut connections {
        connection.read_exact(&mut [0]).unwrap();
    }
    assert_closes(&agent, &[&watch, &clients_watch]);
    let scrape = agent.scrape();
    let called = CALLED_PORT.to_string();
    // A transparent socket's own port is the one that was called, whatever it is, and so it is no label. Another's is.
    let port = match by {
        _ if is_told => "15001",
        By::Tproxy => "",
        By::SkLookup => &called,
    };
    let all = [netns];
    // A SYN-ACK that was sent again is its listener's in any case.
    let rows = scrape.rows(RETRANSMITS, &all).filter(|row| row.count() > 0 && row.label("cause") != "syn");
    let odd: Vec<_> = rows.filter(|row| (row.label("role"), row.label("port")) != ("server", port)).collect();
    assert!(odd.is_empty(), "{odd:#?}");
    connections[0].write_all(b"x").unwrap();
}

#[test]
fn tproxy_to_one_address() {
    counts_for_the_proxy(&By::Tproxy, SERVER_V4, "127.0.0.1", &[], false);
}

#[test]
fn tproxy_to_any_address() {
    counts_for_the_proxy(&By::Tproxy, SERVER_V4, "0.0.0.0", &[], true);
}

#[test]
fn tproxy_over_ipv6() {
    counts_for_the_proxy(&By::Tproxy, SERVER_V6, "::1", &[], true);
}

#[test]
fn tproxy_to_any_ipv6_address() {
    counts_for_the_proxy(&By::Tproxy, SERVER_V6, "::", &[], false);
}

#[test]
fn tproxy_on_the_lowest_rung() {
    counts_for_the_proxy(&By::Tproxy, SERVER_V4, "127.0.0.1", NO_HOOKS_ON_DROPS, true);
}

#[test]
fn sk_lookup_to_one_address() {
    counts_for_the_proxy(&By::SkLookup, SERVER_V4, "127.0.0.1", &[], false);
}

#[test]
fn sk_lookup_over_ipv6() {
    counts_for_the_proxy(&By::SkLookup, SERVER_V6, "::1", &[], true);
}

#[test]
fn sk_lookup_on_the_lowest_rung() {
    counts_for_the_proxy(&By::SkLookup, SERVER_V4, "127.0.0.1", NO_HOOKS_ON_DROPS, true);
}

/// Knocks at a listener whose queue is full, again and again, until told to stop.
fn knock(netns: &Netns, to: SocketAddr, is_over: &AtomicBool) {
    netns.run(|| {
        while !is_over.load(Ordering::Relaxed) {
            drop(Client::connect_here(to));
            std::thread::sleep(Duration::from_micros(200));
        }
    });
}

/// Says that it is over, also where a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The listener drops while the agent starts, so that its row is older than the first pass; then others open before
/// it closes.
fn counts_after_a_reload(flags: &[&str]) {
    let _lab = Lab::enter(&[Signal::Connections, Signal::ListenDrops, Signal::ListenerPass]);
    let netns = Netns::single();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, CALLED_PORT));
    let bound = SocketAddr::from((Ipv4Addr::UNSPECIFIED, CALLED_PORT));
    let mut listeners = [(); 2].map(|()| Listener::open_shared(&netns, bound, 0));
    let is_over = AtomicBool::new(false);
    let agent = std::thread::scope(|scope| {
        scope.spawn(|| knock(&netns, to, &is_over));
        let _over = Over(&is_over);
        Agent::with(PASS_INTERVAL, flags)
    });
    for _ in 0..3 {
        // The newer ones open before the older ones close.
        listeners = [(); 2].map(|()| Listener::open_shared(&netns, bound, 64));
        let clients = Client::connect_many(&netns, to, 5);
        for client in clients {
            drop(client.into_stream());
        }
    }
    let inode = netns.inode();
    let netns = ("netns", inode.as_str());
    let own = [netns, ("address", "0.0.0.0"), ("port", "8080")];
    until("the accepted connections", SCRAPES, || {
        let scrape = agent.scrape();
        let all = scrape.sum(ACCEPTED, &[netns]);
        if all < 15 {
            return Err(format!("{all} of 15"));
        }
        equal("accepted by the listener", &scrape.sum(ACCEPTED, &own), &all)
            .map_err(|error| format!("{error}\n{}", scrape.show(ACCEPTED, &[netns])))
    });
    drop(listeners);
}

#[test]
fn reload_of_a_listener_that_dropped_before_the_first_pass() {
    counts_after_a_reload(&[]);
}

#[test]
fn such_a_reload_on_the_lowest_rung() {
    counts_after_a_reload(NO_HOOKS_ON_DROPS);
}
