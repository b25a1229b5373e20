//! `tracer replay` on recordings that are kept in tests/recordings, and on what is left of them: the pipeline
//! from a record to a line, without root. Belongs here: what is shown, and every refusal. How a recording is made
//! is in the live tests.
//!
//! `experiments.rec` was made by `tracer events --record` from real traffic between namespaces: an accept queue
//! that overflows, SYN-ACKs and segments sent again, refused connects, a full TIME_WAIT table, and transitions.

use std::fs;
use std::io::{Cursor, Write};
use std::path::PathBuf;
use std::process::{Output, Stdio};

use assert_cmd::assert::OutputAssertExt;
use serde_json::Value;
use tracer::events::names::{Listener, Name};
use tracer::events::recording::{Frame, Reader, Writer};
use tracer::pipeline::attribute::Owner;

use crate::binary::{refusal, run_without_rights, tracer};

const USAGE: i32 = 64;

fn recordings() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recordings")
}

fn experiments() -> Vec<u8> {
    fs::read(recordings().join("experiments.rec")).unwrap()
}

/// What is shown of these bytes.
fn replay(bytes: &[u8], args: &[&str]) -> Output {
    let mut command = tracer(&["replay", "-"]);
    let mut child =
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may have seen enough before it has read all.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    child.wait_with_output().unwrap()
}

fn stdout(output: Output) -> String {
    let assert = output.assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn lines(args: &[&str]) -> Vec<Value> {
    let args = [&["--output", "json"], args].concat();
    stdout(replay(&experiments(), &args)).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn assert_same(shown: &str, file: &str) {
    let kept = fs::read_to_string(recordings().join(file)).unwrap();
    for (number, (shown, kept)) in shown.lines().zip(kept.lines()).enumerate() {
        assert_eq!(shown, kept, "line {} of {file}", number + 1);
    }
    assert_eq!(shown.lines().count(), kept.lines().count(), "lines of {file}");
}

#[test]
fn a_recording_is_shown_as_it_was() {
    assert_same(&stdout(replay(&experiments(), &[])), "experiments.txt");
    assert_same(&stdout(replay(&experiments(), &["--output", "json"])), "experiments.jsonl");
}

#[test]
fn colours_are_for_terminals_and_for_who_asks() {
    let plain = stdout(replay(&experiments(), &["--color", "never"]));
    let coloured = stdout(replay(&experiments(), &["--color", "always"]));
    assert!(!plain.contains('\x1b') && coloured.contains("\x1b[31mdrop\x1b[0m"));
    let codes = ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[35m"];
    let bare = codes.iter().fold(coloured, |text, code| text.replace(code, ""));
    assert_eq!(bare, plain);
}

#[test]
fn the_recording_has_every_kind() {
    let mut kinds: Vec<String> = lines(&[]).iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds, ["connect", "drop", "listen", "reset", "retransmit", "state", "synack", "time_wait"]);
}

#[test]
fn filters_choose_among_what_was_recorded() {
    let all = lines(&[]);
    let count = |fits: &dyn Fn(&Value) -> bool| all.iter().filter(|line| fits(line)).count();
    let either = |line: &Value, field: &str, value: &Value| {
        ["local", "remote"].iter().any(|end| line[format!("{end}_{field}")] == *value)
    };
    let drop = all.iter().find(|line| line["kind"] == "drop").unwrap();
    let text = |field: &str| drop[field].as_str().unwrap();
    let port = drop["local_port"].to_string();
    let connect = all.iter().find(|line| line["kind"] == "connect").unwrap();
    let address = connect["remote_address"].as_str().unwrap();
    for (args, expected) in [
        (vec!["--kind", "drop"], count(&|line| line["kind"] == "drop")),
        (vec!["--kind", "drop,connect"], count(&|line| line["kind"] == "drop" || line["kind"] == "connect")),
        (vec!["--port", &port], count(&|line| either(line, "port", &drop["local_port"]))),
        (vec!["--address", address], count(&|line| either(line, "address", &connect["remote_address"]))),
        (vec!["--address", "203.0.113.0/24"], 0),
        (vec!["--netns", text("netns")], count(&|line| line["netns"] == drop["netns"])),
        (vec!["--netns", text("netns_name")], count(&|line| line["netns_name"] == drop["netns_name"])),
        (vec!["--netns", "host"], count(&|line| line["netns"] == "host")),
        (vec!["--process", text("process")], count(&|line| line["process"] == drop["process"])),
        (vec!["--process", "no-such*"], 0),
        (vec!["--pod", "*"], count(&|line| line["pod"].is_string())),
    ] {
        let shown = lines(&args).len();
        assert_eq!(shown, expected, "{args:?}");
        let output = replay(&experiments(), &args);
        let summary = format!("{expected} shown");
        let filtered = format!(", {} filtered out, 0 lost\n", all.len() - expected);
        assert!(stderr(&output).contains(&summary) && stderr(&output).contains(&filtered), "{}", stderr(&output));
    }
    assert_eq!(lines(&["--kind", "drop", "--count", "1"]), std::slice::from_ref(drop));
}

/// The recording as a node with pods would have made it: the listener on the port is a pod's, and so are the sockets
/// of each cgroup, which connect.
fn of_pods() -> Vec<u8> {
    let owner = |pod: &str| Owner { namespace: "shop".into(), pod: pod.into(), ..Owner::default() };
    let (preamble, mut reader) = Reader::new(Cursor::new(experiments())).unwrap();
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &preamble).unwrap();
    loop {
        match reader.next_frame().unwrap() {
            Frame::Record(record) => writer.record(record).unwrap(),
            Frame::Name(Name::Owner { netns, cgroup, .. }) => {
                writer.name(&Name::Owner { netns, cgroup, owner: owner("client-0") }).unwrap();
            }
            Frame::Name(Name::Listener { netns, port, listener }) => {
                let listener = Listener { owner: owner("web-0"), ..listener };
                writer.name(&Name::Listener { netns, port, listener }).unwrap();
            }
            Frame::Name(name) => writer.name(&name).unwrap(),
            Frame::End(end) => {
                writer.end(&end).unwrap();
                return bytes;
            }
            Frame::Cut(at) => panic!("it ends at {at}"),
        }
    }
}

#[test]
fn a_recording_of_pods_is_filtered_by_pod() {
    let bytes = of_pods();
    let shown = |args: &[&str]| -> Vec<Value> {
        let args = [&["--output", "json"], args].concat();
        stdout(replay(&bytes, &args)).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = shown(&[]);
    let of = |pod: &str| -> Vec<Value> { all.iter().filter(|line| line["pod"] == pod).cloned().collect() };
    let (servers, clients) = (of("web-0"), of("client-0"));
    assert!(!servers.is_empty() && !clients.is_empty() && servers.iter().all(|line| line["namespace"] == "shop"));
    let both: Vec<Value> = all.iter().filter(|line| line["pod"].is_string()).cloned().collect();
    for (pods, expected) in [
        ("web-0", &servers),
        ("shop/web-0", &servers),
        ("web-*", &servers),
        ("client-0", &clients),
        ("shop/c*", &clients),
        ("web-0,client-0", &both),
        ("*", &both),
        ("web", &Vec::new()),
        ("other/web-0", &Vec::new()),
    ] {
        assert_eq!(&shown(&["--pod", pods]), expected, "{pods}");
    }
}

#[test]
fn a_recording_that_is_cut_is_shown_as_far_as_it_goes() {
    let bytes = experiments();
    let whole = stdout(replay(&bytes, &[]));
    for left in [1, 3, 50, 100, bytes.len() / 2] {
        let output = replay(&bytes[..bytes.len() - left], &[]);
        let said = stderr(&output);
        assert!(said.contains("without its end: what follows is missing"), "{left}: {said}");
        let shown = stdout(output);
        assert!(whole.starts_with(&shown) && shown.lines().count() > 1, "{left}");
    }
}

#[test]
fn damage_is_found_where_it_is_and_what_came_before_is_shown() {
    let mut bytes = experiments();
    let end = bytes.iter().rposition(|byte| *byte == b'{').unwrap();
    let frame = bytes[..end].windows(2).rposition(|pair| pair == [3, 0]).unwrap();
    bytes[frame] = 77;
    let output = replay(&bytes, &[]);
    let line = format!("tracer: -: the recording is damaged at byte {frame}: no frame begins so\n");
    assert!(stderr(&output).ends_with(&line), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout(replay(&experiments(), &[])));
    output.assert().code(USAGE);
}

#[test]
fn what_is_no_recording_is_refused() {
    let with = |place: usize, byte| {
        let mut bytes = experiments();
        bytes[place] = byte;
        bytes
    };
    for (bytes, cause, remedy) in [
        (Vec::new(), "this is no recording", "tracer events --record"),
        (b"{\"kind\":\"drop\"}\n".to_vec(), "this is no recording", "tracer events --record"),
        (with(8, 2), "the recording has format 2, and this tracer reads format 1", "replay it with the tracer"),
        (with(10, 2), "of a machine with another byte order", "replay it on one of its kind"),
    ] {
        let line = refusal(replay(&bytes, &[]), USAGE);
        assert!(line.starts_with("-: ") && line.contains(cause) && line.contains(remedy), "{line}");
    }
    let line = refusal(tracer(&["replay", "/nonexistent/a.rec"]).output().unwrap(), USAGE);
    assert!(line.starts_with("cannot read /nonexistent/a.rec: ") && line.contains("--record wrote"), "{line}");
}

#[test]
fn no_rights_are_needed() {
    let input = fs::File::open(recordings().join("experiments.rec")).unwrap();
    let output = run_without_rights(&["replay", "-"], |command| {
        command.stdin(input);
    });
    assert_same(&stdout(output), "experiments.txt");
}

#[test]
fn a_reader_that_left_is_no_failure_and_a_full_disk_is_one() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let path = recordings().join("experiments.rec");
    let output = tracer(&["replay"]).arg(&path).stdout(writer).output().unwrap();
    assert!(!stderr(&output).contains("shown"), "{}", stderr(&output));
    output.assert().success();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = tracer(&["replay"]).arg(&path).stdout(full).output().unwrap();
    assert!(stderr(&output).contains("tracer: cannot write the events: "), "{}", stderr(&output));
    output.assert().code(1);
}

#[test]
fn wrong_flags_are_refused_with_cause_and_remedy() {
    for (args, parts) in [
        (&["replay"][..], &["<FILE>"][..]),
        (&["replay", "x", "--kind", "drops"], &["invalid value 'drops'", "time_wait"]),
        (&["replay", "x", "--address", "10.0.0.0/33"], &["invalid value '10.0.0.0/33'", "10.0.0.0/8"]),
        (&["replay", "x", "--port", "0"], &["invalid value '0' for '--port", "1..=65535"]),
        (&["events", "--count", "0"], &["invalid value '0' for '--count"]),
        (&["events", "--duration", "5"], &["invalid value '5' for '--duration", "5s"]),
        (&["events", "--duration", "0s"], &["invalid value '0s' for '--duration", "no time shows no events", "30s"]),
        (&["events", "--record-max", "5"], &["--record"]),
        (&["events", "--ring-bytes", "5000"], &["power of two"]),
    ] {
        let line = refusal(tracer(args).output().unwrap(), USAGE);
        assert!(parts.iter().all(|part| line.contains(part)), "{args:?}: {line}");
    }
}

#[test]
fn watching_without_rights_says_what_is_missing() {
    let line = refusal(run_without_rights(&["events", "--duration", "1s"], |_| ()), 69);
    assert!(line.starts_with("missing CAP_BPF"), "{line}");
}
