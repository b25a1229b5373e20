//! `accept()` at the queue's edge: the queue fills and drains on both cores for seconds. A look at
//! the queue's length would miscount here; outcomes do not.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::closing::{CLOSING_LIMIT, Closing, account_of_drops, assert_closes};
use crate::lab::counters::Watch;
use crate::lab::drops::{ACCEPT_QUEUE_FULL, assert_drops};
use crate::lab::equations::TRANSITIONS;
use crate::lab::load::churn;
use crate::lab::netns::{Netns, Pair, SERVER_V4, SERVER_V6};
use crate::lab::rungs::{Drops, Signal};
use crate::lab::setting::is_slow;
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::{equal, until};

const PORT: u16 = 8083;
/// As many as there are cores; the accepting thread is one more.
const THREADS: usize = 2;
/// Small enough to be full most of the time, and above the few handshakes that are under way at
/// once, unless processors are slow: more of these than the backlog bring cookies into play.
const BACKLOG: i32 = 16;
const TIME: Duration = Duration::from_secs(3);
const ENOUGH_LIMIT: Duration = Duration::from_secs(10);

/// Some seconds of churn, or as long as it takes to get enough through and enough dropped.
fn churn_at_the_edge(clients: &Netns, listener: &Listener, address: SocketAddr, server: &Watch<'_>) {
    let mut accepted = 0;
    until("the queue's edge", ENOUGH_LIMIT, || {
        accepted += churn(clients, listener, address, THREADS, TIME);
        match (accepted, server.delta("ListenDrops")) {
            (101.., 101..) => Ok(()),
            seen => Err(format!("accepted and dropped: {seen:?}")),
        }
    });
}

fn edge(clients: &Netns, server: &Netns, address: SocketAddr) {
    let watch = Watch::from_now(server);
    let agent = Agent::start();
    let listener = Listener::open(server, address, BACKLOG);
    churn_at_the_edge(clients, &listener, address, &watch);
    let closing = Closing::at_the_edge(&agent, &[&watch]);
    closing.check();

    let drops = watch.delta("ListenDrops");
    if !is_slow() {
        assert_eq!(watch.delta("TCPReqQFullDoCookies"), 0, "no cookies may be in play");
    }
    assert_eq!(watch.delta("ListenOverflows"), drops);
    let labels = [("netns", watch.inode.as_str()), ("port", "8083")];
    if closing.is_exact() {
        assert_drops(&agent, &labels, &[(ACCEPT_QUEUE_FULL, drops)]);
    }
    let scrape = agent.scrape();
    // Those that the kernel did not show to the hook are nobody's.
    let unseen = scrape.sum(TRANSITIONS, &[("netns", &watch.inode), ("from", "unknown"), ("to", "SYN_RECV")]);
    assert_eq!(scrape.sum("tracer_tcp_accepted_connections_total", &labels) + unseen, watch.delta("PassiveOpens"));
}

#[test]
fn over_loopback() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let netns = Netns::single();
    edge(&netns, &netns, SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
}

#[test]
fn over_veth() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    edge(&pair.client, &pair.server, SocketAddr::from((SERVER_V4, PORT)));
}

#[test]
fn over_ipv6() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    edge(&pair.client, &pair.server, SocketAddr::from((SERVER_V6, PORT)));
}

/// Drops one after the other at a queue that stays full: whenever a pass looks, the last one may
/// not have been judged yet. Waiting to be judged is neither a difference nor of a reason unknown.
#[test]
fn one_by_one() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let address = SocketAddr::from((SERVER_V4, PORT));
    let _listener = Listener::open(&pair.server, address, 1);
    let queued: Vec<_> = Client::connect_many(&pair.client, address, 2).into_iter().map(Client::into_stream).collect();
    let drops = connect_in_vain(&pair.client, address);
    assert_closes(&agent, &[&watch]);
    assert_eq!(watch.delta("ListenDrops"), drops);
    drop(queued);
}

/// An agent that starts meanwhile cannot tell exactly what came before it, but its own account and
/// what it counts agree: it claims no drop that the kernel did not count.
#[test]
fn agents_that_start_amid_drops_close_as_well() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    let watch = Watch::from_now(&pair.server);
    let address = SocketAddr::from((SERVER_V4, PORT));
    let _listener = Listener::open(&pair.server, address, 1);
    let queued: Vec<_> = Client::connect_many(&pair.client, address, 2).into_iter().map(Client::into_stream).collect();
    let agents = std::thread::scope(|scope| {
        let clients = scope.spawn(|| connect_in_vain(&pair.client, address));
        let agents: Vec<_> = (0..4).map(|_| Agent::start()).collect();
        clients.join().unwrap();
        agents
    });
    for agent in &agents {
        until("the account", CLOSING_LIMIT, || {
            let [account, counted, difference] = account_of_drops(agent, &watch)?;
            equal("counted and difference", &(counted, difference), &(account, 0))
        });
    }
    drop(queued);
}

/// One SYN every few milliseconds, on one core or the other, to a queue that is full. Says how many.
fn connect_in_vain(clients: &Netns, to: SocketAddr) -> u64 {
    let deadline = Instant::now() + 2 * TIME;
    clients.run(|| {
        let mut count = 0;
        while Instant::now() < deadline {
            Client::connect_here(to).reset();
            count += 1;
            std::thread::sleep(Duration::from_millis(2));
        }
        count
    })
}

/// With cookies a hook that sees packets only cannot always tell outcomes. What it then says too
/// much or too little must show, to the unit, in `tracer_count_difference`.
#[test]
fn with_cookies_the_difference_is_shown() {
    let _lab = Lab::enter(&[Signal::ListenDrops]);
    let pair = Pair::new();
    pair.server.set_tcp("tcp_syncookies", "2");
    let watch = Watch::from_now(&pair.server);
    let agent = Agent::start();
    let address = SocketAddr::from((SERVER_V4, PORT));
    let listener = Listener::open(&pair.server, address, BACKLOG);
    churn_at_the_edge(&pair.client, &listener, address, &watch);
    assert!(watch.delta("SyncookiesRecv") > 100, "no cookies");
    match agent.rungs().drops {
        Drops::Packets => Closing::of(&agent, &[&watch]).inexact_drops().check(),
        Drops::Outcomes | Drops::Totals => assert_closes(&agent, &[&watch]),
    }
}
