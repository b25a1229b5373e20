//! What is taken away from a guest, so that each rung of the ladders is stood on once.
//!
//! A table: what the kernel's command line, the agent's flags and the guest's set-up have to be. What
//! must hold on a rung is said by the live tests; here it is only said where they run.

use clap::ValueEnum;

/// A file system in user space is what the guests' set of modules lacks, on all kernels but the newest.
const NEEDS_FUSE: &str = "endings::names_of_logs_are_on_a_dead_file_system";

/// One way to run the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Rung {
    /// Nothing is taken away.
    Best,
    /// Without fentry and fexit: the kprobe twins.
    Kprobe,
    /// Without kprobes too: packets and tracepoints.
    Packet,
    /// Without the packet hook too: the namespaces' totals.
    Totals,
    /// The capabilities that the manual names, and no more.
    Capabilities,
    /// The kernel locked down for confidentiality.
    Lockdown,
    /// No type information: the agent refuses to start.
    NoBtf,
}

impl Rung {
    /// From the best to nothing at all.
    pub(crate) const ALL: [Self; 7] =
        [Self::Best, Self::Kprobe, Self::Packet, Self::Totals, Self::Capabilities, Self::Lockdown, Self::NoBtf];

    /// The name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Best => "best",
            Self::Kprobe => "kprobe",
            Self::Packet => "packet",
            Self::Totals => "totals",
            Self::Capabilities => "capabilities",
            Self::Lockdown => "lockdown",
            Self::NoBtf => "no-btf",
        }
    }

    /// Whether a release needs it on every kernel: these are the rungs that differ by kernel. Of the others
    /// one kernel is enough.
    pub(crate) const fn is_of_every_kernel(self) -> bool {
        matches!(self, Self::Best | Self::Kprobe | Self::Packet)
    }

    /// Kinds of hooks that the agent is told to leave alone.
    pub(crate) const fn without(self) -> &'static str {
        match self {
            Self::Kprobe => "fentry",
            Self::Packet => "fentry,kprobe",
            Self::Totals => "fentry,kprobe,packet",
            _ => "",
        }
    }

    /// Tests that stay behind. Cardinality and room for destinations are about maps, which are the same
    /// everywhere, and take minutes of an emulated processor, in which TIME_WAIT ends. The others show nothing new where hooks are taken
    /// away: what they are about stands on tracepoints, or on no hook at all.
    pub(crate) const fn left_out(self) -> &'static [&'static str] {
        match self {
            Self::Kprobe | Self::Packet | Self::Totals => &[
                "capacity::",
                "cardinality::",
                "connect::",
                NEEDS_FUSE,
                "faults::",
                "lab::",
                "machine_limits::",
                "multiplied::",
                "ports::",
                "resets::",
                "retransmit::",
                "socket_pass::",
                "supervisor::",
                "timeouts::",
            ],
            _ => &["cardinality::", NEEDS_FUSE, "ports::more_destinations_than_room"],
        }
    }

    /// Words for the kernel's command line.
    pub(crate) const fn command_line(self) -> &'static str {
        match self {
            Self::Lockdown => "lockdown=confidentiality",
            _ => "",
        }
    }
}
