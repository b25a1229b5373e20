//! `tracer top` on the running kernel: a real overflow stands in its tables with the kernel's own count, from a running
//! agent and from a look of the command's own.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::lab::agent::{Agent, await_passes};
use crate::lab::counters::Watch;
use crate::lab::machine::machine;
use crate::lab::netns::Netns;
use crate::lab::rungs::{Drops, Signal};
use crate::lab::setting::{agent_command, without};
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::until;
use crate::lab::{Lab, own_process_name};

const PORT: u16 = 8111;
const BACKLOG: i32 = 5;
const CLIENTS: usize = 20;
/// Clients that find no room come again after one second.
const DROPS_LIMIT: Duration = Duration::from_secs(5);

fn command(args: &[&str]) -> Command {
    let mut command = agent_command();
    command.args(["top", "--once", "--tab", "listeners"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The cells of the experiment's listener by the headings of their columns.
fn cells(output: &std::process::Output, netns: &Netns) -> Vec<(String, String)> {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let head = text.lines().find(|line| line.starts_with("listener  ")).unwrap_or_else(|| panic!("{text}"));
    let row = text.lines().find(|line| line.starts_with(&format!("127.0.0.1:{PORT} ")) && line.contains(netns.name()));
    let row = row.unwrap_or_else(|| panic!("no {PORT} in {}: {text}", netns.name()));
    let parts = |line: &str| -> Vec<String> {
        let parts = line.split("  ").map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| part.trim_end_matches(['▾', '▴']).to_owned()).collect()
    };
    let (head, row) = (parts(head), parts(row));
    assert_eq!(head.len(), row.len(), "{text}");
    head.into_iter().zip(row).collect()
}

/// The listener with its queue, and with its drops where the rung can say whose they are.
fn assert_shown(output: &std::process::Output, netns: &Netns, rung: Drops, drops: u64) {
    let cells = cells(output, netns);
    let cell = |title: &str| cells.iter().find(|(of, _)| of == title).unwrap_or_else(|| panic!("{cells:?}")).1.clone();
    assert_eq!(cell("queue"), format!("{}/{BACKLOG}", BACKLOG + 1), "{cells:?}");
    assert_eq!(cell("full"), "100%", "{cells:?}");
    if rung != Drops::Totals {
        assert_eq!(cell("drops"), drops.to_string(), "{cells:?}");
    }
    // Before 5.11 no walk tells whose a listener is that is older than the agent.
    if machine().kernel >= (5, 11, 0) {
        assert_eq!(cell("process"), own_process_name(), "{cells:?}");
    }
}

/// Fills the queue, lets the rest be dropped, and ends those that would come again.
fn overflow(netns: &Netns, address: SocketAddr, watch: &Watch<'_>) -> Vec<Client> {
    let mut clients = Client::connect_many(netns, address, CLIENTS);
    let room = u64::try_from(BACKLOG + 1).unwrap();
    until("drops", DROPS_LIMIT, || match watch.delta("ListenDrops") {
        drops if drops >= CLIENTS as u64 - room => Ok(()),
        drops => Err(format!("ListenDrops {drops}")),
    });
    clients.retain_mut(|client| client.result() == Some(Ok(())));
    clients
}

#[test]
fn an_overflow_stands_in_the_table_of_a_running_agent() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let netns = Netns::single();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let _listener = Listener::open(&netns, address, BACKLOG);
    let watch = Watch::from_now(&netns);
    let agent = Agent::start();
    let _clients = overflow(&netns, address, &watch);
    agent.await_two_passes();
    let output = command(&["--from", &agent.url()]).output().unwrap();
    assert_shown(&output, &netns, agent.rungs().drops, watch.delta("ListenDrops"));
}

#[test]
fn an_overflow_stands_in_the_table_of_a_look_of_its_own() {
    let _lab = Lab::enter(&[Signal::ListenDrops, Signal::ListenerPass]);
    let netns = Netns::single();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let _listener = Listener::open(&netns, address, BACKLOG);
    let watch = Watch::from_now(&netns);
    let rung = Agent::start().rungs().drops;
    let flags: Vec<String> = without().into_iter().flat_map(|kind| ["--disable-hooks".to_owned(), kind]).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    // From within, where no agent serves whatever runs on this machine.
    let child = netns.run(|| command(&["--interval", "6s"]).args(flags).spawn().unwrap());
    // Loading takes a second or so, on slow machines more; then nothing but the look is under way.
    await_passes(&child);
    let _clients = overflow(&netns, address, &watch);
    let output = child.wait_with_output().unwrap();
    assert_shown(&output, &netns, rung, watch.delta("ListenDrops"));
}
