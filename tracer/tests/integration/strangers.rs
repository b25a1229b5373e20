//! Text from strangers: what `advise`, `top` and `replay` make of input that nobody meant well. They end in time,
//! within 64 MiB, and show nothing that a terminal would obey or hide. Belongs here: every command that reads, with one
//! input.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::thread;

use assert_cmd::cargo::cargo_bin;
use tracer::events::names::{Name, Namespace};
use tracer::events::recording::{Preamble, Writer};

use crate::advise::SOUND;
use crate::binary::refusal;

/// What a command may take.
const MEMORY_KIB: u32 = 64 << 10;
/// Processor time that a command may take: that of the tests' own build takes seconds for what that of a release takes
/// tenths of one for. Others who use the machine take nothing of it.
const CPU_SECONDS: u32 = 60;
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;

/// The command with room for no more than it may take.
fn confined(args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -d {MEMORY_KIB} && ulimit -t {CPU_SECONDS} && exec \"$0\" \"$@\"")])
        .arg(cargo_bin!("tracer"))
        .args(args);
    command
}

/// Runs it on what `write` gives it by standard input.
fn run(args: &[&str], write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Output {
    let mut command = confined(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = std::io::BufWriter::new(child.stdin.take().unwrap());
    let reader = thread::spawn(move || child.wait_with_output().unwrap());
    // It may refuse before it has read all.
    let _ = write(&mut input).and_then(|()| input.flush());
    drop(input);
    reader.join().unwrap()
}

/// The two commands that read an exposition.
const READERS: [&[&str]; 2] = [&["advise", "--from"], &["top", "--once", "--from"]];

/// Serves this many bytes of series to one client.
fn server(bytes: usize) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        let piece = "# nothing to be kept of this line\n".repeat(2000);
        // The client may have had enough.
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        for _ in 0..bytes / piece.len() {
            sent = sent.and_then(|()| stream.write_all(piece.as_bytes()));
        }
    });
    (url, server)
}

#[test]
fn an_endless_answer_is_refused() {
    for reader in READERS {
        let (url, server) = server(250 << 20);
        let said = refusal(run(&[reader, &[&url]].concat(), |_| Ok(())), UNAVAILABLE);
        assert!(
            said.contains("answers with more than 67108864 bytes: that is more than an agent writes with the default"),
            "{said}"
        );
        assert!(said.contains("read a part"), "{said}");
        server.join().unwrap();
    }
}

#[test]
fn an_endless_line_is_refused() {
    for reader in READERS {
        let said = refusal(
            run(&[reader, &["-"]].concat(), |input| {
                (0..1000).try_for_each(|_| input.write_all(&b"x".repeat(250 << 10)))
            }),
            USAGE,
        );
        assert!(said.contains("line 1: the line is longer than any of an agent"), "{said}");
    }
}

#[test]
fn endless_series_are_refused() {
    for reader in READERS {
        let said = refusal(
            run(&[reader, &["-"]].concat(), |input| {
                input.write_all(SOUND.as_bytes())?;
                (0..3_000_000).try_for_each(|number| {
                    writeln!(input, "tracer_tcp_accept_queue_limit{{netns=\"host\",process=\"x\",port=\"{number}\"}} 1")
                })
            }),
            USAGE,
        );
        assert!(said.contains(": that is more than an agent writes with the default --max-listeners"), "{said}");
    }
}

/// Full tables, each listener with findings of its own.
fn full_tables() -> String {
    let mut text = SOUND.to_owned();
    for number in 0..10_000 {
        let labels = format!(
            "netns=\"{}\",namespace=\"\",pod=\"\",container=\"\",unit=\"web-{number}.service\",process=\"web\",\
             address=\"10.0.0.1\",port=\"{number}\"",
            4_026_531_840_u32 + number / 10
        );
        for metric in [
            "accept_queue_limit",
            "accept_queue_peak",
            "accept_queue_peak_limit",
            "accept_queue_length",
            "syn_queue_length",
            "syn_queue_limit",
            "listener_sockets",
            "listener_open_files",
        ] {
            let _ = writeln!(text, "tracer_tcp_{metric}{{{labels}}} 128");
        }
        for reason in ["accept_queue_full_syn", "accept_queue_full_ack", "syn_queue_full", "other", "unknown"] {
            let _ = writeln!(text, "tracer_tcp_listen_drops_total{{{labels},reason=\"{reason}\"}} {number}");
        }
        let _ = writeln!(
            text,
            "tracer_sysctl_value{{netns=\"{}\",name=\"net.core.somaxconn\",index=\"\"}} {number}",
            5_000_000_000_u64 + u64::from(number)
        );
    }
    text
}

#[test]
fn a_full_node_is_read_within_the_same_bounds() {
    let text = full_tables();
    for reader in READERS {
        let output = run(&[reader, &["-"]].concat(), |input| input.write_all(text.as_bytes()));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{said:.400}");
        assert!(said.contains("10000") || said.contains("web-9999.service"), "{said:.4000}");
    }
}

/// Names that would turn the line, hide themselves or bury what stands around them.
fn odd_names() -> [String; 3] {
    [
        "a\u{202e}ecivres.b\u{2066}\u{200b}".to_owned(),
        format!("z{}", "\u{301}".repeat(120)),
        "\u{9b}2J\u{feff}".to_owned(),
    ]
}

fn assert_legible(said: &str) {
    let obeyed = |c: char| c.is_control() && c != '\n' || "\u{202e}\u{2066}\u{200b}\u{feff}".contains(c);
    assert!(!said.contains(obeyed), "{said:?}");
    assert!(!said.contains(&"\u{301}".repeat(5)), "{said:?}");
}

#[test]
fn no_name_steers_or_hides() {
    for name in odd_names() {
        let text = crate::advise::clamped(312)
            .replace("\"web.service\"", &format!("\"{name}.service\""))
            .replace("process=\"web\"", &format!("process=\"{name}\""))
            .replace("{netns=\"host\",namespace", "{netns=\"7\",namespace")
            + &format!("tracer_netns_info{{netns=\"7\",name=\"{name}\"}} 1\n");
        for reader in READERS {
            let output = run(&[reader, &["-"]].concat(), |input| input.write_all(text.as_bytes()));
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(said.contains('\u{FFFD}'), "{said}");
            assert_legible(&said);
            assert!(!said.contains("systemctl restart") && !said.contains("ip netns exec"), "{said}");
        }
    }
}

/// Whoever answers in an agent's place may refuse with any text.
#[test]
fn no_refusal_steers_or_hides() {
    for name in odd_names() {
        for reader in READERS {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let answer = format!("HTTP/1.1 503 \u{9b}2J\r\nRetry-After: 1\r\n\r\n\x1b[2J{name}\ntwo\n");
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                let _ = stream.write_all(answer.as_bytes());
            });
            let said = refusal(run(&[reader, &[&url]].concat(), |_| Ok(())), UNAVAILABLE);
            assert!(said.contains(" refuses: \u{FFFD}[2J"), "{said:?}");
            assert_legible(&said);
            server.join().unwrap();
        }
    }
}

#[test]
fn a_name_that_no_agent_writes_is_refused() {
    let text = crate::advise::clamped(1).replace("web.service", &"\u{301}".repeat(100_000));
    for reader in READERS {
        let output = run(&[reader, &["-"]].concat(), |input| input.write_all(text.as_bytes()));
        let said = refusal(output, USAGE);
        assert!(said.contains("the line is longer than any of an agent"), "{said}");
    }
}

#[test]
fn a_recording_of_names_alone_takes_no_more_than_its_share() {
    let preamble =
        Preamble { tracer: "x\u{202e}y".into(), kernel: "6".into(), architecture: "x".into(), clock_offset_ns: 0 };
    let output = run(&["replay", "-"], |input| {
        let mut writer = Writer::new(input, &preamble)?;
        for netns in 0..40_000 {
            let many = if netns % 2 == 0 { vec![String::new(); 2500] } else { vec!["n".repeat(7900)] };
            let named = Namespace { name: "n".into(), other_names: many, ..Namespace::default() };
            writer.name(&Name::Namespace { netns, named })?;
        }
        writer.flush()
    });
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{} {said}", output.status);
    assert_legible(&said);
    assert!(said.starts_with("tracer: recorded by tracer x\u{FFFD}y on Linux 6"), "{said}");
}
