//! Options of `cargo xtask vm`: which guests, and what they are to do.

use anyhow::Result;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::ci;
use super::plan::{Selection, Wish};
use super::rung::Rung;
use crate::kernels::Series;
use crate::workspace::Arch;

/// Options of `cargo xtask vm`.
#[derive(Args)]
pub(crate) struct Opts {
    /// The kernels to boot.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all", value_name = "KERNEL,…")]
    kernel: Vec<Kernel>,
    /// What to take away from them, one boot for each.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all", value_name = "RUNG,…")]
    rung: Vec<Which>,
    /// The architecture of the guests.
    #[arg(long, value_enum, default_value = "x86_64")]
    pub(super) arch: Arch,
    /// Run only tests whose name contains one of these.
    #[arg(long, value_name = "NAME,…", conflicts_with = "shell")]
    test: Option<String>,
    /// Run the tests this many times in each guest.
    #[arg(long, default_value_t = 1, value_name = "TIMES", conflicts_with = "shell", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Run only the tests that CI runs in guests, on its kernels: those whose outcome depends on the kernel.
    #[arg(long, conflicts_with_all = ["shell", "test"])]
    ci: bool,
    /// Boot one kernel into a shell instead of running tests.
    #[arg(long)]
    pub(super) shell: bool,
    /// Minutes after which a guest is ended and has failed.
    #[arg(long, default_value_t = 40, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(super) time_limit: u64,
    /// Guests at the same time [default: as many as processors and memory allow, 4 at most]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=16))]
    pub(super) jobs: Option<u64>,
    /// Show only how each guest ended; what it said is in `target/vm/`.
    #[arg(long, conflicts_with = "shell")]
    pub(super) quiet: bool,
}

/// A value of `--kernel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    One(Series),
    All,
}

impl ValueEnum for Kernel {
    fn value_variants<'a>() -> &'a [Self] {
        const {
            &[
                Self::One(Series::V5_10),
                Self::One(Series::V6_1),
                Self::One(Series::V6_12),
                Self::One(Series::Newest),
                Self::All,
            ]
        }
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::One(series) => series.to_possible_value(),
            Self::All => Some(PossibleValue::new("all")),
        }
    }
}

/// A value of `--rung`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    One(Rung),
    All,
}

impl ValueEnum for Which {
    fn value_variants<'a>() -> &'a [Self] {
        const {
            &[
                Self::One(Rung::Best),
                Self::One(Rung::Kprobe),
                Self::One(Rung::Packet),
                Self::One(Rung::Totals),
                Self::One(Rung::Capabilities),
                Self::One(Rung::Lockdown),
                Self::One(Rung::NoBtf),
                Self::All,
            ]
        }
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::One(rung) => rung.to_possible_value(),
            Self::All => Some(PossibleValue::new("all")),
        }
    }
}

impl Opts {
    /// What CI has time for: the oldest kernel, one of the middle, the newest, with nothing taken away.
    pub(crate) fn of_ci() -> Result<Self> {
        Ok(Self {
            kernel: vec![Kernel::All],
            rung: vec![Which::All],
            arch: Arch::native()?,
            test: None,
            repeat: 1,
            ci: true,
            shell: false,
            time_limit: 40,
            jobs: None,
            quiet: true,
        })
    }

    /// What the guests are to do.
    pub(super) fn wish(&self) -> Wish {
        match &self.test {
            _ if self.shell => Wish::Shell,
            _ if self.ci => Wish::Tests(Selection::Each(ci::TESTS), self.repeat),
            Some(names) => Wish::Tests(Selection::Named(names.clone()), self.repeat),
            None => Wish::Tests(Selection::All, self.repeat),
        }
    }

    /// Those of CI, unless told otherwise.
    pub(super) fn series(&self) -> Vec<Series> {
        if self.ci && self.kernel == [Kernel::All] {
            return ci::KERNELS.to_vec();
        }
        Series::ALL
            .into_iter()
            .filter(|&series| self.kernel.iter().any(|kernel| [Kernel::All, Kernel::One(series)].contains(kernel)))
            .collect()
    }

    /// A shell is of a kernel from which nothing was taken, and so are CI's guests, unless told otherwise.
    pub(super) fn rungs(&self) -> Vec<Rung> {
        if (self.shell || self.ci) && self.rung == [Which::All] {
            return vec![Rung::Best];
        }
        Rung::ALL
            .into_iter()
            .filter(|&rung| self.rung.iter().any(|which| [Which::All, Which::One(rung)].contains(which)))
            .collect()
    }
}
