//! `tracer advise` on input that is there already: a file, standard input, an agent's address. Belongs
//! here: what needs no root. Advice on a kernel is in the live tests.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Output, Stdio};
use std::thread;

use assert_cmd::assert::OutputAssertExt;
use serde_json::{Value, json};

use crate::binary::{refusal, run_without_rights, tracer};
use crate::{promql, rules};

const CLEAR: i32 = 0;
const RISK: i32 = 1;
const BINDS: i32 = 2;
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;

/// A node on which nothing is wrong.
pub const SOUND: &str = "\
# HELP tracer_build_info Always 1: which build of the agent this is.
# TYPE tracer_build_info gauge
tracer_build_info{version=\"0.1.0\",revision=\"abc\"} 1
process_start_time_seconds 1700000000
tracer_sysctl_value{netns=\"host\",name=\"net.core.somaxconn\",index=\"\"} 128
tracer_file_handles 5024
tracer_file_handles_limit 775052
";

/// The same, and a listener that somaxconn clamps.
pub fn clamped(drops: u32) -> String {
    let labels = "netns=\"host\",namespace=\"\",pod=\"\",container=\"\",unit=\"web.service\",process=\"web\",\
        address=\"0.0.0.0\",port=\"80\"";
    format!(
        "{SOUND}tracer_tcp_accept_queue_limit{{{labels}}} 128\ntracer_tcp_accept_queue_peak{{{labels}}} 129\n\
         tracer_tcp_listen_drops_total{{{labels},reason=\"accept_queue_full_syn\"}} {drops}\n"
    )
}

/// Advice on `text`, through standard input.
fn advise(text: &str, args: &[&str]) -> Output {
    let mut command = tracer(&["advise", "--from", "-"]);
    let mut child =
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may refuse before it has read all.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: Output, code: i32) -> String {
    let assert = output.assert().code(code).stderr("");
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn json(output: Output, code: i32) -> Value {
    serde_json::from_str(&stdout(output, code)).unwrap()
}

#[test]
fn the_exit_code_says_how_urgent_it_is() {
    assert!(stdout(advise(SOUND, &[]), CLEAR).starts_with("0 binds, 0 at risk, 0 to know\n"));
    assert!(stdout(advise(&clamped(0), &[]), RISK).starts_with("0 binds, 1 at risk, 0 to know\n"));
    assert!(stdout(advise(&clamped(312), &[]), BINDS).starts_with("1 binds, 0 at risk, 0 to know\n"));
}

#[test]
fn a_clamped_listener_is_named_with_its_numbers_and_the_way_out() {
    let text = stdout(advise(&clamped(312), &[]), BINDS);
    for part in [
        "\nseen by standard input since 2023-11-14T22:13:20Z\n",
        "\nbinds  accept_queue_clamped\n       netns host, unit web.service, process web, 0.0.0.0:80\n",
        "  seen accept queue limit          128 connections\n",
        "       dropped, accept queue full  312 packets\n",
        "         sysctl -w net.core.somaxconn=1024\n",
        "         systemctl restart web.service\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn the_object_for_scripts_has_the_documented_fields() {
    let object = json(advise(&clamped(312), &["--output", "json", "--lb-idle", "120s"]), BINDS);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&object), ["cannot_tell", "findings", "findings_left_out", "source", "verdict"]);
    assert_eq!(keys(&object["source"]), ["agent_version", "kind", "place", "seconds", "since"]);
    assert_eq!(object["source"]["agent_version"], "0.1.0");
    assert_eq!(object["source"]["since"], 1_700_000_000);
    assert_eq!(object["verdict"], "binds");
    let finding = &object["findings"][0];
    assert_eq!(keys(finding), ["background", "evidence", "remedy", "rule", "severity", "subject", "summary", "title"]);
    assert_eq!(keys(&finding["subject"]), ["address", "netns", "port", "process", "unit"]);
    let evidence = finding["evidence"].as_array().unwrap();
    assert!(evidence.iter().all(|evidence| keys(evidence) == ["fact", "source", "unit", "value"]));
    let drops = evidence.iter().find(|evidence| evidence["source"] == "tracer_tcp_listen_drops_total").unwrap();
    assert_eq!((&drops["value"], &drops["unit"]), (&Value::from(312), &Value::from("packets")));
    assert!(finding["remedy"].as_array().unwrap().iter().all(|step| keys(step) == ["command", "text"]));
    let untold = object["cannot_tell"].as_array().unwrap();
    let keepalive = untold.iter().find(|untold| untold["rule"] == "keepalive").unwrap();
    assert_eq!(keepalive["missing"][0], "net.ipv4.tcp_keepalive_time", "--lb-idle was given");
}

/// Each with the alert's condition, a value that meets it, and the kernel's default.
#[test]
fn settings_of_which_an_alert_tells_are_a_risk() {
    let judged = [("net.ipv4.tcp_abort_on_overflow", "> 0", 1, 0), ("net.ipv4.tcp_syncookies", "== 0", 0, 1)];
    let alert = rules::alerts().into_iter().find(|alert| alert.name == "TracerSettingRisky").unwrap();
    let selectors = promql::names(&alert.expression).unwrap().selectors;
    let matchers = selectors.iter().flat_map(|selector| &selector.matchers);
    let named: Vec<_> = matchers.map(|matcher| (matcher.label.as_str(), matcher.value.as_str())).collect();
    assert_eq!(named, judged.map(|(name, ..)| ("name", name)));
    for (name, condition, risky, sound) in judged {
        assert!(alert.expression.contains(&format!("{{name=\"{name}\"}} {condition}\n")), "{name}");
        let set_to = |value| {
            advise(&format!("{SOUND}tracer_sysctl_value{{netns=\"host\",name=\"{name}\",index=\"\"}} {value}\n"), &[])
        };
        assert!(stdout(set_to(risky), RISK).starts_with("0 binds, 1 at risk, 0 to know\n"), "{name}");
        assert!(stdout(set_to(sound), CLEAR).starts_with("0 binds, 0 at risk, 0 to know\n"), "{name}");
    }
}

#[test]
fn a_file_is_read_without_rights() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("metrics.txt");
    fs::write(&file, clamped(312)).unwrap();
    // Others may not enter the directory, so the file is handed over open.
    let input = fs::File::open(&file).unwrap();
    let output = run_without_rights(&["advise", "--from", "-", "--output", "json"], |command| {
        command.stdin(input);
    });
    assert_eq!(json(output, BINDS)["source"]["kind"], "stdin");
    let path = file.to_str().unwrap();
    let object = json(tracer(&["advise", "--from", path, "--output", "json"]).output().unwrap(), BINDS);
    assert_eq!((&object["source"]["kind"], &object["source"]["place"]), (&"file".into(), &path.into()));
}

/// A node on which one destination has used up the ports.
fn exhausted() -> String {
    format!(
        "{SOUND}tracer_tcp_ephemeral_ports_used{{netns=\"host\"}} 28232\n\
         tracer_tcp_ephemeral_ports_available{{netns=\"host\"}} 28232\n\
         tracer_tcp_connect_failures_total{{netns=\"host\",unit=\"web.service\",port=\"5432\",error=\"no_port\"}} 3\n"
    )
}

/// What its agent says at `/status`.
const EXHAUSTED_STATUS: &str = r#"{ "version": "0.1.0", "ports": [{
    "netns": "host", "range": [32768, 60999], "ports": 28232, "used": 28232, "age_seconds": 1, "incomplete": null,
    "destinations": [
        { "source": "10.0.0.1", "destination": "10.0.0.2:5432", "used": 28232, "time_wait": 28000 },
        { "source": "2001:db8::1", "destination": "[2001:db8::2]:443", "used": 5, "time_wait": 0 }
    ]
}] }"#;

/// Serves two requests, the second with this status line and body, as an agent or something like one. Gives its
/// address, and what was asked for.
fn agent(metrics: String, status: (&'static str, &'static str)) -> (String, thread::JoinHandle<Vec<String>>) {
    let server = TcpListener::bind("[::1]:0").unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let answers = [("200 OK", metrics), (status.0, status.1.to_owned())];
    let served = thread::spawn(move || answers.iter().map(|(code, body)| serve(&server, code, body)).collect());
    (url, served)
}

/// Serves one request, and gives its first line.
fn serve(server: &TcpListener, code: &str, body: &str) -> String {
    let (mut stream, _) = server.accept().unwrap();
    let mut request = [0; 512];
    let read = stream.read(&mut request).unwrap();
    write!(stream, "HTTP/1.1 {code}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    String::from_utf8_lossy(&request[..read]).lines().next().unwrap().to_owned()
}

#[test]
fn an_agent_is_asked_over_http() {
    let (url, served) = agent(clamped(312), ("200 OK", EXHAUSTED_STATUS));
    let text = stdout(tracer(&["advise", "--from", &url]).output().unwrap(), BINDS);
    assert!(text.contains(&format!("seen by the agent at {url} in ")), "{text}");
    assert!(!text.contains("10.0.0.2"), "nothing is found about ports: {text}");
    assert_eq!(served.join().unwrap(), ["GET /metrics HTTP/1.1", "GET /status HTTP/1.1"]);
}

#[test]
fn an_agent_names_who_uses_the_ports() {
    let (url, _) = agent(exhausted(), ("200 OK", EXHAUSTED_STATUS));
    let text = stdout(tracer(&["advise", "--from", &url]).output().unwrap(), BINDS);
    let rows = "\
  seen connects without a port        3 connections
       ports used by one destination  28232 ports
       ports in the range             28232 ports
       now to 10.0.0.2:5432           28232 ports, 28000 in TIME_WAIT
       now to [2001:db8::2]:443       5 ports
  do   Best: keep connections in a pool,";
    assert!(text.contains(rows), "{text}");
    let (url, _) = agent(exhausted(), ("200 OK", EXHAUSTED_STATUS));
    let object = json(tracer(&["advise", "--from", &url, "--output", "json"]).output().unwrap(), BINDS);
    let evidence = object["findings"][0]["evidence"].as_array().unwrap();
    let named: Vec<_> = evidence.iter().filter(|evidence| evidence["source"] == "/status").collect();
    assert_eq!((named.len(), &named[0]["value"], &named[0]["unit"]), (2, &28_232.into(), &"ports".into()));
    let expected = json!({ "address": "10.0.0.2", "port": 5432, "from": "10.0.0.1", "time_wait": 28_000 });
    assert_eq!(named[0]["destination"], expected);
    assert_eq!(named[1]["destination"]["address"], "2001:db8::2");
}

/// The advice of `output` for people, on lines as long as they will.
fn unwrapped(output: Output) -> String {
    stdout(output, BINDS).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn who_does_not_name_them_is_advised_upon_all_the_same() {
    for (status, part) in [
        (("404 Not Found", ""), "/status answered 404 Not Found: is that an agent's address?)"),
        (("200 OK", "{}"), "as this version reads it (missing field `ports` at line 1 column 2): is the agent older?"),
        (("200 OK", "<html>"), "as this version reads it (expected value at line 1 column 1)"),
        (("200 OK", r#"{ "ports": [] }"#), "No walk over this namespace has counted a destination's ports by now."),
    ] {
        let (url, _) = agent(exhausted(), status);
        let text = unwrapped(tracer(&["advise", "--from", &url]).output().unwrap());
        assert!(text.contains(part) && text.contains(" Count connections by destination. ss -Htan | "), "{text}");
    }
    let (url, served) = agent(exhausted(), ("200 OK", EXHAUSTED_STATUS));
    let text = unwrapped(tracer(&["advise", "--from", &format!("{url}/federate")]).output().unwrap());
    assert!(text.contains("/federate does not end in /metrics, beside which it is looked for)"), "{text}");
    assert!(!served.is_finished(), "nothing else was asked for");
    let text = unwrapped(advise(&exhausted(), &[]));
    assert!(text.contains("/metrics does not name the destination: a running agent does (--from http://"), "{text}");
}

#[test]
fn no_agent_is_one_line_with_a_remedy() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = tracer(&["advise", "--from", &format!("http://{free}")]).output().unwrap();
    let line = refusal(output, UNAVAILABLE);
    assert!(line.starts_with(&format!("no agent answers at {free} (")), "{line}");
    assert!(line.contains("start it (tracer run), or look at this kernel with --own"), "{line}");
}

#[test]
fn input_that_is_no_exposition_of_an_agent_is_refused() {
    for (text, cause) in [
        ("", "it has no tracer_build_info; give --from the /metrics of tracer run"),
        ("node_load1 0.5\n", "it has no tracer_build_info"),
        ("<!doctype html>\n", "line 1: this is no name of a metric"),
        ("tracer_build_info{version=\"1\"} 1\na{b=\"c} 1\n", "line 2: a label's value has no closing quote"),
    ] {
        let line = refusal(advise(text, &[]), USAGE);
        assert!(line.starts_with("standard input is no exposition ") && line.contains(cause), "{line}");
    }
}

#[test]
fn wrong_flags_are_refused_with_cause_and_remedy() {
    for (args, parts) in [
        (
            &["--from", "/nonexistent/metrics.txt"][..],
            &["cannot read /nonexistent/metrics.txt", "http://127.0.0.1:9795"][..],
        ),
        (&["--from", "127.0.0.1:9795"], &["cannot read 127.0.0.1:9795", "as http://127.0.0.1:9795"]),
        (&["--from", "https://127.0.0.1:9795"], &["plain HTTP", "--from -"]),
        (&["--from", "-", "--watch", "5s"], &["cannot be used with", "--watch"]),
        (&["--watch", "2h"], &["invalid value '2h' for '--watch", "choose 1s to 1h"]),
        (&["--lb-idle", "120"], &["invalid value '120' for '--lb-idle", "5s"]),
        (&["--output", "yaml"], &["invalid value 'yaml'", "text, json"]),
    ] {
        let line = refusal(tracer(&["advise"]).args(args).output().unwrap(), USAGE);
        assert!(parts.iter().all(|part| line.contains(part)), "{args:?}: {line}");
    }
}

#[test]
fn a_look_without_rights_points_at_a_running_agent() {
    let line = refusal(run_without_rights(&["advise", "--watch", "1s"], |_| ()), UNAVAILABLE);
    assert!(line.starts_with("missing CAP_BPF"), "{line}");
    assert!(line.contains("or ask a running agent: --from http://127.0.0.1:9795 on its host"), "{line}");
    assert!(line.contains("kubectl exec"), "{line}");
}

#[test]
fn help_says_that_nothing_is_changed() {
    let text = stdout(tracer(&["advise", "--help"]).output().unwrap(), CLEAR);
    for part in ["Nothing is changed", "Exit codes: 0 nothing binds", "--lb-idle <TIME>", "tracer advise --from"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_reader_that_left_is_a_failure_of_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("metrics.txt");
    fs::write(&file, SOUND).unwrap();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = tracer(&["advise", "--from", file.to_str().unwrap()]);
    let line = refusal(command.stdout(full).output().unwrap(), RISK);
    assert!(line.starts_with("cannot write the findings: "), "{line}");
}
