//! Perl scripts as processes inside a namespace, which say when they are ready and then do as they are told,
//! line by line.
//!
//! It must not know what they do.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::netns::Netns;

/// Perl that every script begins with.
const PRELUDE: &str = r#"
use strict; use Errno; use Socket; $| = 1;
sub enter { open(my $procs, ">", "$_[0]/cgroup.procs") or die "cgroup: $!"; print $procs $$; close($procs) or die "cgroup: $!"; }
"#;

/// A script that runs until its stdin closes.
pub(crate) struct Script {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Script {
    /// Returns once it says that it is ready.
    pub(crate) fn start(netns: &Netns, script: &str, arguments: &[&str]) -> Self {
        let script = format!("{PRELUDE}{script}");
        let mut child = netns.run(|| {
            let perl = &mut Command::new("perl");
            perl.args(["-e", &script]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        });
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut process = Self { child, stdin, lines };
        process.expect("ready");
        process
    }

    /// Gives it a line without waiting for what comes of it.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Gives it a line, and waits until it did what that says.
    pub(crate) fn tell(&mut self, line: &str, answer: &str) {
        self.say(line);
        self.expect(answer);
    }

    /// Waits for its next line.
    pub(crate) fn expect(&mut self, answer: &str) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{answer}\n"));
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Fails only if it was waited for before.
        let _ = self.child.wait();
    }
}
