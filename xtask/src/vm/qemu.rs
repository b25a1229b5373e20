//! QEMU: the command that boots a guest, and what it says until it ends.
//!
//! Takes a kernel and an initramfs, gives back the lines that the guest's first process wrote for
//! the host. Shows everything else as it comes. Must not know what the guest does.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::process;
use crate::workspace::Arch;

/// Processors of a guest: accept() at a queue's edge needs two.
const PROCESSORS: &str = "2";
/// Memory of a guest, its file system included.
const MEMORY_MIB: u64 = 1024;
/// What a guest takes of the host: seen were up to 1.72 GB, with QEMU's translations of code.
pub(super) const RESIDENT_MIB: u64 = 1800;

/// Words for the command line of every kernel. A panic ends QEMU; kernel messages would end up in the middle of lines.
/// The watchdog of clocks is off: 7.3.4 on a busy host sometimes (1 boot of 100) never came up, since `watchdog_check_skew`
/// waited, with interrupts off, for the jiffies that its own processor was to count.
const COMMAND_LINE: &str = "panic=-1 loglevel=1 random.trust_cpu=on tsc=nowatchdog";

/// Before the lines that are for the host.
const MARK: &str = "guest:";

/// How the processors are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    Kvm,
    /// Emulated, one thread for each.
    Tcg,
}

/// A QEMU for one architecture.
#[derive(Clone, Debug)]
pub(super) struct Qemu {
    arch: Arch,
    program: &'static str,
    pub(super) accelerator: Accelerator,
}

/// A guest to boot.
pub(super) struct Guest<'a> {
    /// Shown before each line, empty when there is no other guest; `None` = nothing is shown.
    pub(super) label: Option<String>,
    /// Where all that it says is kept.
    pub(super) log: PathBuf,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// Words for the kernel's command line.
    pub(super) command_line: &'a str,
    pub(super) time_limit: Duration,
}

/// What a guest said to the host.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Lines `name:rest` without the mark.
    pub(super) lines: Vec<String>,
    /// Lines for people, the last ones.
    tail: Vec<String>,
}

/// Lines of a guest's output that an error shows: a kernel's last words are some seventy.
const TAIL_MAX: usize = 80;

/// How a kernel stops when a processor meets a breakpoint that nobody owns up to. The kernel writes them itself
/// for the moment in which it changes its own code, as it does whenever a tracepoint is switched on or off.
const STRAY_BREAKPOINT: &str = "Oops: int3:";

/// The guest's kernel stopped at [`STRAY_BREAKPOINT`].
#[derive(Debug, thiserror::Error)]
#[error("the guest's kernel met a breakpoint that it did not know; its last words:\n{0}")]
pub(super) struct StrayBreakpoint(String);

impl Qemu {
    /// The program for this architecture, with emulated processors.
    pub(super) fn new(arch: Arch) -> Self {
        Self { arch, program: arch.qemu().0, accelerator: Accelerator::Tcg }
    }

    /// Takes KVM if a guest with nothing to do comes up and goes down with it. Opening /dev/kvm says
    /// too little: inside of another virtual machine a guest may start and then stop at some instruction.
    pub(super) fn try_kvm(&mut self, guest: &Guest<'_>) {
        let is_own_arch = std::env::consts::ARCH == self.arch.name();
        if !is_own_arch || File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return;
        }
        let with_kvm = Self { accelerator: Accelerator::Kvm, ..self.clone() };
        if with_kvm.boot(guest).is_ok_and(|said| said.success()) {
            *self = with_kvm;
        }
    }

    /// Boots the guest on this terminal.
    pub(super) fn interactive(&self, guest: &Guest<'_>) -> Result<()> {
        process::run(&mut self.command(guest))
    }

    /// Boots the guest, shows what it says and gives back what it said to the host.
    pub(super) fn boot(&self, guest: &Guest<'_>) -> Result<Said> {
        let mut command = self.command(guest);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{}`", process::shown(&command)))?;
        let said = listen(&mut child, guest);
        // Ends it if it has not ended by itself.
        let _ = child.kill();
        let status = child.wait()?;
        let said = said?;
        if !said.has_ended() {
            if said.tail.iter().any(|line| line.contains(STRAY_BREAKPOINT)) {
                return Err(StrayBreakpoint(said.tail.join("\n")).into());
            }
            bail!(
                "the guest ended without a word ({status}); to repeat it: `{}`\n{}",
                process::shown(&command),
                said.tail.join("\n")
            );
        }
        Ok(said)
    }

    fn command(&self, guest: &Guest<'_>) -> Command {
        let (machine, processor, console) = match (self.arch, self.accelerator) {
            (Arch::X86_64, Accelerator::Kvm) => ("q35,accel=kvm", "host", "ttyS0"),
            // String instructions are emulated byte by byte where the kernel is told that they are fast: without that a
            // guest takes a fifth less of the host's processors.
            (Arch::X86_64, Accelerator::Tcg) => ("q35", "max,erms=off,fsrm=off", "ttyS0"),
            (Arch::Aarch64, Accelerator::Kvm) => ("virt,accel=kvm,gic-version=host", "host", "ttyAMA0"),
            // The newest processors have more to emulate.
            (Arch::Aarch64, Accelerator::Tcg) => ("virt,gic-version=3", "cortex-a72", "ttyAMA0"),
        };
        // QEMU ends with the thread that waits for it, whatever ends that.
        let mut command = process::command("setpriv");
        command.args(["--pdeathsig", "KILL", self.program]);
        command.args(["-machine", machine, "-cpu", processor, "-smp", PROCESSORS]);
        if self.accelerator == Accelerator::Tcg {
            command.args(["-accel", "tcg,thread=multi"]);
        }
        command
            .args(["-m", &MEMORY_MIB.to_string(), "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(guest.kernel)
            .arg("-initrd")
            .arg(guest.initramfs)
            .arg("-append")
            .arg(format!("console={console} {COMMAND_LINE} {}", guest.command_line));
        command
    }
}

/// Reads the guest's console to its end, or until the time is up.
fn listen(child: &mut Child, guest: &Guest<'_>) -> Result<Said> {
    let (sender, lines) = channel();
    let pipes: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
    for pipe in pipes.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned());
            }
        });
    }
    drop(sender);
    let deadline = Instant::now() + guest.time_limit;
    let mut log = File::create(&guest.log).with_context(|| format!("creating {}", guest.log.display()))?;
    let mut said = Said::default();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            _ if left.is_zero() => return Err(said.was_too_slow(guest.time_limit)),
            // QEMU stops the guest and waits for someone to look at it.
            Ok(line) if line.starts_with("KVM internal error") => bail!("{line}"),
            Ok(line) => {
                writeln!(log, "{line}")?;
                said.hear(guest.label.as_deref(), line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(said),
            Err(RecvTimeoutError::Timeout) => return Err(said.was_too_slow(guest.time_limit)),
        }
    }
}

impl Said {
    fn hear(&mut self, label: Option<&str>, line: String) {
        let message = line.strip_prefix(MARK);
        let shown = message.map_or(Some(&*line), |message| message.strip_prefix("error:"));
        if let (Some(label), Some(shown)) = (label, shown) {
            println!("{label}{shown}");
        }
        if let Some(message) = message {
            self.lines.push(message.to_owned());
            return;
        }
        if self.tail.len() == TAIL_MAX {
            self.tail.remove(0);
        }
        self.tail.push(line);
    }

    /// The lines under a name, put together.
    pub(super) fn captured(&self, name: &str) -> String {
        self.of(name).collect::<Vec<_>>().join("\n")
    }

    /// The lines under a name.
    pub(super) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(':'))
    }

    fn was_too_slow(&self, time_limit: Duration) -> anyhow::Error {
        let (minutes, last) = (time_limit.as_secs() / 60, self.tail.join("\n"));
        anyhow!("the guest was not done within {minutes} minutes; it said last:\n{last}")
    }

    fn has_ended(&self) -> bool {
        self.of("end").next().is_some()
    }

    /// Whether all that the guest did went well.
    pub(super) fn success(&self) -> bool {
        self.of("end").eq(["success"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Said {
        let mut said = Said::default();
        for line in lines {
            said.hear(None, (*line).to_owned());
        }
        said
    }

    #[test]
    fn lines_for_the_host_are_told_from_others() {
        let said =
            said(&["Linux boots", "guest:doctor:{", "guest:doctor:}", "guest:result:{\"a\":1}", "guest:end:success"]);
        assert_eq!(said.captured("doctor"), "{\n}");
        assert_eq!(said.of("result").collect::<Vec<_>>(), ["{\"a\":1}"]);
        assert_eq!(said.tail, ["Linux boots"]);
        assert!(said.success());
    }

    #[test]
    fn a_guest_that_fails_or_says_nothing_is_no_success() {
        assert!(!said(&["guest:error:x", "guest:end:failure"]).success());
        assert!(!said(&["panic"]).success() && !said(&["panic"]).has_ended());
    }

    #[test]
    fn a_guest_that_never_ends_is_ended_when_its_time_is() {
        let mut child = Command::new("sh")
            .args(["-c", "while echo x; do sleep 0.05; done"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let guest = Guest {
            label: None,
            log: PathBuf::from("/dev/null"),
            kernel: Path::new(""),
            initramfs: Path::new(""),
            command_line: "",
            time_limit: Duration::from_millis(200),
        };
        let error = listen(&mut child, &guest).unwrap_err().to_string();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(error.contains("was not done within"), "{error}");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let lines: Vec<_> = (0..150).map(|number| number.to_string()).collect();
        let said = said(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((said.tail.len(), said.tail[0].as_str()), (TAIL_MAX, "70"));
    }
}
