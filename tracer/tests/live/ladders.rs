//! Each rung of a ladder on one kernel: the better hooks are switched off, one kind after the other, and what is left
//! tells what it can, to the unit.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::cgroup::Unit;
use crate::lab::closing::assert_closes;
use crate::lab::counters::Watch;
use crate::lab::drops::{ACCEPT_QUEUE_FULL_SYN, assert_drops};
use crate::lab::equations::TIME_WAIT_OVERFLOWS;
use crate::lab::load::{FirstClose, open_and_close};
use crate::lab::netns::Netns;
use crate::lab::rungs::Signal;
use crate::lab::sockets::{Client, Listener};
use crate::lab::unknown::assert_time_wait_overflows_are_owned;

const PORT: u16 = 8089;
const PASS_INTERVAL: Duration = Duration::from_millis(200);
/// Kinds of hooks that are switched off, so that drops stand on each of their rungs in turn.
const WITHOUT: [&[&str]; 4] = [
    &[],
    &["--disable-hooks", "fentry"],
    &["--disable-hooks", "fentry,kprobe"],
    &["--disable-hooks", "fentry,kprobe,packet"],
];
/// Room for 4 and 20 closes.
const BUCKETS: &str = "4";
const CLOSES: usize = 20;
const OVERFLOWS: u64 = 16;

/// 12 clients for a queue that holds 3, and closes without room in TIME_WAIT, for each rung of both.
#[test]
fn each_rung_of_drops_and_time_wait_overflows_tells_what_it_can() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::TimeWaitOverflows]);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    for without in WITHOUT {
        let netns = Netns::single();
        netns.set_tcp("tcp_max_tw_buckets", BUCKETS);
        let watch = Watch::from_now(&netns);
        let agent = Agent::with(PASS_INTERVAL, without);
        let unit = Unit::enter("closer");
        let listener = Listener::open(&netns, address, 2);
        open_and_close(&netns, &listener, address, CLOSES, FirstClose::Client);
        drop(Client::connect_many(&netns, address, 12));
        assert_closes(&agent, &[&watch]);
        assert_drops(&agent, &[("netns", &watch.inode)], &[(ACCEPT_QUEUE_FULL_SYN, watch.delta("ListenDrops"))]);
        let of_unit = [("netns", watch.inode.as_str()), ("unit", unit.name.as_str())];
        let overflows = watch.delta("TCPTimeWaitOverflow");
        let owned = agent.scrape().sum(TIME_WAIT_OVERFLOWS, &of_unit);
        assert!(owned > 0, "no owner of {overflows} overflows, {without:?}");
        assert_time_wait_overflows_are_owned(&agent, owned, overflows);
        // A processor that stands still for a second lets SYNs be sent again.
        assert!(watch.delta("ListenDrops") >= 9 && overflows >= OVERFLOWS, "{without:?}");
    }
}
