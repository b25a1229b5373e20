//! The programs loaded for the live view: those that the wanted kinds of events need, and the ring drained into
//! whoever looks.
//!
//! Owns the instance from load to detach, and the tallies of what was lost. Opens no file and writes nothing;
//! what becomes of an event is the caller's business.

use std::{io, ops::ControlFlow, thread, time::Duration};

use aya::maps::{MapData, RingBuf};
use tracer_ebpf::event::Kind;

use super::{Config, origins::Origins, overdue::Overdue, prepare_for, unusable};
use crate::{
    events::{
        kind::EventKind,
        names::{Name, Names},
        recording::Preamble,
        summary::Loss,
    },
    failure::Failure,
    kernel::{
        hooks::{LadderReport, Report, Signal, Verdict},
        load::Kernel,
        maps::Maps,
        viewpoint::monotonic_ns,
    },
    pipeline::{
        counters::OVERDUE_NS,
        decode::Event,
        ring::{self, Sink},
    },
};

/// Once detached, no program puts anything on the ring any more, but one may be under way.
const SETTLE: Duration = Duration::from_nanos(OVERDUE_NS + 5_000_000);

/// The programs, attached.
pub struct Watch {
    kernel: Option<Kernel>,
    maps: Maps,
    ring: RingBuf<MapData>,
    report: Report,
    /// `None` where no handshake waits to be judged.
    overdue: Option<Overdue>,
    origins: Origins,
}

/// What a stream of events says about itself that begins here and now.
#[must_use]
pub fn preamble() -> Preamble {
    Preamble {
        tracer: format!("{} ({})", env!("CARGO_PKG_VERSION"), env!("TRACER_REVISION")),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        clock_offset_ns: clock_offset_ns(),
    }
}

/// What CLOCK_REALTIME is ahead of the programs' clock. Taken once: all times of a run have the same offset.
fn clock_offset_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let unix_ns = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    i64::try_from(unix_ns - i128::from(monotonic_ns())).unwrap_or(0)
}

/// Who looks.
pub trait Audience {
    /// Takes a record that the ring delivered; `meet` finds the names of its event.
    fn take(&mut self, record: &[u8], meet: Meet<'_>) -> ControlFlow<()>;
    /// Takes a name that the source told.
    fn learn(&mut self, name: Name);
    /// Nothing is waiting at the moment.
    fn pause(&mut self) -> ControlFlow<()>;
}

/// Finds the names of an event.
pub struct Meet<'a> {
    origins: &'a mut Origins,
    kernel: Option<(&'a mut Kernel, &'a Report)>,
}

impl<'a> Meet<'a> {
    /// Without programs of one's own.
    pub fn of(origins: &'a mut Origins) -> Self {
        Self { origins, kernel: None }
    }

    /// Teaches `names` what the event lacks, and tells what that was.
    pub fn event(self, event: &Event, names: &mut Names, tell: impl FnMut(&Name)) {
        self.origins.meet(event, names, self.kernel, tell);
    }
}

/// What has to be attached for a kind of events; `None` = what is always there.
const fn signal_of(kind: EventKind) -> Option<Signal> {
    match kind {
        EventKind::Drop => Some(Signal::ListenDrops),
        EventKind::Retransmit => Some(Signal::Retransmits),
        EventKind::Synack => Some(Signal::SynackRetransmits),
        EventKind::TimeWait => Some(Signal::TimeWaitOverflows),
        EventKind::Reset => Some(Signal::Resets),
        EventKind::Connect | EventKind::Listen | EventKind::State => None,
    }
}

/// Kinds of events that nothing is attached for: only totals are left of them.
pub fn unseen<'a>(
    report: &'a Report,
    kinds: &'a [EventKind],
) -> impl Iterator<Item = (EventKind, &'a LadderReport)> + use<'a> {
    kinds.iter().filter_map(|kind| {
        let ladder = signal_of(*kind).and_then(|signal| report.of(signal))?;
        // The rung of candidates has no hook of its own, and events all the same.
        ladder.rung.is_none().then_some((*kind, ladder))
    })
}

impl Watch {
    /// Loads and attaches what these kinds need.
    pub fn open(config: &Config, kinds: &[EventKind]) -> Result<Self, Failure> {
        let mut signals = vec![Signal::Connections, Signal::ListenerPass];
        signals.extend(kinds.iter().filter_map(|kind| signal_of(*kind)));
        if kinds.contains(&EventKind::Connect) {
            // Beside what is always there: without it, fewer of them are told by their error.
            signals.push(Signal::ConnectErrors);
        }
        // Listeners that open tell their process's name, whoever asks for them.
        let records = kinds.iter().fold(Kind::Listen.bit(), |bits, kind| bits | kind.wire().bit());
        let mut kernel = prepare_for(config, records, Some(signals))?;
        let maps = kernel.maps().map_err(|error| Failure::unusable(&error))?;
        let ring = kernel.take_ring().map_err(|error| Failure::unusable(&error))?;
        let origins = Origins::new(config, kernel.names_threads())?;
        let report = kernel.attach(&maps).map_err(|error| Failure::unusable(&error))?;
        if report.verdict() == Verdict::Unusable {
            return Err(Failure::unusable(&unusable(&report)));
        }
        let overdue = report.stands_on(Signal::ListenDrops, "packets").then(Overdue::default);
        Ok(Self { kernel: Some(kernel), maps, ring, report, overdue, origins })
    }

    /// Kinds of events that nothing is attached for: only totals are left of them.
    pub fn unseen<'a>(&'a self, kinds: &'a [EventKind]) -> impl Iterator<Item = (EventKind, &'a LadderReport)> {
        unseen(&self.report, kinds)
    }

    /// Names of the network namespaces under /run/netns.
    #[must_use]
    pub fn namespace_names(&self) -> Vec<String> {
        self.origins.namespaces().flat_map(|namespace| namespace.names.iter().cloned()).collect()
    }

    /// Hands the audience what comes until it wants no more.
    pub fn run(&mut self, audience: &mut impl Audience) -> io::Result<()> {
        let mut hall = Hall {
            kernel: &mut self.kernel,
            maps: &self.maps,
            report: &self.report,
            overdue: &mut self.overdue,
            origins: &mut self.origins,
            audience,
        };
        ring::drain_alone(&mut self.ring, &mut hall)
    }

    /// Detaches everything; then, if there is somebody, hands on what is still in the ring.
    pub fn close(&mut self, audience: Option<&mut impl Audience>) {
        self.kernel = None;
        let Some(audience) = audience else { return };
        thread::sleep(SETTLE);
        let mut hall = Hall {
            kernel: &mut self.kernel,
            maps: &self.maps,
            report: &self.report,
            overdue: &mut self.overdue,
            origins: &mut self.origins,
            audience,
        };
        ring::drain_rest(&mut self.ring, &mut hall);
        // The end of it all either way.
        let _ = hall.pause();
    }

    /// What was lost before it came to the audience, of these kinds.
    pub fn losses(&self, kinds: &[EventKind]) -> io::Result<Vec<Loss>> {
        let of = |kind: Kind| kinds.iter().find(|wanted| wanted.wire() == kind);
        let tallies = self.maps.tallies()?.into_iter();
        Ok(tallies
            .filter_map(|(kind, tally)| {
                let kind = of(kind)?.name().to_owned();
                Some(Loss { kind, ring: tally.lost_ring, rate: tally.lost_rate, ..Loss::default() })
            })
            .filter(|loss| loss.ring + loss.rate > 0)
            .collect())
    }
}

/// Where the ring meets the audience.
struct Hall<'a, A> {
    kernel: &'a mut Option<Kernel>,
    maps: &'a Maps,
    report: &'a Report,
    overdue: &'a mut Option<Overdue>,
    origins: &'a mut Origins,
    audience: &'a mut A,
}

impl<A: Audience> Hall<'_, A> {
    fn hand(&mut self, record: &[u8]) -> ControlFlow<()> {
        let report = self.report;
        let meet = Meet { origins: self.origins, kernel: self.kernel.as_mut().map(|kernel| (kernel, report)) };
        self.audience.take(record, meet)
    }

    /// Drops that no packet has resolved yet.
    fn hand_overdue(&mut self) -> ControlFlow<()> {
        let Some(overdue) = self.overdue else { return ControlFlow::Continue(()) };
        let pending = self.maps.handshakes().unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot read the handshakes that wait");
            Vec::new()
        });
        for record in overdue.take(&pending, monotonic_ns()) {
            self.hand(&record)?;
        }
        ControlFlow::Continue(())
    }
}

impl<A: Audience> Sink for Hall<'_, A> {
    fn record(&mut self, record: &[u8]) -> ControlFlow<()> {
        if self.overdue.as_mut().is_some_and(|overdue| overdue.was_shown(record)) {
            return ControlFlow::Continue(());
        }
        self.hand(record)
    }

    fn pause(&mut self) -> ControlFlow<()> {
        self.hand_overdue()?;
        self.audience.pause()
    }
}
