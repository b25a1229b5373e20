//! Wires the stages together and runs them: one thread for the passes, one tokio runtime for the
//! ring and HTTP. Nothing is opened before the configuration is valid, and the address is bound
//! before anything is attached.

pub mod attend;
mod burial;
pub mod descriptors;
pub mod inside;
pub mod late_ipv6;
pub mod legacy;
mod listening;
pub mod liveness;
pub mod origins;
pub mod outage;
pub mod overdue;
pub mod ports;
pub mod reaper;
pub mod registry;
pub mod settings;
pub mod snapshot;
pub mod socket_pass;
pub mod visits;
mod walking;
pub mod watch;
pub mod worker;

use std::{
    collections::HashSet,
    future::Future,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya_log::EbpfLogger;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch as changes},
};
use tracer_ebpf::settings::KINDS_OF_AGENT;

use self::{
    descriptors::Descriptors,
    late_ipv6::LateIpv6,
    legacy::Legacy,
    outage::Outage,
    ports::PortPass,
    reaper::Reaper,
    registry::Registry,
    settings::Slice,
    socket_pass::SocketPass,
    visits::Visits,
    worker::{Stop, Worker, lock},
};
use crate::{
    config::{Config, LogLevel},
    export::{
        collector::{self, Sources},
        http::{self, Refused, Source},
        own::Own,
        rows::Suppressed,
        status,
    },
    failure::Failure,
    kernel::{
        btf::Btf,
        hooks::{Report, Signal, Verdict},
        load::{Kernel, LoadOptions, chain, ipv6_is_loaded},
        maps::Maps,
        netns::Roots,
        preflight::{Preflight, kernel_version, lift_memlock_limit},
        shortage,
        version::KernelVersion,
        viewpoint,
    },
    labels::Labels,
    obstacles::Obstacles,
    pipeline::{
        attribute::{Attributor, cgroup_tree::CgroupTree, log_listing::LogListing, process::Processes},
        decode::decode,
        journal::Journal,
        node, ring,
    },
    view::View,
};

/// How long responses may go on once the agent is to end.
const RESPONSES_LIMIT: Duration = Duration::from_secs(3);
/// How long the worker may then take for what it is at. What it holds ends with the process.
const WORKER_LIMIT: Duration = Duration::from_secs(1);
/// How often is looked whether the first pass is done, and whether the worker has ended.
const TICK: Duration = Duration::from_millis(10);
/// Time between two lines about a first pass that goes on.
const FIRST_PASS_SAID: Duration = Duration::from_secs(30);

/// What the HTTP server shows; shared by all parts.
pub struct Shared {
    /// When the agent started.
    pub started: Instant,
    /// The configuration in force.
    pub config: Config,
    /// What became of the hooks.
    pub report: Arc<Report>,
    maps: Arc<Maps>,
    view: Arc<Mutex<Arc<View>>>,
    labels: Arc<Mutex<Labels>>,
    obstacles: Arc<Mutex<Obstacles>>,
    journal: Mutex<Journal>,
    suppressed: Suppressed,
    own: Own,
}

/// Preflight and the load of the object, attached to nothing yet.
pub fn prepare(config: &Config) -> Result<Kernel, Failure> {
    prepare_for(config, KINDS_OF_AGENT, None)
}

/// The same for some kinds of records and the ladders of some signals.
fn prepare_for(config: &Config, kinds: u64, signals: Option<Vec<Signal>>) -> Result<Kernel, Failure> {
    lift_memlock_limit();
    shortage::lift_descriptor_limit();
    let preflight = Preflight::collect();
    preflight.verdict().map_err(|error| Failure::unusable(&error))?;
    let btf = Btf::from_sys_fs().map_err(|error| {
        Failure::unusable(&format_args!(
            "the kernel's type information cannot be used: {error}; please report it with the kernel's version"
        ))
    })?;
    let options = LoadOptions {
        disabled: config.disable_hooks.clone(),
        ring_bytes: config.ring_bytes,
        rate_limit: config.rate_limit,
        kinds,
        signals,
        listeners_max: config.max_listeners,
        workloads_max: config.max_workloads,
        ports_max: config.max_ports,
        syn_queue_full_at_limit: preflight.version.is_some_and(KernelVersion::syn_queue_full_at_limit),
        cgroup_root: cgroup_tree()?.filter(CgroupTree::is_whole).map(|tree| tree.root().to_owned()),
        debug: config.log_level as u8 >= LogLevel::Debug as u8,
    };
    Kernel::prepare(&btf, options).map_err(|error| Failure::unusable(&error))
}

fn cgroup_tree() -> Result<Option<CgroupTree>, Failure> {
    CgroupTree::locate(Path::new("/proc/self/mountinfo")).map_err(|error| {
        let remedy = shortage::remedy_or(&error, "mount proc at /proc");
        Failure::other(format!("cannot read /proc/self/mountinfo: {}; {remedy}", chain(&error)))
    })
}

fn attributor(logs: LogListing) -> Result<Attributor, Failure> {
    let processes = Processes::new("/proc");
    let processes = if viewpoint::proc_has_hosts_numbers() { processes } else { processes.with_other_numbers() };
    Ok(Attributor::new(cgroup_tree()?, processes, logs))
}

/// An agent that is attached and has its baselines, before its first pass.
struct Started {
    shared: Arc<Shared>,
    worker: Worker,
    ring: aya::maps::RingBuf<aya::maps::MapData>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
}

/// Loads, attaches and reads the baselines.
fn start(config: Config, logs: LogListing) -> Result<Started, Failure> {
    let mut kernel = prepare(&config)?;
    let maps = Arc::new(kernel.maps().map_err(|error| Failure::unusable(&error))?);
    let ring = kernel.take_ring().map_err(|error| Failure::unusable(&error))?;
    let logger = logger(&config, &mut kernel);
    let report = Arc::new(kernel.attach(&maps).map_err(|error| Failure::unusable(&error))?);
    if report.verdict() == Verdict::Unusable {
        return Err(Failure::unusable(&unusable(&report)));
    }
    if let Some(remark) = viewpoint::remark() {
        tracing::info!("{remark}");
    }
    let shared = Arc::new(Shared {
        started: Instant::now(),
        report: Arc::clone(&report),
        maps: Arc::clone(&maps),
        view: Arc::default(),
        labels: Arc::new(Mutex::new(Labels::new(attributor(logs)?))),
        obstacles: Arc::default(),
        journal: Mutex::default(),
        suppressed: Suppressed::default(),
        own: Own::new().map_err(|error| Failure::other(format!("the agent's own metrics: {error}")))?,
        config,
    });
    let walker = kernel
        .walker()
        .map_err(|error| Failure::other(format!("duplicating descriptors: {}", shortage::explain(&error))))?;
    let mut worker = Worker {
        kernel,
        walker,
        visits: Visits::to_read(),
        walking: Visits::to_walk(),
        report,
        maps,
        labels: Arc::clone(&shared.labels),
        view: Arc::clone(&shared.view),
        interval: shared.config.pass_interval,
        cpu_percent: shared.config.pass_cpu_percent,
        roots: Roots::default(),
        registry: Registry::default(),
        reaper: Reaper::new(shared.config.retain),
        legacy: Legacy::default(),
        socket_pass: SocketPass::default(),
        ports: PortPass::default(),
        node: node::Reader::new("/proc", tcp_memory_unit_bytes()),
        descriptors: Descriptors::new("/proc"),
        unlisted: HashSet::new(),
        slice: Slice::default(),
        until_next: shared.config.pass_interval,
        is_first: true,
        late_ipv6: LateIpv6::after(&shared.report, ipv6_is_loaded()),
        outage: Outage::default(),
        failed: None,
        met: Obstacles::default(),
        obstacles: Arc::clone(&shared.obstacles),
        lost_passes: 0,
    };
    worker.baseline().map_err(|error| {
        let cause = shortage::explain(&error);
        Failure::other(format!("reading the namespaces' counters: {cause}"))
    })?;
    Ok(Started { shared, worker, ring, logger })
}

/// Runs the agent on a bound address until `shutdown` comes.
pub async fn run(
    config: Config,
    http: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
    announce: impl FnOnce(&Arc<Shared>),
) -> Result<(), Failure> {
    let logs = LogListing::new(&config.pod_logs);
    let Started { shared, worker, ring, logger } = start(config, logs)?;
    let (stop, stopped) = mpsc::channel();
    let (ended, end) = oneshot::channel::<()>();
    let worker = thread::Builder::new()
        .name("passes".into())
        .spawn(move || {
            worker.run(&stopped);
            // Nobody listens any more once the agent is leaving.
            let _ = ended.send(());
        })
        .map_err(|error| Failure::other(format!("cannot start the worker thread: {error}")))?;
    let (leave, mut leaving) = changes::channel(());
    let shutdown = async move {
        shutdown.await;
        drop(leave);
    };
    let late = async move {
        // The channel carries nothing: it ends when the agent is to.
        let _ = leaving.changed().await;
        tokio::time::sleep(RESPONSES_LIMIT).await;
        tracing::warn!("a response takes too long; the agent ends without it");
    };
    let served = tokio::select! {
        served = serve(Arc::clone(&shared), http, ring, logger, shutdown, announce) => served,
        _ = end => Err(worker_ended()),
        () = late => Ok(()),
    };
    // An error here means that the worker has ended already.
    let _ = stop.send(Stop);
    await_end(&worker).await;
    served
}

/// Lets the worker end by itself, so that the programs are dropped by whom they belong to.
async fn await_end<T>(worker: &JoinHandle<T>) {
    let limit = Instant::now() + WORKER_LIMIT;
    while !worker.is_finished() {
        if Instant::now() > limit {
            return tracing::warn!("a pass takes too long; the agent ends without it");
        }
        tokio::time::sleep(TICK).await;
    }
}

/// What the kernel counts TCP's memory in.
fn tcp_memory_unit_bytes() -> u64 {
    let page_bytes = rustix::param::page_size() as u64;
    kernel_version().map_or(page_bytes, |version| version.tcp_memory_unit_bytes(page_bytes))
}

/// Nobody told them to.
fn worker_ended() -> Failure {
    Failure::other("the passes ended by themselves; start the agent again and report it")
}

async fn serve(
    shared: Arc<Shared>,
    http: TcpListener,
    ring: aya::maps::RingBuf<aya::maps::MapData>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    shutdown: impl Future<Output = ()> + Send + 'static,
    announce: impl FnOnce(&Arc<Shared>),
) -> Result<(), Failure> {
    let journal = Arc::clone(&shared);
    let drain = ring::drain(ring, move |record| {
        let decoded = decode(record);
        journal.own.watchers.hand(decoded.as_ref().ok().map(|event| event.detail.kind()), record);
        lock(&journal.journal).record(decoded);
    });
    let _attended = http.local_addr().ok().and_then(|address| attend::open(&shared, address.port()));
    let server = http::serve(http, Arc::clone(&shared) as Arc<dyn Source>, shutdown);
    let ready = async {
        wait_until_ready(&shared).await;
        announce(&shared);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = server => Ok(()),
        result = drain => Err(Failure::other(format!("the event ring failed: {}", result.err().map(|error| error.to_string()).unwrap_or_default()))),
        () = ready => Ok(()),
        () = flush_log(logger) => Ok(()),
    }
}

/// Waits for the first pass for as long as it goes on: a pass has a deadline for all that may hang, and what takes long
/// on this node would take as long again after a restart.
async fn wait_until_ready(shared: &Shared) {
    let mut said = Instant::now();
    while shared.view().passes.is_empty() {
        if said.elapsed() >= FIRST_PASS_SAID {
            said = Instant::now();
            let seconds = shared.started.elapsed().as_secs();
            tracing::warn!(seconds, "the first pass over namespaces and listeners goes on; it is waited for");
        }
        tokio::time::sleep(TICK).await;
    }
}

/// The eBPF programs' own log output, at debug level only.
fn logger(config: &Config, kernel: &mut Kernel) -> Option<EbpfLogger<&'static dyn log::Log>> {
    if (config.log_level as u8) < LogLevel::Debug as u8 {
        return None;
    }
    EbpfLogger::init_with_logger(kernel.ebpf_mut(), log::logger())
        .inspect_err(|error| tracing::warn!(%error, "the programs' debug output is not available"))
        .ok()
}

async fn flush_log(logger: Option<EbpfLogger<&'static dyn log::Log>>) {
    let Some(mut logger) = logger else { return std::future::pending().await };
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        logger.flush();
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no required hook is in force: {0}")]
struct Unusable(String);

fn unusable(report: &Report) -> Unusable {
    let failed = report.ladders.iter().filter(|ladder| ladder.verdict() == Verdict::Unusable);
    let causes = failed.flat_map(|ladder| &ladder.refusals);
    let texts: Vec<String> =
        causes.map(|refusal| format!("{}: {}; {}", refusal.hook, refusal.cause, refusal.remedy)).collect();
    Unusable(texts.join(" / "))
}

impl Shared {
    /// The last pass's result.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&lock(&self.view))
    }
}

impl Source for Shared {
    fn metrics(&self) -> Result<Bytes, String> {
        // The labels first: the worker holds them from the removal of rows until the view that makes up for it.
        let mut labels = lock(&self.labels);
        let view = self.view();
        let obstacles = lock(&self.obstacles).clone();
        // A copy, since the ring's reader waits for the journal.
        let losses = lock(&self.journal).losses().clone();
        let collected = collector::collect(&mut Sources {
            view: &view,
            maps: &self.maps,
            report: &self.report,
            labels: &mut labels,
            losses: &losses,
            obstacles: &obstacles,
            suppressed: &self.suppressed,
            own: &self.own,
            now: Instant::now(),
        });
        collected.map_err(|error| {
            let cause = format!("the maps cannot be read: {}; {}", chain(&error), shortage::remedy_of(&error));
            self.own.failed(&cause);
            cause
        })
    }

    fn status(&self, shows_peers: bool) -> Value {
        let up = self.started.elapsed();
        let obstacles = lock(&self.obstacles).clone();
        let mut status = status::status(&self.report, &self.view(), &obstacles, &lock(&self.journal), up);
        status["event_watchers"] = json!({ "watching": self.own.watchers.len(), "lost": self.own.watchers.lost() });
        if !shows_peers {
            status::hide_peers(&mut status);
        }
        status
    }

    fn refused(&self, what: Refused, n: usize) {
        self.own.refused(what, n);
    }

    fn ready(&self) -> Result<(), String> {
        liveness::ready(&self.view(), &lock(&self.obstacles), Instant::now())
    }

    fn alive(&self) -> Result<(), String> {
        liveness::alive(&self.view(), self.started, Instant::now())
    }
}
