//! Names for events on a live node: of namespaces, owners and listening processes.
//!
//! Asked when an event's names are not known yet, and then at most so often: `/proc`, the cgroup tree and the
//! listeners are each looked through once in a while, never for each event. What it finds it hands on as
//! [`Name`]s; what cannot be told yet is asked for again later.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Config, attributor};
use crate::{
    events::names::{Listener, Name, Names, Namespace},
    failure::Failure,
    kernel::{
        hooks::{Report, Signal},
        load::Kernel,
        netns::{self, Discovery, Roots},
    },
    pipeline::{
        attribute::{Attributor, Evidence, Owner, log_listing::LogListing},
        decode::{Detail, Event, ip_address},
        snapshot::Found,
    },
};

/// Time between two looks at the processes, and until a name that could not be told is asked for again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two walks over the listeners: those that open meanwhile tell themselves.
const WALK_INTERVAL: Duration = Duration::from_secs(5);
/// Names that wait to be told. Beyond, the oldest questions are put again sooner.
const WAITING_MAX: usize = 4096;
/// Processes that are looked at in one interval because they listen.
const PROCESSES_MAX: u32 = 100;

/// Finds names.
pub struct Origins {
    attributor: Attributor,
    roots: Roots,
    found: Discovery,
    looked: Instant,
    walked: Option<Instant>,
    tenants: HashMap<u64, Arc<Owner>>,
    waiting: HashMap<(u64, Option<u64>), Instant>,
    /// Whether the hook that sees listen() knows only the calling thread's name.
    names_are_of_threads: bool,
    /// How many processes were looked at since then.
    processes: (Instant, u32),
}

impl Origins {
    /// Looks at the node for the first time.
    pub fn new(config: &Config, names_are_of_threads: bool) -> Result<Self, Failure> {
        let roots = Roots::default();
        let found = netns::discover(&roots).map_err(|error| Failure::unusable(&error))?;
        let now = Instant::now();
        Ok(Self {
            attributor: attributor(LogListing::new(&config.pod_logs))?,
            roots,
            found,
            looked: now,
            walked: None,
            tenants: HashMap::new(),
            waiting: HashMap::new(),
            names_are_of_threads,
            processes: (now, 0),
        })
    }

    /// Names of the network namespaces that were there at the last look.
    pub fn namespaces(&self) -> impl Iterator<Item = &netns::NetnsRef> {
        self.found.namespaces.values()
    }

    /// Finds the names that an event lacks, and hands each on.
    pub fn meet(
        &mut self,
        event: &Event,
        names: &mut Names,
        kernel: Option<(&mut Kernel, &Report)>,
        mut tell: impl FnMut(&Name),
    ) {
        let mut learn = |names: &mut Names, name: Name| {
            tell(&name);
            names.learn(name);
        };
        if !names.knows_namespace(event.netns)
            && let Some(name) = self.namespace(event)
        {
            learn(names, name);
        }
        if !names.knows_owner(event.netns, event.cgroup)
            && let Some(name) = self.owner(event)
        {
            learn(names, name);
        }
        if let Some(name) = self.opened(event) {
            learn(names, name);
        }
        if is_of_listener(event) && names.listener(event).is_none() {
            for name in self.walk(kernel) {
                learn(names, name);
            }
        }
    }

    fn namespace(&mut self, event: &Event) -> Option<Name> {
        let now = self.may_ask((event.netns, None))?;
        if now.saturating_duration_since(self.looked) >= LOOK_INTERVAL {
            self.looked = now;
            match netns::discover(&self.roots) {
                Ok(found) => self.found = found,
                Err(error) => tracing::debug!(%error, "cannot look for network namespaces"),
            }
        }
        let key = (event.netns, None);
        let Some(found) = self.found.namespaces.get(&event.netns_inum) else {
            return self.ask_again(key, now);
        };
        let is_host = found.inum == self.found.host;
        let mut names = found.names.iter().cloned();
        let name = names.next().unwrap_or_default();
        let named = Namespace { inode: found.inum, is_host, name, other_names: names.collect() };
        let tenant = match found.lowest_pid.filter(|_| !is_host) {
            Some(pid) => match self.attributor.tenant(pid, now) {
                Some(tenant) => tenant.owner,
                None => return self.ask_again(key, now),
            },
            None => Arc::default(),
        };
        bounded(&mut self.tenants).insert(event.netns, tenant);
        Some(Name::Namespace { netns: event.netns, named })
    }

    fn owner(&mut self, event: &Event) -> Option<Name> {
        let key = (event.netns, Some(event.cgroup));
        let now = self.may_ask(key)?;
        let Some(tenant) = self.tenants.get(&event.netns).map(Arc::clone) else {
            return self.ask_again(key, now);
        };
        let evidence = Evidence { cgroup_id: event.cgroup, holder_tgid: None, tenant: &tenant };
        match self.attributor.owner(&evidence, now) {
            Some(owner) => Some(Name::Owner { netns: event.netns, cgroup: event.cgroup, owner: Owner::clone(&owner) }),
            None => self.ask_again(key, now),
        }
    }

    /// A listener that opens tells who it is.
    fn opened(&mut self, event: &Event) -> Option<Name> {
        let Detail::Listen { opened: true, tgid, process } = &event.detail else { return None };
        let local = event.local?;
        let may_look = self.may_look_at_a_process();
        let asked = (self.names_are_of_threads && may_look).then(|| self.attributor.process_name(*tgid)).flatten();
        let process = asked.map_or_else(|| process.clone(), |name| String::from_utf8_lossy(&name).into_owned());
        let owner = if may_look { self.owner_of_holder(event.netns, event.cgroup, *tgid) } else { Owner::default() };
        let listener = Listener { address: local.address, process, owner };
        Some(Name::Listener { netns: event.netns, port: local.port, listener })
    }

    /// Whose a listener is that a process is known to hold; empty where only the cgroup will tell.
    fn owner_of_holder(&mut self, netns: u64, cgroup_id: u64, tgid: u32) -> Owner {
        let tenant = self.tenants.get(&netns).map(Arc::clone).unwrap_or_default();
        let evidence = Evidence { cgroup_id, holder_tgid: Some(tgid), tenant: &tenant };
        self.attributor.owner(&evidence, Instant::now()).map(|owner| Owner::clone(&owner)).unwrap_or_default()
    }

    /// Whether another process may be looked at in this interval.
    fn may_look_at_a_process(&mut self) -> bool {
        let (since, looked_at) = &mut self.processes;
        if since.elapsed() >= LOOK_INTERVAL {
            (*since, *looked_at) = (Instant::now(), 0);
        }
        *looked_at += 1;
        *looked_at <= PROCESSES_MAX
    }

    /// Who listens on the node, by the walk that tells processes.
    fn walk(&mut self, kernel: Option<(&mut Kernel, &Report)>) -> Vec<Name> {
        let Some((kernel, _)) = kernel.filter(|(_, report)| report.stands_on(Signal::ListenerPass, "task_file")) else {
            return Vec::new();
        };
        if self.walked.is_some_and(|walked| walked.elapsed() < WALK_INTERVAL) {
            return Vec::new();
        }
        let mut found = Found::default();
        let walked = kernel.walk("listeners_by_task", |record| found.add(record));
        self.walked = Some(Instant::now());
        if let Err(error) = walked {
            tracing::debug!(%error, "cannot walk the listeners");
            return Vec::new();
        }
        let mut names = Vec::new();
        for (key, seen) in found.join().0 {
            let Some(holder) = seen.owner(0, key.cgroup) else { continue };
            let cgroup = if holder.cgroup == 0 { key.cgroup } else { holder.cgroup };
            let owner = self.owner_of_holder(key.netns, cgroup, holder.tgid);
            let process = text(&holder.comm);
            let listener = Listener { address: ip_address(&key.address), process, owner };
            names.push(Name::Listener { netns: key.netns, port: key.port, listener });
        }
        names
    }

    /// The time, if the question may be put now.
    fn may_ask(&self, key: (u64, Option<u64>)) -> Option<Instant> {
        let now = Instant::now();
        let is_early = self.waiting.get(&key).is_some_and(|until| now < *until);
        (!is_early).then_some(now)
    }

    fn ask_again(&mut self, key: (u64, Option<u64>), now: Instant) -> Option<Name> {
        bounded(&mut self.waiting).insert(key, now + LOOK_INTERVAL);
        None
    }
}

/// Whether the event is about a listener, or a connection of one, by its kind alone.
pub(super) fn is_of_listener(event: &Event) -> bool {
    match &event.detail {
        Detail::ListenDrop { .. } | Detail::SynackRetransmit => true,
        Detail::Retransmit { role, .. } => *role == "server",
        _ => false,
    }
}

fn text(comm: &[u8; 16]) -> String {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..end]).into_owned()
}

fn bounded<K, V>(table: &mut HashMap<K, V>) -> &mut HashMap<K, V> {
    if table.len() >= WAITING_MAX {
        table.clear();
    }
    table
}
