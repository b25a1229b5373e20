//! `tracer top` as its users meet it: on a terminal, in a pipe, with an agent that goes and comes. Belongs here:
//! what needs no root; the kernel's numbers are in the live tests.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use assert_cmd::assert::OutputAssertExt;
use rustix::process::Signal;

use crate::binary::{refusal, run_without_rights, tracer};
use crate::pty::Terminal;

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;

/// What an agent says of listeners, each with its queue (of 128) and its drops.
fn metrics(listeners: &[(u16, &str, u32, u32)]) -> String {
    let mut text = "tracer_build_info{version=\"0.1.0\",revision=\"abc\"} 1\nprocess_start_time_seconds 1700000000\n\
        tracer_pass_age_seconds{pass=\"namespaces\"} 1.5\n\
        tracer_count_difference{netns=\"host\",namespace=\"\",pod=\"\",signal=\"listen_drops\"} 0\n\
        tracer_tcp_time_wait_sockets{netns=\"host\",namespace=\"\",pod=\"\"} 30\n\
        tracer_tcp_time_wait_limit{netns=\"host\",namespace=\"\",pod=\"\"} 40\n"
        .to_owned();
    for (port, process, queue, drops) in listeners {
        let labels = format!(
            "netns=\"host\",namespace=\"\",pod=\"\",container=\"\",unit=\"web.service\",process=\"{process}\",\
             address=\"0.0.0.0\",port=\"{port}\""
        );
        let _ = write!(
            text,
            "tracer_tcp_listen_drops_total{{{labels},reason=\"accept_queue_full_syn\"}} {drops}\n\
             tracer_tcp_accept_queue_length{{{labels}}} {queue}\ntracer_tcp_accept_queue_limit{{{labels}}} 128\n"
        );
    }
    text
}

const CALM: &[(u16, &str, u32, u32)] = &[(8001, "nginx", 12, 7), (8002, "envoy", 129, 3), (8003, "redis", 0, 5)];

/// Answers every request with the text of the moment, until it goes.
struct FakeAgent {
    address: SocketAddr,
    text: Arc<Mutex<String>>,
    leaves: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl FakeAgent {
    fn start(text: String) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), text)
    }

    fn at(address: SocketAddr, text: String) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (text, leaves) = (Arc::new(Mutex::new(text)), Arc::new(AtomicBool::new(false)));
        let (said, gone) = (Arc::clone(&text), Arc::clone(&leaves));
        let server = thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                if gone.load(Ordering::SeqCst) {
                    return;
                }
                let mut request = [0; 512];
                let _ = stream.read(&mut request);
                let body = said.lock().unwrap().clone();
                // Who asked may have left.
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            }
        });
        Self { address, text, leaves, server: Some(server) }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn says(&self, text: String) {
        *self.text.lock().unwrap() = text;
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.leaves.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(self.address);
        let _ = self.server.take().map(JoinHandle::join);
    }
}

/// The places of the listeners on the screen, from top to bottom.
fn ports(screen: &str) -> Vec<u16> {
    let rows = screen.lines().filter_map(|line| line.strip_prefix("0.0.0.0:"));
    rows.map(|row| row.split_whitespace().next().unwrap().parse().unwrap()).collect()
}

/// The text without its lines, where it may be broken.
fn words(screen: &str) -> String {
    screen.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn start(agent: &FakeAgent) -> Terminal {
    Terminal::start(&["top", "--from", &agent.url(), "--interval", "500ms"], (100, 24), |_| ())
}

/// As a job of a shell.
fn start_job(agent: &FakeAgent) -> Terminal {
    Terminal::start_job(&["top", "--from", &agent.url(), "--interval", "500ms"], (100, 24))
}

#[test]
fn keys_sort_filter_and_leave_the_terminal_as_it_was() {
    let agent = FakeAgent::start(metrics(CALM));
    let mut terminal = start(&agent);
    let screen = terminal.until("the listeners", |screen| ports(screen) == [8002, 8001, 8003]);
    let lines: Vec<&str> = screen.lines().collect();
    assert!(
        lines[0].starts_with("tracer 0.1.0 · values ")
            && lines[0].contains(&format!(" old · the agent at {} · ", agent.url())),
        "{screen}"
    );
    assert!(lines[1].starts_with("drops 15 ("), "{screen}");
    assert!(lines[2].starts_with("numbers close · nothing lost · age of passes: namespaces "), "{screen}");
    assert!(lines[3].contains(" 1 listeners 3 "), "{screen}");
    let full = lines.iter().find(|line| line.starts_with("0.0.0.0:8002")).unwrap();
    assert!(full.contains("envoy") && full.contains("129/128    100%"), "{screen}");
    // From drops/s one to the left.
    terminal.press("\x1b[D");
    terminal.until("by drops", |screen| ports(screen) == [8001, 8003, 8002]);
    terminal.press("r");
    terminal.until("the other way round", |screen| ports(screen) == [8002, 8003, 8001]);
    terminal.press("/REDIS");
    terminal.until("while it is written", |screen| ports(screen) == [8003] && screen.contains("filter: REDIS▏ 1 of 3"));
    terminal.press("\r");
    terminal.until("the filter", |screen| ports(screen) == [8003] && screen.contains("filter: REDIS (1 of 3)"));
    terminal.press("/\x7f\x7f\x7f\x7f\x7f\r3");
    terminal.until("the namespaces", |screen| {
        screen.lines().any(|line| line.starts_with("host") && line.contains("30/40   75.0%"))
    });
    terminal.press("?");
    terminal.until("help", |screen| screen.starts_with("keys") && screen.contains("columns of namespaces"));
    terminal.press("\x1b");
    terminal.until("no help", |screen| screen.contains("q quit"));
    terminal.press("q");
    let (status, left) = terminal.end();
    assert_eq!((status.code(), left.trim()), (Some(0), ""));
}

#[test]
fn a_new_size_is_filled_and_small_ones_remain_usable() {
    let agent = FakeAgent::start(metrics(CALM));
    let mut terminal = start(&agent);
    terminal.until("the listeners", |screen| ports(screen).len() == 3);
    terminal.resize(160, 30);
    terminal.until("more columns", |screen| screen.contains("accept/s") && screen.contains("owner"));
    terminal.resize(48, 10);
    let screen = terminal.until("fewer columns", |screen| !screen.contains("process") && ports(screen).len() == 3);
    let head = screen.lines().find(|line| line.starts_with("listener")).unwrap();
    assert_eq!(head.split_whitespace().collect::<Vec<_>>(), ["listener", "full", "drops", "drops/s▾"], "{screen}");
    terminal.resize(20, 3);
    terminal.until("rows alone", |screen| screen.starts_with("listener    drops/s▾\n0.0.0.0:8…"));
    // Ctrl-C, as a key.
    terminal.press("\x03");
    assert_eq!(terminal.end().0.code(), Some(0));
}

#[test]
fn rates_follow_what_is_counted_and_an_agent_that_begins_anew() {
    let agent = FakeAgent::start(metrics(CALM));
    let mut terminal = start(&agent);
    terminal.until("the totals", |screen| screen.contains("drops 15 ("));
    agent.says(metrics(&[(8001, "nginx", 12, 7), (8002, "envoy", 129, 3), (8003, "redis", 0, 9005)]));
    terminal.until("what drops comes first", |screen| ports(screen) == [8003, 8002, 8001]);
    terminal.until("and is over", |screen| ports(screen) == [8002, 8001, 8003]);
    let again = metrics(&[(8001, "nginx", 12, 0), (8002, "envoy", 129, 1), (8003, "redis", 0, 0)]);
    agent.says(again.replace("1700000000", "1700000100"));
    terminal.until("began anew", |screen| screen.contains("drops 1 (0/s)"));
    terminal.press("p");
    terminal.until("a pause", |screen| screen.contains("PAUSED"));
    agent.says(metrics(&[(9001, "new", 0, 0)]));
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(ports(&terminal.screen()), [8002, 8001, 8003]);
    terminal.press("p");
    terminal.until("what came meanwhile", |screen| ports(screen) == [9001]);
    // Escape, which begins no sequence.
    terminal.press("\x1b");
    assert_eq!(terminal.end().0.code(), Some(0));
}

type Stop = fn(&mut Terminal);

/// Ctrl-Z as a key, the same as a signal, and SIGSTOP, of which nobody hears: then the shell sets the terminal itself.
#[test]
fn a_stop_gives_the_terminal_to_the_shell_and_fg_takes_it_again() {
    let agent = FakeAgent::start(metrics(CALM));
    let mut terminal = start_job(&agent);
    let stops: [(&str, Stop); 3] = [
        ("Ctrl-Z", |terminal| terminal.press("\x1a")),
        ("SIGTSTP", |terminal| terminal.signal(Signal::TSTP)),
        ("SIGSTOP", |terminal| terminal.signal(Signal::STOP)),
    ];
    for (what, stop) in stops {
        terminal.until("the listeners", |screen| ports(screen).len() == 3);
        stop(&mut terminal);
        terminal.until_stopped();
        if what != "SIGSTOP" {
            terminal.assert_restored();
        }
        terminal.as_a_shell_has_it();
        terminal.signal(Signal::CONT);
        terminal.until("all of the screen", |screen| {
            screen.starts_with("tracer 0.1.0 ") && ports(screen).len() == 3 && !screen.contains("Stopped")
        });
        // No line ends here: keys must come one by one.
        terminal.press("/REDIS");
        terminal.until("the keys", |screen| ports(screen) == [8003]);
        terminal.press("\x1b");
        terminal.until(what, |screen| ports(screen).len() == 3);
    }
    terminal.press("q");
    assert_eq!(terminal.end().0.code(), Some(0));
}

/// Where no shell could continue it, a stop would be for good.
#[test]
fn ctrl_z_without_a_shell_leaves_it_running_and_drawing() {
    let agent = FakeAgent::start(metrics(CALM));
    let mut terminal = start(&agent);
    let stops: [Stop; 2] = [|terminal| terminal.press("\x1a"), |terminal| terminal.signal(Signal::TSTP)];
    for (stop, port) in stops.into_iter().zip([9001, 9002]) {
        terminal.until("the listeners", |screen| !ports(screen).is_empty());
        let drawn = terminal.bytes().len();
        stop(&mut terminal);
        // The screen is given back and taken again, with all that is on it.
        let is_taken_again = |bytes: &[u8]| bytes.windows(8).any(|bytes| bytes == b"\x1b[?1049h");
        terminal.until_bytes("the screen again", |bytes| is_taken_again(&bytes[drawn..]));
        agent.says(metrics(&[(port, "new", 0, 0)]));
        terminal.until("what is new", |screen| screen.starts_with("tracer 0.1.0 ") && ports(screen) == [port]);
    }
    terminal.press("q");
    assert_eq!(terminal.end().0.code(), Some(0));
}

#[test]
fn values_stay_while_an_agent_is_gone() {
    let agent = FakeAgent::start(metrics(CALM));
    let address = agent.address;
    let mut terminal = start(&agent);
    terminal.until("the listeners", |screen| ports(screen).len() == 3);
    drop(agent);
    let screen = terminal.until("that it is gone", |screen| screen.contains("nothing new since "));
    assert!(
        screen.contains("Z (") && words(&screen).contains(&format!("trying again: no agent answers at {address} (")),
        "{screen}"
    );
    assert_eq!(ports(&screen), [8002, 8001, 8003]);
    let agent = FakeAgent::at(address, metrics(&[(8001, "nginx", 0, 7)]));
    terminal.until("that it came back", |screen| ports(screen) == [8001] && !screen.contains("nothing new"));
    agent.says("<html>".to_owned());
    terminal.until("that somebody else answers", |screen| {
        words(screen).contains("no exposition that can be read: line 1: a sample has no value")
    });
    terminal.signal(Signal::TERM);
    assert_eq!(terminal.end().0.code(), Some(0));
}

#[test]
fn names_and_no_color_are_respected() {
    let evil = metrics(&[(8001, "a\u{202e}\u{9b}31mb", 12, 7), (8002, "漢字漢字漢字漢字漢字", 129, 3)]);
    let agent = FakeAgent::start(evil);
    let colors = |terminal: &Terminal| {
        let bytes = String::from_utf8_lossy(&terminal.bytes()).into_owned();
        // The parser of this terminal shows no U+FFFD.
        assert!(bytes.contains("a\u{FFFD}\u{FFFD}31mb") && !bytes.contains(['\u{9b}', '\u{202e}']), "{bytes:?}");
        // A colour of the text, out of the terminal's table: red of a full queue, green of numbers that close.
        bytes.contains("\x1b[38;5;")
    };
    let mut terminal = start(&agent);
    let screen = terminal.until("the listeners", |screen| ports(screen).len() == 2);
    assert!(screen.contains("漢字漢字漢字漢…"), "{screen}");
    assert!(colors(&terminal));
    terminal.press("q");
    terminal.end();
    let args = ["top", "--from", &agent.url()];
    let mut terminal = Terminal::start(&args, (100, 24), |command| _ = command.env("NO_COLOR", "1"));
    terminal.until("the listeners", |screen| ports(screen).len() == 2);
    assert!(!colors(&terminal));
    terminal.press("q");
    assert_eq!(terminal.end().0.code(), Some(0));
}

#[test]
fn once_prints_every_table_as_text() {
    let agent = FakeAgent::start(metrics(CALM));
    let output = tracer(&["top", "--once", "--from", &agent.url()]).output().unwrap().assert().success().stderr("");
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(!text.contains('\x1b') && text.starts_with("tracer 0.1.0 · values 0 s old · the agent at "), "{text}");
    assert_eq!(ports(&text), [8002, 8001, 8003]);
    for part in
        ["\n\nlisteners: 3\n", "\n\nworkloads: 0\n", "\n\nnamespaces: 1\n", "30/40  75.0%", "accept_queue_full_syn"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let args = ["--tab", "listeners", "--sort", "drops", "--rows", "1", "--filter", "web.", "--from", &agent.url()];
    let output = tracer(&["top", "--once"]).args(args).output().unwrap().assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert_eq!(ports(&text), [8001]);
    assert!(text.contains("\nlisteners: 3 with \"web.\"\n") && text.ends_with("\nand 2 more; see --rows\n"), "{text}");
    assert!(!text.contains("namespaces: "), "{text}");
}

#[test]
fn a_pipe_gets_one_screen_and_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("metrics.txt");
    fs::write(&file, metrics(CALM)).unwrap();
    let output = tracer(&["top", "--from", file.to_str().unwrap()]).output().unwrap().assert().success();
    let said = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert_eq!(said, "tracer: standard output is no terminal: one screen as with --once\n");
    assert_eq!(ports(&String::from_utf8(output.get_output().stdout.clone()).unwrap()).len(), 3);
}

#[test]
fn a_file_that_is_written_anew_is_read_anew() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("metrics.txt");
    fs::write(&file, metrics(CALM)).unwrap();
    let args = ["top", "--from", file.to_str().unwrap(), "--interval", "500ms"];
    let mut terminal = Terminal::start(&args, (100, 24), |_| ());
    // Nothing new is no rate of zero.
    terminal.until("the file", |screen| screen.contains("drops 15 (–/s)") && screen.contains("values 1 s old"));
    fs::write(&file, metrics(&[(8001, "nginx", 0, 700)])).unwrap();
    terminal.until("the new file", |screen| ports(screen) == [8001]);
    terminal.press("q");
    assert_eq!(terminal.end().0.code(), Some(0));
}

#[test]
fn wrong_flags_are_refused_with_cause_and_remedy() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{free}");
    for (args, code, parts) in [
        (&["--from", "/nonexistent"][..], USAGE, &["cannot read /nonexistent", "http://127.0.0.1:9795"][..]),
        (&["--from", "-"], USAGE, &["standard input can be read once only", "add --once"]),
        (&["--from", "/dev/null"], USAGE, &["/dev/null gives no exposition of an agent", "/metrics of tracer run"]),
        (&["--from", &nobody], UNAVAILABLE, &["no agent answers at", "start it (tracer run)"]),
        (&["--interval", "100ms"], USAGE, &["invalid value '100ms' for '--interval", "choose 500ms to 1h"]),
        (&["--tab", "pods"], USAGE, &["invalid value 'pods'", "listeners, workloads, namespaces"]),
        (
            &["--tab", "workloads", "--sort", "drops"],
            USAGE,
            &["workloads have no column \"drops\"", "choose one of workload, netns, share"],
        ),
        (&["--sort", "drops"], USAGE, &["--tab <TABLE>"]),
        (&["--rows", "0"], USAGE, &["invalid value '0' for '--rows"]),
    ] {
        let line = refusal(tracer(&["top"]).args(args).output().unwrap(), code);
        assert!(parts.iter().all(|part| line.contains(part)), "{args:?}: {line}");
    }
}

#[test]
fn without_an_agent_and_without_rights_both_are_said() {
    let output = run_without_rights(&["top", "--once"], |_| ());
    // Somebody's agent may serve on this machine: then it is the one that is asked.
    if output.status.success() {
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.lines().next().unwrap().contains("the agent at http://127.0.0.1:9795 · "), "{text}");
        return;
    }
    let line = refusal(output, UNAVAILABLE);
    assert!(line.starts_with("http://127.0.0.1:9795: no agent; a look of its own: missing CAP_BPF"), "{line}");
}
