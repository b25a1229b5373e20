//! Whether this process, on this kernel, can do the agent's work, and what to change if not.
//!
//! [`Preflight::collect`] reads `/proc`, `/sys` and tries one BPF map and one program; everything after that is
//! pure. A verdict is about what nothing works without: what merely takes a hook away is for the
//! hook ladder to find out. Nothing is attached or changed here.

use std::{fmt, fs, io, path::Path};

use super::{hooks::remedy, shortage, sys, version::KernelVersion};
use crate::errno;

/// The oldest kernel that has what every rung needs: BTF, the ring buffer, BPF iterators.
const OLDEST: KernelVersion = KernelVersion::new(5, 10, 0);
/// The first kernel on which `CAP_BPF` and `CAP_PERFMON` replace `CAP_SYS_ADMIN` for BPF.
const CAP_BPF_SINCE: KernelVersion = KernelVersion::new(5, 8, 0);
/// The first kernel that charges BPF maps to the cgroup instead of `RLIMIT_MEMLOCK`.
const MEMLOCK_UNTIL: KernelVersion = KernelVersion::new(5, 11, 0);

/// The capabilities that matter here, numbered as in the kernel's `include/uapi/linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Read the descriptors of other users' processes.
    DacReadSearch = 2,
    /// Attach programs to cgroups: the packet rung.
    NetAdmin = 12,
    /// Look at other users' processes: `/proc/PID/ns/net`.
    SysPtrace = 19,
    /// Enter namespaces; before 5.8 also everything about BPF.
    SysAdmin = 21,
    /// Attach programs to tracepoints and functions, read kernel memory.
    Perfmon = 38,
    /// Load programs, create maps.
    Bpf = 39,
}

impl Capability {
    const fn name(self) -> &'static str {
        match self {
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far root is kept from the kernel (`/sys/kernel/security/lockdown`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Not at all, or the kernel does not know lockdown.
    None,
    /// Root may not change the running kernel; BPF works.
    Integrity,
    /// Nor read its memory: programs that use `bpf_probe_read_kernel` (the kprobe twins) are refused.
    Confidentiality,
}

impl Lockdown {
    /// Reads `none [integrity] confidentiality`, where brackets mark what is in force.
    fn parse(text: &str) -> Self {
        match text.split_once('[').and_then(|(_, rest)| rest.split_once(']')) {
            Some(("integrity", _)) => Self::Integrity,
            Some(("confidentiality", _)) => Self::Confidentiality,
            _ => Self::None,
        }
    }
}

/// Why the agent cannot run here: one line with the cause and what to do about it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// A file of `/proc` that everything rests on.
    #[error("cannot read {path} ({reason}): {remedy}")]
    Proc {
        /// The file.
        path: &'static str,
        /// What reading it said.
        reason: String,
        /// What to do about that.
        remedy: &'static str,
    },
    /// `uname -r` starts with no version.
    #[error("the kernel's release {0:?} has no version in it: report it with the output of `uname -a`")]
    UnknownRelease(String),
    /// Too old for any rung.
    #[error("kernel {0} is too old: {OLDEST} or later is needed, so upgrade the kernel")]
    KernelTooOld(KernelVersion),
    /// Rights that this process lacks.
    #[error(
        "missing {}: run as root (`sudo tracer …`), or grant them by securityContext.capabilities.add \
         or AmbientCapabilities=",
        names(.0)
    )]
    Capabilities(Vec<Capability>),
    /// No type information.
    #[error(
        "the kernel has no type information (/sys/kernel/btf/vmlinux): use one that is built with \
         CONFIG_DEBUG_INFO_BTF=y, and mount the host's /sys in a container"
    )]
    NoBtf,
    /// `bpf()` is refused.
    #[error("{} failed with {}: {}", .0.step, errno::named(.0.errno), .1)]
    Refused(BpfRefused, Refuser),
}

/// The step of `bpf()` that is refused even for the smallest map or program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BpfRefused {
    /// The command, and of what.
    pub step: &'static str,
    /// What came back.
    pub errno: i32,
}

/// Who refuses `bpf()`, with what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refuser {
    /// `bpf()` does not exist.
    #[error("the kernel has no bpf(), so use one that is built with CONFIG_BPF_SYSCALL=y")]
    NoBpf,
    /// Rights that hold only inside a user namespace.
    #[error("root here is root of a user namespace only, so run outside it (not in a rootless container)")]
    UserNamespace,
    /// A seccomp filter stands before the kernel, which takes the smallest map and program.
    #[error("a seccomp filter answers, so use a profile that allows bpf, or seccompProfile type Unconfined")]
    Seccomp,
    /// Locked memory, which maps and programs were charged to until 5.11.
    #[error("lockable memory is short, so raise RLIMIT_MEMLOCK (`ulimit -l unlimited`, LimitMEMLOCK=infinity)")]
    Memlock,
    /// A security module, since the capabilities are there.
    #[error("a security module denies it, so look in `dmesg` or the audit log (SELinux: class bpf)")]
    SecurityModule,
    /// Anything else.
    #[error("{0}")]
    Other(&'static str),
}

fn names(missing: &[Capability]) -> String {
    missing.iter().map(|capability| capability.name()).collect::<Vec<_>>().join(", ")
}

/// What was found about this process and the kernel it runs on.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// Effective user id.
    pub euid: u32,
    /// Effective capabilities, one bit each.
    pub capabilities: u64,
    /// `uname -r`.
    pub release: String,
    /// The version behind the release, none if it is unintelligible.
    pub version: Option<KernelVersion>,
    /// Whether `/sys/kernel/btf/vmlinux` exists.
    pub btf: bool,
    /// How far root is kept from the kernel.
    pub lockdown: Lockdown,
    /// `kernel.unprivileged_bpf_disabled`; none where it cannot be read.
    pub unprivileged_bpf_disabled: Option<u8>,
    /// Whether a seccomp filter applies to this process.
    pub seccomp: bool,
    /// Whether this process's root is root of the machine.
    pub initial_user_namespace: bool,
    /// The first file of `/proc` that cannot be read, and the error's number.
    pub proc_unreadable: Option<(&'static str, i32)>,
    /// What `bpf()` refuses even for the smallest map or program.
    pub bpf_refused: Option<BpfRefused>,
}

/// Lifts this process's limit on locked memory, to which maps are charged before Linux 5.11. Where the
/// rights for that are missing, the refused map says so.
pub fn lift_memlock_limit() {
    let unlimited = rustix::process::Rlimit { current: None, maximum: None };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited) {
        tracing::debug!(%error, "RLIMIT_MEMLOCK stays as it is");
    }
}

/// The version of the running kernel; `None` if its words are unintelligible.
#[must_use]
pub fn kernel_version() -> Option<KernelVersion> {
    let uname = rustix::system::uname();
    let signature = fs::read_to_string("/proc/version_signature").ok();
    let [release, version] = [uname.release(), uname.version()].map(|words| words.to_string_lossy());
    KernelVersion::detect(&release, &version, signature.as_deref())
}

impl Preflight {
    /// Looks at this process and this kernel. What cannot be read is left for the verdict to judge.
    #[must_use]
    pub fn collect() -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let status = Status::parse(&status);
        Self {
            euid: rustix::process::geteuid().as_raw(),
            capabilities: status.capabilities,
            version: kernel_version(),
            release,
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            lockdown: Lockdown::parse(&fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default()),
            unprivileged_bpf_disabled: fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
            seccomp: status.seccomp,
            initial_user_namespace: fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| maps_every_id(&map)),
            proc_unreadable: ["/proc/self/status", "/proc/thread-self/net/netstat"]
                .into_iter()
                .find_map(|path| Some((path, fs::read(path).err()?.raw_os_error().unwrap_or_default()))),
            bpf_refused: try_bpf(),
        }
    }

    /// Whether the agent can work here at all. The first obstacle is the answer, and those that
    /// others follow from come first.
    pub fn verdict(&self) -> Result<(), PreflightError> {
        if let Some((path, errno)) = self.proc_unreadable {
            let error = io::Error::from_raw_os_error(errno);
            let mount = "mount proc at /proc, and the host's in a container (hostPID: true)";
            let remedy = shortage::remedy_or(&error, mount);
            return Err(PreflightError::Proc { path, reason: errno::named(errno), remedy });
        }
        let Some(version) = self.version else {
            return Err(PreflightError::UnknownRelease(self.release.clone()));
        };
        if version < OLDEST {
            return Err(PreflightError::KernelTooOld(version));
        }
        let missing = self.missing_capabilities();
        if !missing.is_empty() {
            return Err(PreflightError::Capabilities(missing));
        }
        if !self.btf {
            return Err(PreflightError::NoBtf);
        }
        self.bpf_refused
            .map_or(Ok(()), |refused| Err(PreflightError::Refused(refused, self.refuser(refused.errno, version))))
    }

    /// Whether this process has a capability.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities >> (capability as u8) & 1 == 1
    }

    /// The capabilities without which nothing works: BPF, other processes' namespaces, `setns()`.
    fn missing_capabilities(&self) -> Vec<Capability> {
        let lacks = |capability: &Capability| !self.has(*capability);
        // CAP_SYS_ADMIN still includes these two.
        let for_bpf = [Capability::Bpf, Capability::Perfmon].into_iter().filter(|_| lacks(&Capability::SysAdmin));
        let splits_bpf = self.version.is_some_and(|version| version >= CAP_BPF_SINCE);
        let for_namespaces = [Capability::SysAdmin, Capability::SysPtrace];
        for_bpf.filter(|_| splits_bpf).chain(for_namespaces).filter(lacks).collect()
    }

    /// Who refused `bpf()`, given that the capabilities are there.
    fn refuser(&self, errno: i32, version: KernelVersion) -> Refuser {
        match errno {
            // Before the limit on locked memory: raising that one helps nobody whose rights end at a namespace.
            libc::EPERM if !self.initial_user_namespace => Refuser::UserNamespace,
            libc::EPERM | libc::ENOMEM if version < MEMLOCK_UNTIL && !self.seccomp => Refuser::Memlock,
            libc::EMFILE | libc::ENFILE | libc::ENOMEM => Refuser::Other(remedy(errno)),
            libc::ENOSYS if !self.seccomp => Refuser::NoBpf,
            _ if self.seccomp => Refuser::Seccomp,
            libc::EPERM | libc::EACCES => Refuser::SecurityModule,
            _ => Refuser::Other(remedy(errno)),
        }
    }
}

/// Whether the running kernel preempts softirqs (`CONFIG_PREEMPT_RT`).
#[must_use]
pub fn preempts_softirqs() -> bool {
    is_realtime(&rustix::system::uname().version().to_string_lossy())
}

/// Whether `uname -v` names a kernel that does: `#1 SMP PREEMPT_RT Debian 6.12.1-1`.
fn is_realtime(version: &str) -> bool {
    version.split_whitespace().any(|word| word == "PREEMPT_RT")
}

/// Tries the two commands that everything begins with, in their order.
fn try_bpf() -> Option<BpfRefused> {
    let refused = |step, result: io::Result<()>| {
        let error = result.err()?;
        Some(BpfRefused { step, errno: error.raw_os_error().unwrap_or(0) })
    };
    refused("BPF_MAP_CREATE of the smallest map", sys::try_map_create())
        .or_else(|| refused("BPF_PROG_LOAD of the smallest program", sys::try_program_load()))
}

/// What is needed of `/proc/self/status`.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    capabilities: u64,
    seccomp: bool,
}

impl Status {
    fn parse(text: &str) -> Self {
        let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Self {
            capabilities: field("CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0),
            // 1 is strict mode, in which we would not have come this far; 2 is a filter.
            seccomp: field("Seccomp:") == Some("2"),
        }
    }
}

/// Whether `/proc/self/uid_map` is that of the first user namespace: all ids, to themselves.
fn maps_every_id(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests;
