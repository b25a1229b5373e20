//! Whose each network namespace is, and that it stays so: a pod's namespace is the pod's until its rows are gone,
//! though no process of it is left.
//!
//! Owns the memory of tenants. Takes a namespace's identity and its lowest PID from the pass; what that process
//! tells is [`Attributor`]'s business. Time is passed in. Bounded by the namespaces that the registry keeps.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use crate::{
    pipeline::attribute::{Attributor, Owner, Tenant, names::NAMES_AWAITED},
    view::Namespace,
};

/// Tenants by the namespace's identity.
#[derive(Default)]
pub(super) struct Tenants(HashMap<u64, Lease>);

/// The answer for one namespace.
pub(super) enum Verdict {
    /// This owner's, as before if there was one.
    Same(Arc<Owner>),
    /// Another namespace has the identity by now, and this is its owner.
    Other(Arc<Owner>),
    /// It waits for a name.
    Later,
}

struct Lease {
    /// The life of the namespace that it was found for.
    life: u32,
    since: Instant,
    /// The process that told.
    pid: Option<u32>,
    tenant: Option<Tenant>,
    /// Whether another namespace had the identity before this one.
    succeeds: bool,
}

impl Tenants {
    /// Whose the namespace is.
    pub(super) fn ask(&mut self, namespace: &Namespace, attributor: &mut Attributor, now: Instant) -> Verdict {
        if namespace.is_host {
            return Verdict::Same(Arc::default());
        }
        let lease = self.0.entry(namespace.id).or_insert_with(|| Lease::new(namespace.life, false, now));
        if lease.life != namespace.life {
            *lease = Lease::new(namespace.life, true, now);
        }
        if lease.may_change(namespace) && !lease.renew(namespace, attributor, now) {
            return Verdict::Later;
        }
        let owner = lease.tenant.as_ref().map(|tenant| Arc::clone(&tenant.owner)).unwrap_or_default();
        if std::mem::take(&mut lease.succeeds) { Verdict::Other(owner) } else { Verdict::Same(owner) }
    }

    /// Whose it was at the last pass.
    pub(super) fn owner(&self, id: u64) -> Arc<Owner> {
        let tenant = self.0.get(&id).and_then(|lease| lease.tenant.as_ref());
        tenant.map(|tenant| Arc::clone(&tenant.owner)).unwrap_or_default()
    }

    /// Forgets one namespace.
    pub(super) fn forget(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// Forgets all others.
    pub(super) fn keep(&mut self, ids: &BTreeSet<u64>) {
        self.0.retain(|id, _| ids.contains(id));
    }
}

impl Lease {
    fn new(life: u32, succeeds: bool, now: Instant) -> Self {
        Self { life, since: now, pid: None, tenant: None, succeeds }
    }

    /// Whether there is something new to ask. A pod stays, whoever else enters its namespace; but where
    /// the inode number alone is the identity the next pod may have it.
    fn may_change(&self, namespace: &Namespace) -> bool {
        let Some(tenant) = &self.tenant else { return true };
        let is_other_process = namespace.lowest_pid.is_some() && namespace.lowest_pid != self.pid;
        let is_unique = namespace.id != u64::from(namespace.inum);
        is_other_process && !(tenant.pod_uid.is_some() && is_unique)
    }

    /// Asks the lowest process; false while a name is awaited.
    fn renew(&mut self, namespace: &Namespace, attributor: &mut Attributor, now: Instant) -> bool {
        let Some(pid) = namespace.lowest_pid else {
            // A runtime makes a pod's namespace before its first process.
            return now.saturating_duration_since(self.since) >= NAMES_AWAITED || !attributor.awaits_pods(now);
        };
        let Some(found) = attributor.tenant(pid, now) else { return false };
        self.pid = Some(pid);
        match &self.tenant {
            // It has ended, or says nothing.
            Some(_) if *found.owner == Owner::default() && found.pod_uid.is_none() => {}
            Some(old) => {
                self.succeeds |= old.pod_uid.is_some() && old.pod_uid != found.pod_uid;
                self.tenant = Some(found);
            }
            None => self.tenant = Some(found),
        }
        true
    }
}
