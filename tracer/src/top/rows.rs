//! The rows of the tables: listeners, workloads, network namespaces, and the node as a whole. What the text of
//! `/metrics` does not have is `None`, never zero.

use std::collections::HashMap;

/// A counter, and how fast it grows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Since the agent began to count.
    pub total: Option<f64>,
    /// A second, between two readings.
    pub rate: Option<f64>,
}

impl Tally {
    /// Adds one series.
    pub fn add(&mut self, value: f64) {
        add(&mut self.total, value);
    }

    /// Sets the rate from what the counter was `seconds` ago. One that has become smaller began anew.
    pub fn since(&mut self, before: Self, seconds: f64) {
        let growth = self.total.zip(before.total).map(|(now, before)| now - before);
        self.rate = growth.filter(|growth| *growth >= 0.0 && seconds > 0.0).map(|growth| growth / seconds);
    }
}

/// Adds to a sum that may not have begun.
pub(super) fn add(sum: &mut Option<f64>, value: f64) {
    *sum = Some(sum.unwrap_or(0.0) + value);
}

/// Used of what there is; `None` where there is no limit.
pub(super) fn part(used: Option<f64>, limit: Option<f64>) -> Option<f64> {
    used.zip(limit).filter(|(_, limit)| *limit > 0.0).map(|(used, limit)| used / limit)
}

/// Rows in the order of the text, found by their labels.
#[derive(Clone, Debug)]
pub struct Rows<T> {
    index: HashMap<String, usize>,
    rows: Vec<T>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { index: HashMap::new(), rows: Vec::new() }
    }
}

impl<T> Rows<T> {
    /// The row with this key, made if it is new.
    pub fn entry(&mut self, key: &str, make: impl FnOnce() -> T) -> &mut T {
        let at = self.index.get(key).copied().unwrap_or_else(|| {
            self.index.insert(key.to_owned(), self.rows.len());
            self.rows.push(make());
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// The row with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&T> {
        self.index.get(key).map(|at| &self.rows[*at])
    }

    /// Every row with the row of the same key among `others`.
    pub fn beside<'a, U>(&'a mut self, others: &'a Rows<U>, mut each: impl FnMut(&mut T, Option<&U>)) {
        for (key, at) in &self.index {
            each(&mut self.rows[*at], others.get(key));
        }
    }

    /// All rows.
    #[must_use]
    pub fn all(&self) -> &[T] {
        &self.rows
    }

    /// All rows, to be changed.
    pub fn all_mut(&mut self) -> &mut [T] {
        &mut self.rows
    }
}

/// Whose a row is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The label `netns`.
    pub netns: String,
    /// The namespace's name, else its label.
    pub netns_name: String,
    /// `namespace/pod/container`, or the systemd unit; empty where neither is known.
    pub name: String,
}

/// One listener.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    /// Whose it is.
    pub owner: Owner,
    /// Name of the process.
    pub process: String,
    /// Address and port; `_other` and unattributed rows have none.
    pub address: String,
    /// Connections that wait for accept().
    pub queue: Option<f64>,
    /// What the kernel lets wait, but for one more.
    pub queue_limit: Option<f64>,
    /// The longest queue of two minutes.
    pub peak: Option<f64>,
    /// Handshakes under way.
    pub syn_queue: Option<f64>,
    /// How many may be.
    pub syn_queue_limit: Option<f64>,
    /// SYNs and last ACKs that were dropped.
    pub drops: Tally,
    /// The most frequent reason of drops.
    pub reason: String,
    /// How many drops have it.
    pub reason_count: f64,
    /// Handshakes that were completed.
    pub accepted: Tally,
}

impl Listener {
    /// Whether it is a listener, or something was counted that has none.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        !self.address.is_empty() || counted(&[self.drops.total, self.accepted.total])
    }

    /// How full the accept queue is. The kernel queues one more than the limit, and drops what follows.
    #[must_use]
    pub fn full(&self) -> Option<f64> {
        part(self.queue, self.queue_limit.map(|limit| limit + 1.0))
    }

    /// How full the SYN queue is.
    #[must_use]
    pub fn syn_full(&self) -> Option<f64> {
        part(self.syn_queue, self.syn_queue_limit)
    }
}

/// One workload.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    /// Who it is.
    pub owner: Owner,
    /// Segments sent again.
    pub retransmits: Tally,
    /// Retransmits by all segments that the whole namespace sent.
    pub share: Option<f64>,
    /// The most frequent cause of retransmits.
    pub cause: String,
    /// How many retransmits have it.
    pub cause_count: f64,
    /// Segments a second that the whole namespace sent, retransmits among them.
    pub netns_sent: Option<f64>,
    /// Open sockets in ESTABLISHED.
    pub established: Option<f64>,
    /// Open sockets in CLOSE_WAIT.
    pub close_wait: Option<f64>,
    /// Calls of connect() that failed.
    pub connect_failures: Tally,
    /// Connections given up for want of an answer.
    pub timeouts: Tally,
    /// Sockets that found no TIME_WAIT bucket.
    pub overflows: Tally,
}

impl Workload {
    /// Whether it has a name, or something was counted that has none.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        let tallies = [self.retransmits, self.connect_failures, self.timeouts, self.overflows].map(|tally| tally.total);
        !self.owner.name.is_empty() || counted(&tallies) || counted(&[self.established, self.close_wait])
    }
}

/// Whether any number is known and not zero.
fn counted(numbers: &[Option<f64>]) -> bool {
    numbers.iter().flatten().any(|number| *number != 0.0)
}

/// One network namespace.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// Which one, and whose.
    pub owner: Owner,
    /// Sockets in TIME_WAIT.
    pub time_wait: Option<f64>,
    /// How many may be.
    pub time_wait_limit: Option<f64>,
    /// Sockets that found no TIME_WAIT bucket.
    pub overflows: Tally,
    /// Ephemeral ports that the busiest destination uses.
    pub ports: Option<f64>,
    /// Ports that there are for one destination.
    pub ports_limit: Option<f64>,
    /// Segments sent, as the kernel counts them: without retransmits.
    pub sent: Tally,
    /// Segments sent a second, retransmits among them.
    pub all_sent: Option<f64>,
    /// Segments received.
    pub received: Tally,
    /// Segments sent again, of all workloads.
    pub retransmits: Tally,
    /// Retransmits by all segments sent.
    pub share: Option<f64>,
    /// Drops of all listeners.
    pub drops: Tally,
    /// The largest difference between the kernel's counts and the hooks', with its sign.
    pub difference: Option<f64>,
}

impl Namespace {
    /// How much of TIME_WAIT is used.
    #[must_use]
    pub fn time_wait_full(&self) -> Option<f64> {
        part(self.time_wait, self.time_wait_limit)
    }

    /// How many of the ports are used.
    #[must_use]
    pub fn ports_full(&self) -> Option<f64> {
        part(self.ports, self.ports_limit)
    }
}

/// The node and the agent.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The agent's version.
    pub version: String,
    /// When the agent started, seconds since the Unix epoch.
    pub started: Option<f64>,
    /// Passes and their ages in seconds.
    pub passes: Vec<(String, f64)>,
    /// Drops of all listeners, those that are gone among them.
    pub drops: Tally,
    /// Handshakes completed.
    pub accepted: Tally,
    /// Retransmits, those of workloads that are gone among them.
    pub retransmits: Tally,
    /// TIME_WAIT overflows, likewise.
    pub overflows: Tally,
    /// Sockets in TIME_WAIT.
    pub time_wait: Option<f64>,
    /// Orphans of the node.
    pub orphans: Option<f64>,
    /// How many may be.
    pub orphans_limit: Option<f64>,
    /// Memory of TCP, in bytes.
    pub memory_bytes: Option<f64>,
    /// How much it may be.
    pub memory_limit_bytes: Option<f64>,
    /// The largest difference of all, with its sign: how much, of which signal, in which namespace.
    pub difference: Option<(f64, String, String)>,
    /// Events whose detail was lost.
    pub events_lost: Option<f64>,
    /// Counts that found no room.
    pub counts_lost: Option<f64>,
    /// Series that scrapes left out.
    pub series_suppressed: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_counts_that_grow() {
        let rate = |before: Option<f64>, now: Option<f64>, seconds| {
            let mut tally = Tally { total: now, rate: Some(99.0) };
            tally.since(Tally { total: before, rate: None }, seconds);
            tally.rate
        };
        assert_eq!(rate(Some(10.0), Some(16.0), 2.0), Some(3.0));
        assert_eq!(rate(Some(10.0), Some(10.0), 2.0), Some(0.0));
        assert_eq!(rate(None, Some(16.0), 2.0), None);
        assert_eq!(rate(Some(10.0), None, 2.0), None);
        assert_eq!(rate(Some(10.0), Some(4.0), 2.0), None, "a counter began anew");
        assert_eq!(rate(Some(10.0), Some(16.0), 0.0), None);
    }

    #[test]
    fn a_queue_is_full_with_one_more_than_its_limit() {
        let listener =
            |queue, limit| Listener { queue: Some(queue), queue_limit: Some(limit), ..Listener::default() }.full();
        assert_eq!(listener(9.0, 8.0), Some(1.0));
        assert_eq!(listener(0.0, 0.0), Some(0.0));
        assert_eq!(Listener { queue: Some(1.0), ..Listener::default() }.full(), None);
        assert_eq!(part(Some(1.0), Some(0.0)), None);
    }
}
