//! IPv6 as a module: its functions are not among the kernel's own types. No kernel of the matrix is built so; here the
//! names of these functions are taken out of the type information that the agent reads.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::lab::Lab;
use crate::lab::counters::Watch;
use crate::lab::netns::Netns;
use crate::lab::setting::{agent_binary, patient};
use crate::lab::sockets::{Client, Listener};
use crate::lab::wait::until;

const PORT: u16 = 8141;
const TYPES: &str = "/sys/kernel/btf/vmlinux";
const OF_IPV6: [&str; 3] = ["tcp_v6_route_req", "tcp_v6_syn_recv_sock", "cookie_v6_init_sequence"];
const LIMIT: Duration = Duration::from_secs(10);

/// The kernel's types without the functions of IPv6, in a file.
fn types() -> tempfile::NamedTempFile {
    let mut types = fs::read(TYPES).unwrap();
    for name in OF_IPV6 {
        let whole = format!("\0{name}\0");
        let at = types.windows(whole.len()).position(|bytes| bytes == whole.as_bytes());
        types[at.unwrap_or_else(|| panic!("no {name}")) + 1] = b'x';
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), types).unwrap();
    file
}

/// The agent's binary where only these types are seen. Mounts that come later are seen as well.
fn tracer(types: &tempfile::NamedTempFile) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("mount --bind {} {TYPES} && exec \"$0\" \"$@\"", types.path().display());
    command.args(["--mount", "--propagation", "slave", "sh", "-c", &script]).arg(agent_binary());
    command
}

/// What doctor says of drops.
fn drops(output: &Output) -> Value {
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut signals = found["signals"].as_array().unwrap().iter();
    signals.find(|signal| signal["signal"] == "listen_drops").unwrap().clone()
}

/// Kprobes find the functions of a module that is loaded. Without kprobes nothing does.
#[test]
fn outcomes_are_those_of_ipv4_where_the_functions_of_ipv6_are_not_hooked() {
    let _lab = Lab::enter(&[]);
    let types = types();
    let doctor = |without: &[&str]| {
        let output = tracer(&types).args(["doctor", "--output", "json"]).args(without).output().unwrap();
        drops(&output)
    };
    let [by_all, by_fentry] = [doctor(&[]), doctor(&["--disable-hooks", "kprobe"])];
    let name = |drops: &Value| drops["in_force"].as_str().unwrap().to_owned();
    let usual = Command::new(agent_binary()).args(["doctor", "--output", "json"]).output().unwrap();
    let kprobes = name(&drops(&usual)).contains("kprobe");
    assert_eq!(name(&by_all).starts_with("outcomes ("), kprobes, "{by_all}");
    if !name(&by_fentry).starts_with("outcomes") {
        // Trampolines are refused here, or do not take all of IPv4's functions.
        return;
    }
    assert_eq!(name(&by_fentry), "outcomes of IPv4 (fentry)", "{by_fentry}");
    assert!(by_fentry["cost"].as_str().unwrap().contains("over IPv6 have no owner"), "{by_fentry}");
    only_ipv4_is_counted(&types);
}

/// The same overflow over either family, with cookies in play for one that counts nothing.
fn only_ipv4_is_counted(types: &tempfile::NamedTempFile) {
    let netns = Netns::single();
    let mut command = tracer(types);
    command.args(["events", "--output", "json", "--own", "--kind", "drop", "--disable-hooks", "kprobe", "--duration"]);
    command.arg(format!("{}s", patient(Duration::from_secs(8)).as_secs())).args(["--netns", &netns.inode()]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().starts_with("tracer: watching ")), "it watches");
    let watch = Watch::from_now(&netns);
    let overflow = |address: SocketAddr| {
        let before = watch.delta("ListenDrops");
        let listener = Listener::open(&netns, address, 2);
        let clients = Client::connect_many(&netns, address, 12);
        until("drops", LIMIT, || match watch.delta("ListenDrops") - before {
            0..9 => Err("fewer than nine".to_owned()),
            _ => Ok(()),
        });
        drop((clients, listener));
        watch.delta("ListenDrops") - before
    };
    overflow(SocketAddr::from((Ipv6Addr::LOCALHOST, PORT)));
    let over_ipv4 = overflow(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
    let mut seen = String::new();
    child.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    assert!(child.wait().unwrap().success());
    let events: Vec<Value> = seen.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len() as u64, over_ipv4, "{seen}");
    assert!(events.iter().all(|event| event["local_address"] == "127.0.0.1"), "{seen}");
}
