//! Full accept queues: `listen(5)` and nobody accepts. Which listener drops, how many, under which
//! name.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use crate::lab::agent::Agent;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::drops::{ACCEPT_QUEUE_FULL, ACCEPT_QUEUE_FULL_SYN, assert_drops, drops_are};
use crate::lab::equations::{DROPS, as_value};
use crate::lab::foreign::{ForeignListener, Plan};
use crate::lab::machine::machine;
use crate::lab::netns::{Netns, Pair, SERVER_V4, SERVER_V6};
use crate::lab::rungs::{Drops, Signal};
use crate::lab::scrape::Scrape;
use crate::lab::sockets::{Client, ESTABLISHED, Listener, SYN_SENT, accept_queues, clients_in_state};
use crate::lab::wait::{equal, until};
use crate::lab::{Lab, own_process_name};

const PORT: u16 = 8080;
/// Clients retry their SYN after one second, and again after one more.
const RETRIES: Duration = Duration::from_secs(4);
const SCRAPES: Duration = Duration::from_secs(5);

/// The labels that name a listener.
struct Name {
    netns: String,
    process: String,
    address: String,
    port: String,
}

impl Name {
    fn new(netns: &Netns, process: &str, bound: SocketAddr) -> Self {
        let (address, port) = (bound.ip().to_string(), bound.port().to_string());
        Self { netns: netns.inode(), process: process.to_owned(), address, port }
    }

    fn labels(&self) -> [(&str, &str); 4] {
        [("netns", &self.netns), ("process", &self.process), ("address", &self.address), ("port", &self.port)]
    }

    /// Drops of the listener for any of these reasons.
    #[track_caller]
    fn assert_drops(&self, agent: &Agent, reasons: &[&str], count: u64) {
        assert_drops(agent, &self.labels(), &[(reasons, count)]);
    }

    /// A row of the listener that there is before it counts anything.
    fn has_rows(&self, agent: &Agent) -> Result<(), String> {
        let [netns, process, address, port] = self.labels();
        let scrape = agent.scrape();
        let row = match agent.rungs().drops {
            Drops::Outcomes | Drops::Packets => {
                scrape.one(DROPS, &[netns, process, address, port, ("reason", "accept_queue_full_syn")])
            }
            Drops::Totals => scrape.one("tracer_tcp_accepted_connections_total", &self.labels()),
        };
        row.map(drop)
    }

    /// One gauge of the listener.
    fn gauge(&self, scrape: &Scrape, metric: &str, expected: u64) -> Result<(), String> {
        equal(metric, &scrape.one(metric, &self.labels())?, &as_value(expected))
    }

    /// A queue for 5 that holds 6.
    fn is_full_queue_of_5(&self, scrape: &Scrape) -> Result<(), String> {
        self.gauge(scrape, "tracer_tcp_accept_queue_length", 6)?;
        self.gauge(scrape, "tracer_tcp_accept_queue_limit", 5)?;
        self.gauge(scrape, "tracer_tcp_accept_queue_peak", 6)?;
        self.gauge(scrape, "tracer_tcp_listener_sockets", 1)?;
        self.gauge(scrape, "tracer_tcp_accepted_connections_total", 6)
    }
}

/// Closes the clients that got no answer, so that they retry no more.
fn give_up(clients: &mut Vec<Client>) {
    clients.retain_mut(|client| client.result() == Some(Ok(())));
}

fn wait_for_drops(watch: &Watch<'_>, at_least: u64) {
    until("drops", RETRIES, || match watch.delta("ListenDrops") {
        drops if drops >= at_least => Ok(()),
        drops => Err(format!("ListenDrops {drops} of {at_least}")),
    });
}

/// The documented experiment: 20 clients, a queue for 5, so 6 get in and 14 keep trying.
fn overflow(clients_in: &Netns, server: &Netns, bound: SocketAddr, to: SocketAddr) {
    let watch = Watch::from_now(server);
    let clients_watch = Watch::from_now(clients_in);
    let watches = if watch.inode == clients_watch.inode { vec![&watch] } else { vec![&watch, &clients_watch] };
    let agent = Agent::start();
    let listener = Listener::open(server, bound, 5);
    let name = Name::new(server, &own_process_name(), bound);
    until("the listener's rows", SCRAPES, || name.has_rows(&agent));

    let mut clients = Client::connect_many(clients_in, to, 20);
    wait_for_drops(&watch, 28);
    assert_eq!(clients_in_state(clients_in, to.port(), ESTABLISHED), 6);
    assert_eq!(clients_in_state(clients_in, to.port(), SYN_SENT), 14);
    until("the gauges", SCRAPES, || name.is_full_queue_of_5(&agent.scrape()));
    give_up(&mut clients);

    assert_closes(&agent, &watches);
    let drops = watch.delta("ListenDrops");
    assert_eq!(watch.delta("ListenOverflows"), drops);
    name.assert_drops(&agent, ACCEPT_QUEUE_FULL_SYN, drops);

    // One listener, one set of labels: also where it is bound to more than the address called.
    let scrape = agent.scrape();
    let in_namespace = [("netns", name.netns.as_str()), ("reason", "accept_queue_full_syn")];
    let rows = usize::from(agent.rungs().drops != Drops::Totals);
    assert_eq!(scrape.rows(DROPS, &in_namespace).count(), rows, "{}", scrape.show("", &in_namespace[..1]));

    // The counts outlive the listener.
    drop((clients, listener));
    assert_closes(&agent, &watches);
}

#[test]
fn listen_5_over_loopback() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let netns = Netns::single();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    overflow(&netns, &netns, address, address);
}

#[test]
fn listen_5_over_veth() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let pair = Pair::new();
    overflow(
        &pair.client,
        &pair.server,
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
        SocketAddr::from((SERVER_V4, PORT)),
    );
}

#[test]
fn listen_5_over_ipv6() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let pair = Pair::new();
    let address = SocketAddr::from((SERVER_V6, PORT));
    overflow(&pair.client, &pair.server, address, address);
}

#[test]
fn ipv4_client_of_an_ipv6_listener() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let pair = Pair::new();
    overflow(
        &pair.client,
        &pair.server,
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)),
        SocketAddr::from((SERVER_V4, PORT)),
    );
}

#[test]
fn two_listeners_drop_at_once_and_keep_their_names() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();

    let own_address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let own = Listener::open(&netns, own_address, 5);
    // A name that has to be escaped in a label.
    let odd = "a\"b\\c\nd";
    let odd_address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT + 1);
    let foreign = ForeignListener::start(
        &netns,
        &Plan { process: odd, address: odd_address, backlog: 2, defer_accept_s: 0, cgroup: "" },
    );

    // Turn and turn about, and before anyone tries again.
    let mut clients: Vec<Client> = (0..10)
        .flat_map(|_| [own_address, SocketAddr::V4(odd_address)])
        .map(|to| Client::connect(&netns, to))
        .collect();
    give_up(&mut clients);
    assert_eq!(watch.delta("ListenDrops"), 4 + 7);

    assert_closes(&agent, &[&watch]);
    let scrape = agent.scrape();
    let own_name = Name::new(&netns, &own_process_name(), own_address);
    let odd_name = Name::new(&netns, odd, SocketAddr::V4(odd_address));
    own_name.assert_drops(&agent, ACCEPT_QUEUE_FULL_SYN, 4);
    odd_name.assert_drops(&agent, ACCEPT_QUEUE_FULL_SYN, 7);
    let length = "tracer_tcp_accept_queue_length";
    own_name.gauge(&scrape, length, 6).unwrap();
    odd_name.gauge(&scrape, length, 3).unwrap();
    drop((clients, own));
    foreign.exit();
}

#[test]
fn reuseport_group_of_which_one_is_full_and_one_closes() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let name = Name::new(&netns, &own_process_name(), address);
    let [_full, served, closing] = std::array::from_fn(|_| Listener::open_shared(&netns, address, 3));

    // The kernel spreads clients by hash: come until each of the three queues is full.
    let mut clients = Vec::new();
    while accept_queues(&netns, PORT) != [4, 4, 4] {
        clients.push(Client::connect(&netns, address));
        assert!(clients.len() < 300, "queues {:?}", accept_queues(&netns, PORT));
    }
    clients.extend(Client::connect_many(&netns, address, 10));
    until("three sockets", SCRAPES, || name.gauge(&agent.scrape(), "tracer_tcp_listener_sockets", 3));
    drop(closing);
    let mut taken: Vec<_> = std::iter::from_fn(|| served.accept()).collect();
    assert_eq!(taken.len(), 4);
    // Those that were turned away come again, to the full one or to the served one.
    std::thread::sleep(Duration::from_millis(1500));
    taken.extend(std::iter::from_fn(|| served.accept()));
    give_up(&mut clients);

    assert_closes(&agent, &[&watch]);
    let scrape = agent.scrape();
    assert!(watch.delta("ListenDrops") >= 10);
    name.assert_drops(&agent, ACCEPT_QUEUE_FULL, watch.delta("ListenDrops"));
    name.gauge(&scrape, "tracer_tcp_listener_sockets", 2).unwrap();
    name.gauge(&scrape, "tracer_tcp_accept_queue_length", 4).unwrap();
    name.gauge(&scrape, "tracer_tcp_accept_queue_limit", 3).unwrap();
}

#[test]
fn listener_that_lives_between_two_passes() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::with(Duration::from_secs(3), &[]);
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT);
    let process = "one-second";
    let foreign = ForeignListener::start(&netns, &Plan { process, address, backlog: 2, defer_accept_s: 0, cgroup: "" });
    let clients = Client::connect_many(&netns, SocketAddr::V4(address), 10);
    std::thread::sleep(Duration::from_secs(1));
    drop(clients);
    foreign.exit();

    let kernel = watch.delta("ListenDrops");
    assert!(kernel >= 7, "ListenDrops {kernel}");
    let name = Name::new(&netns, process, SocketAddr::V4(address));
    until("the drops of a listener that is gone", SCRAPES, || {
        drops_are(&agent, &name.labels(), &[(ACCEPT_QUEUE_FULL_SYN, kernel)])
    });
    assert_closes(&agent, &[&watch]);
}

#[test]
fn limit_follows_a_second_listen() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let name = Name::new(&netns, &own_process_name(), address);
    let listener = Listener::open(&netns, address, 5);
    let mut clients = Client::connect_many(&netns, address, 14);
    until("the queue of five", SCRAPES, || name.is_full_queue_of_5(&agent.scrape()));

    listener.listen_again(9);
    // At their next try four of the eight find room. They come together: the others may be turned
    // away at their SYN or at their last ACK.
    until("the queue of nine", SCRAPES, || {
        let scrape = agent.scrape();
        name.gauge(&scrape, "tracer_tcp_accept_queue_limit", 9)?;
        name.gauge(&scrape, "tracer_tcp_accept_queue_length", 10)
    });
    wait_for_drops(&watch, 8 + 4);
    give_up(&mut clients);
    assert_closes(&agent, &[&watch]);
    // Handshakes that were under way may be turned away once more between the kernel's count and the scrape.
    until("the listener's drops", SCRAPES, || {
        drops_are(&agent, &name.labels(), &[(ACCEPT_QUEUE_FULL, watch.delta("ListenDrops"))])
    });
}

#[test]
fn series_of_a_closed_listener_retire_with_their_counts() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    let watch = Watch::from_now(&netns);
    let agent = Agent::with(Duration::from_millis(200), &["--retain", "1s"]);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let name = Name::new(&netns, &own_process_name(), address);
    let listener = Listener::open(&netns, address, 5);
    drop(Client::connect_many(&netns, address, 20));
    assert_closes(&agent, &[&watch]);
    name.assert_drops(&agent, ACCEPT_QUEUE_FULL_SYN, 14);

    drop(listener);
    until("the series to be removed", SCRAPES, || {
        let rows = agent.scrape().with(&name.labels()).count();
        equal("rows of the listener", &rows, &0)
    });
    let scrape = agent.scrape();
    let retired = scrape.sum("tracer_retired_total", &[("signal", "listen_drops")]);
    match agent.rungs().drops {
        Drops::Outcomes | Drops::Packets => assert_eq!(retired, 14),
        // What was not given to the listener stays with its namespace.
        Drops::Totals => assert_eq!(retired + scrape.sum(DROPS, &[("netns", &watch.inode)]), 14),
    }
    assert_closes(&agent, &[&watch]);
}

/// Such a port is given back before the listener's last change of state.
#[test]
fn a_port_that_the_kernel_chose_closes_with_its_listener() {
    let _lab = Lab::enter(&[Signal::Connections, Signal::ListenerPass]);
    let netns = Netns::single();
    let agent = Agent::start();
    let chosen = Listener::open(&netns, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 5);
    let address = chosen.address();
    drop(chosen);
    // A child's own address is looked for first: that listener is closed.
    let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    let listener = Listener::open(&netns, wildcard, 5);
    let client = Client::connect(&netns, address).into_stream();
    let name = Name::new(&netns, &own_process_name(), wildcard);
    until("the accepted connection", SCRAPES, || {
        name.gauge(&agent.scrape(), "tracer_tcp_accepted_connections_total", 1)
    });
    drop((client, listener));
}

/// `listen()` without `bind()`: the port is not known yet when the state changes.
#[test]
fn no_listener_has_port_zero() {
    let _lab = Lab::enter(&[Signal::ListenerPass]);
    let netns = Netns::single();
    let agent = Agent::start();
    let listener = Listener::unbound(&netns, 5);
    // Only walks over files tell who holds it, and those are from 5.11 on.
    let process = if machine().kernel >= (5, 11, 0) { own_process_name() } else { String::new() };
    let name = Name::new(&netns, &process, listener.address());
    until("the listener", SCRAPES, || name.gauge(&agent.scrape(), "tracer_tcp_listener_sockets", 1));
    assert_eq!(agent.scrape().with(&[("netns", &name.netns), ("port", "0")]).count(), 0);
}
