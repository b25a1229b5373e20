//! What `/proc` tells of room that runs out: descriptors, windows, SYN cookies, ports, settings, and the
//! figures of the node. Each equals what the test reads itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::{Counters, Watch};
use crate::lab::descriptors::have_descriptors;
use crate::lab::equations::{DROPS, as_value};
use crate::lab::firewall::Firewall;
use crate::lab::greedy::GreedyServer;
use crate::lab::load::Connection;
use crate::lab::netns::{Netns, Pair, SERVER_V4};
use crate::lab::proc::{Figures, node, node_rows, rows_are_the_kernels};
use crate::lab::raw::{ACK, RawSender, spoofed};
use crate::lab::rungs::Signal;
use crate::lab::scrape::Scrape;
use crate::lab::sockets::{Client, Listener, SYN_SENT, accept_queues, clients_in_state};
use crate::lab::wait::{equal, until};

const PORT: u16 = 8100;
const LIMIT: Duration = Duration::from_secs(20);
/// For figures that other processes move: until they stand still for a pass.
const STILL_LIMIT: Duration = Duration::from_mins(1);

fn server() -> SocketAddrV4 {
    let IpAddr::V4(address) = SERVER_V4 else { panic!("an IPv4 address expected") };
    SocketAddrV4::new(address, PORT)
}

/// The soft limit of the documents' server, and of many a unit.
const NOFILE: u64 = 1024;
const BACKLOG: u32 = 64;

/// Connects, no faster than the server accepts, until it cannot.
fn exhaust(pair: &Pair, server: &GreedyServer, to: SocketAddr) -> (Vec<Client>, (usize, i32)) {
    let mut clients = Vec::new();
    loop {
        clients.extend(Client::connect_many(&pair.client, to, BACKLOG as usize / 2));
        let stopped = until("the server to accept", LIMIT, || match server.stopped() {
            None => equal("accept queues", &accept_queues(&pair.server, PORT), &vec![0]).map(|()| None),
            stopped => Ok(stopped),
        });
        if let Some(stopped) = stopped {
            return (clients, stopped);
        }
    }
}

#[test]
fn a_server_without_descriptors_lets_its_queue_overflow() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    // This process holds the clients: about as many as the server may have descriptors.
    have_descriptors(NOFILE + 1024);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let to = SocketAddr::from(server());
    let greedy = GreedyServer::start(&pair.server, "greedy", server(), BACKLOG, NOFILE);
    let (mut clients, (held, error)) = exhaust(&pair, &greedy, to);
    assert_eq!(error, Errno::MFILE.raw_os_error());
    assert_eq!(greedy.descriptors(), usize::try_from(NOFILE).unwrap(), "with {held} connections");
    assert_eq!(watch.delta("ListenDrops"), 0, "it kept up until then");

    clients.extend(Client::connect_many(&pair.client, to, 2 * BACKLOG as usize));
    assert!(clients_in_state(&pair.client, PORT, SYN_SENT) > 0);
    let listener = [("netns", watch.inode.as_str()), ("process", "greedy"), ("port", "8100")];
    until("descriptors and queue", LIMIT, || {
        let scrape = agent.scrape();
        for (metric, expected) in [
            ("tracer_tcp_listener_open_files", NOFILE),
            ("tracer_tcp_listener_open_files_limit", NOFILE),
            ("tracer_tcp_accept_queue_length", u64::from(BACKLOG) + 1),
            ("tracer_tcp_accept_queue_limit", u64::from(BACKLOG)),
        ] {
            equal(metric, &scrape.one(metric, &listener)?, &as_value(expected))?;
        }
        Ok(())
    });
    // Those that were turned away would come again, and be dropped again.
    clients.retain_mut(|client| client.result() == Some(Ok(())));
    assert_closes(&agent, &[&watch]);
    assert!(watch.delta("ListenDrops") > 0);
    assert_eq!(agent.scrape().sum(DROPS, &[("netns", &watch.inode)]), watch.delta("ListenDrops"));
}

/// Writes until no more fits.
fn fill(stream: &mut TcpStream) {
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0x5a; 16 << 10]).is_ok() {}
}

#[test]
fn a_receiver_that_does_not_read_closes_its_window() {
    let _lab = Lab::enter(&[]);
    let pair = Pair::new();
    let agent = Agent::start();
    let to = SocketAddr::from(server());
    let listener = Listener::open(&pair.server, to, 16);
    let mut connection = Connection::open(&pair, &listener, to);
    // What was written before may make room for more.
    until("the window to close", LIMIT, || {
        fill(&mut connection.client);
        let closed = Counters::read(&pair.server).get("TCPToZeroWindowAdv");
        match (closed, Counters::read(&pair.client).get("TCPWinProbe")) {
            (1.., 1..) => Ok(()),
            seen => Err(format!("TCPToZeroWindowAdv there, TCPWinProbe here: {seen:?}")),
        }
    });
    let namespaces = [&pair.client, &pair.server];
    // Probes go on, ever rarer.
    until("zero windows as the kernel counts them", LIMIT, || rows_are_the_kernels(&agent, &namespaces));

    connection.server.set_nonblocking(true).unwrap();
    until("the window to open", LIMIT, || {
        let mut buffer = vec![0; 64 << 10];
        while connection.server.read(&mut buffer).is_ok() {}
        match Counters::read(&pair.server).get("TCPFromZeroWindowAdv") {
            1.. => Ok(()),
            _ => Err("it is still closed".to_owned()),
        }
    });
    until("open windows as the kernel counts them", LIMIT, || rows_are_the_kernels(&agent, &namespaces));
    let scrape = agent.scrape();
    let seen = |netns: &Netns, direction| {
        scrape.sum("tracer_tcp_zero_window_total", &[("netns", &netns.inode()), ("direction", direction)])
    };
    assert!(seen(&pair.server, "to_zero") > 0 && seen(&pair.server, "from_zero") > 0);
    assert_eq!((seen(&pair.client, "to_zero"), seen(&pair.server, "peer_probe")), (0, 0), "the other side's");
}

#[test]
fn cookies_are_counted_as_sent_received_and_failed() {
    const SYNS: u16 = 40;
    const RETURNED: usize = 3;
    const FORGED: u16 = 4;
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    pair.server.set_tcp("tcp_syncookies", "2");
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let _listener = Listener::open(&pair.server, SocketAddr::from(server()), 64);
    let raw = RawSender::open(&pair.client);
    raw.flood(server(), SYNS);
    let clients = Client::connect_many(&pair.client, SocketAddr::from(server()), RETURNED);
    let connected: Vec<_> = clients.into_iter().map(Client::into_stream).collect();
    for number in 0..FORGED {
        raw.send(spoofed(number), server(), ACK);
    }
    until("cookies as the kernel counts them", LIMIT, || rows_are_the_kernels(&agent, &[&pair.server]));
    let scrape = agent.scrape();
    let cookies = |result| scrape.sum("tracer_tcp_syn_cookies_total", &[("netns", &watch.inode), ("result", result)]);
    let returned = u64::try_from(RETURNED).unwrap();
    let expected = (u64::from(SYNS) + returned, returned, u64::from(FORGED));
    assert_eq!((cookies("sent"), cookies("received"), cookies("failed")), expected);
    assert_closes(&agent, &[&watch]);
    drop(connected);
}

#[test]
fn aborts_are_counted_by_what_ended_the_connection() {
    let _lab = Lab::enter(&[]);
    let pair = Pair::new();
    let agent = Agent::start();
    for (name, value) in [("tcp_keepalive_time", "1"), ("tcp_keepalive_intvl", "1"), ("tcp_keepalive_probes", "1")] {
        pair.client.set_tcp(name, value);
    }
    let to = SocketAddr::from(server());
    let listener = Listener::open(&pair.server, to, 16);
    // SO_LINGER with 0 seconds.
    let lingering = Connection::open(&pair, &listener, to);
    sockopt::set_socket_linger(&lingering.client, Some(Duration::ZERO)).unwrap();
    drop(lingering);
    // Closed with data unread.
    let mut unread = Connection::open(&pair, &listener, to);
    unread.client.write_all(b"nobody reads this").unwrap();
    assert_eq!(unread.server.peek(&mut [0; 32]).unwrap(), 17);
    drop(unread.server);
    // Cut, and found dead by keepalive.
    let cut = Connection::open(&pair, &listener, to);
    sockopt::set_socket_keepalive(&cut.client, true).unwrap();
    let firewall = Firewall::install(&pair.client, "input", "meta l4proto tcp drop");
    until("keepalive to give up", LIMIT, || {
        equal("TCPAbortOnTimeout", &Counters::read(&pair.client).get("TCPAbortOnTimeout"), &1)
    });
    drop(firewall);
    until("aborts as the kernel counts them", LIMIT, || rows_are_the_kernels(&agent, &[&pair.client, &pair.server]));
    let scrape = agent.scrape();
    let aborts =
        |netns: &Netns, reason| scrape.sum("tracer_tcp_aborts_total", &[("netns", &netns.inode()), ("reason", reason)]);
    assert_eq!(aborts(&pair.client, "data"), 1);
    assert_eq!(aborts(&pair.server, "close"), 1);
    assert_eq!(aborts(&pair.client, "timeout"), 1);
    drop(cut);
}

/// What the rows of a namespace say, by name and index.
type Settings = BTreeMap<(String, String), f64>;

fn shown(scrape: &Scrape, netns: &str) -> Settings {
    let rows = scrape.rows("tracer_sysctl_value", &[]).filter(|row| row.label("netns") == netns);
    rows.map(|row| ((row.label("name").to_owned(), row.label("index").to_owned()), row.value)).collect()
}

/// The same as `/proc/sys` shows it to the calling thread.
#[expect(clippy::cast_precision_loss, reason = "as the exposition does")]
fn settings(names: &BTreeSet<String>) -> Settings {
    let mut settings = Settings::new();
    for name in names {
        let Ok(text) = std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))) else { continue };
        let numbers: Vec<f64> = text.split_whitespace().map(|word| word.parse::<i64>().unwrap() as f64).collect();
        for (index, number) in numbers.iter().enumerate() {
            let index = if numbers.len() == 1 { String::new() } else { index.to_string() };
            settings.insert((name.clone(), index), *number);
        }
    }
    settings
}

#[test]
fn settings_are_shown_where_they_differ_from_the_hosts() {
    let _lab = Lab::enter(&[]);
    let (changed, plain) = (Netns::single(), Netns::single());
    // One that differs from the host's, whatever that is.
    let host_reuse = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse").unwrap();
    let reuse = if host_reuse.trim() == "1" { "0" } else { "1" };
    for (name, value) in [("tcp_fin_timeout", "17"), ("tcp_rmem", "4096 65536 98765"), ("tcp_tw_reuse", reuse)] {
        changed.set_tcp(name, value);
    }
    let agent = Agent::start();
    let scrape = agent.scrape();
    let host = shown(&scrape, "host");
    let names: BTreeSet<String> = host.keys().map(|(name, _)| name.clone()).collect();
    for name in ["net.core.somaxconn", "net.ipv4.tcp_mem", "net.ipv4.tcp_rmem", "fs.file-max", "net.ipv4.tcp_retries2"]
    {
        assert!(names.contains(name), "{name} in {names:?}");
    }
    assert_eq!(host, settings(&names), "the host's, all of them");
    let of_netns = names.iter().filter(|name| name.starts_with("net.")).cloned().collect();
    // A setting of several numbers is shown whole where one of them differs.
    let differing = |netns: &Netns| {
        let own = netns.run(|| settings(&of_netns));
        let differs = |(name, index): &(String, String)| {
            host.get(&(name.clone(), index.clone())) != own.get(&(name.clone(), index.clone()))
        };
        let differing: BTreeSet<String> = own.keys().filter(|key| differs(key)).map(|(name, _)| name.clone()).collect();
        own.into_iter().filter(|((name, _), _)| differing.contains(name)).collect::<Settings>()
    };
    for netns in [&changed, &plain] {
        assert_eq!(shown(&scrape, &netns.inode()), differing(netns), "{}", netns.name());
    }
    let row = |name: &str, index: &str| (name.to_owned(), index.to_owned());
    assert_eq!(shown(&scrape, &changed.inode())[&row("net.ipv4.tcp_fin_timeout", "")].to_bits(), 17.0_f64.to_bits());
    assert!(!shown(&scrape, &plain.inode()).contains_key(&row("net.ipv4.tcp_fin_timeout", "")));

    // A change shows within a round of passes.
    plain.set_tcp("tcp_retries2", "9");
    until("the change", LIMIT, || {
        let retries = agent
            .scrape()
            .one("tracer_sysctl_value", &[("netns", &plain.inode()), ("name", "net.ipv4.tcp_retries2")])?;
        equal("tcp_retries2", &retries, &9.0)
    });
    let scrape = agent.scrape();
    let pass = |metric: &str| scrape.one(metric, &[("pass", "settings")]).unwrap();
    let interval = pass("tracer_pass_interval_seconds");
    assert!(interval >= 12.0 * agent.pass_interval.as_secs_f64() - 1e-9, "{interval}");
    // A pass may be late, and the turn of a namespace comes with passes.
    assert!(pass("tracer_pass_age_seconds") < 3.0 * interval + 10.0);
}

#[test]
fn ports_that_are_set_aside_are_not_available() {
    let _lab = Lab::enter(&[]);
    let (changed, plain) = (Netns::single(), Netns::single());
    changed.set_tcp("ip_local_port_range", "40000 40099");
    changed.set_tcp("ip_local_reserved_ports", "8080,39990-40009,40050");
    let agent = Agent::start();
    let available = |netns: &Netns| {
        agent.scrape().one("tracer_tcp_ephemeral_ports_available", &[("netns", &netns.inode())]).unwrap()
    };
    assert_eq!(available(&changed).to_bits(), 89.0_f64.to_bits());
    let range = plain.ephemeral_ports();
    assert_eq!(available(&plain).to_bits(), as_value(u64::from(range.end() - range.start()) + 1).to_bits());
}

#[test]
fn figures_of_the_node_are_those_of_proc() {
    let _lab = Lab::enter(&[]);
    let agent = Agent::start();
    let mut open: BTreeSet<String> = node().into_keys().collect();
    // Each figure has its turn when it stands still for a pass.
    until("each figure to stand still and be equal", STILL_LIMIT, || {
        let before = node();
        agent.await_pass();
        let rows = node_rows(&agent.scrape());
        let after = node();
        assert_eq!(rows.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        let bits = |figures: &Figures, name: &String| figures.get(name).map(|value| value.to_bits());
        let still =
            |name: &String| bits(&before, name) == bits(&after, name) && bits(&rows, name) == bits(&after, name);
        open.retain(|name| !still(name));
        let show =
            |name: &String| format!("{name}: {:?}, {:?}, {:?}", before.get(name), rows.get(name), after.get(name));
        if open.is_empty() { Ok(()) } else { Err(open.iter().map(show).collect::<Vec<_>>().join("\n")) }
    });
}
