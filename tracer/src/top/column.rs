//! The three tables and their columns: what each shows, what it means, how wide it is, and in which order columns
//! give way on a narrow terminal.

use super::{
    Tone,
    rows::{Listener, Namespace, Workload},
    text::{UNKNOWN, count, rate, share},
};

/// What a cell holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A name, empty where there is none.
    Text(&'a str),
    /// A count or a level.
    Count(Option<f64>),
    /// So many a second.
    Rate(Option<f64>),
    /// A part of a whole.
    Share(Option<f64>),
    /// Used, of so many.
    Of(Option<f64>, Option<f64>),
}

impl Value<'_> {
    /// The cell's text.
    #[must_use]
    pub fn show(self) -> String {
        let or_unknown = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.to_owned());
        match self {
            Self::Count(number) => or_unknown(number.map(count)),
            Self::Rate(number) => or_unknown(number.map(rate)),
            Self::Share(number) => or_unknown(number.map(share)),
            Self::Text("") | Self::Of(None, None) => UNKNOWN.to_owned(),
            Self::Text(text) => text.to_owned(),
            Self::Of(used, limit) => format!("{}/{}", or_unknown(used.map(count)), or_unknown(limit.map(count))),
        }
    }

    /// What numbers are sorted by.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        match self {
            Self::Text(_) => None,
            Self::Count(number) | Self::Rate(number) | Self::Share(number) | Self::Of(number, _) => number,
        }
    }

    /// Whether it is a name, which is set flush left and sorted from A to Z.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Text(_))
    }
}

/// From when on a number is worth a colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Alarm {
    /// Never.
    None,
    /// Other than 0.
    Nonzero(Tone),
    /// From these on: a warning, and worse.
    From(f64, f64),
}

impl Alarm {
    /// How a number is meant.
    #[must_use]
    pub fn tone(self, number: Option<f64>) -> Tone {
        match (self, number) {
            (Self::Nonzero(tone), Some(number)) if number != 0.0 => tone,
            (Self::From(_, bad), Some(number)) if number >= bad => Tone::Bad,
            (Self::From(warn, _), Some(number)) if number >= warn => Tone::Warn,
            _ => Tone::Plain,
        }
    }
}

/// One column of a table of `R`.
pub struct Column<R> {
    /// Its heading, and its name for `--sort`.
    pub title: &'static str,
    /// Columns of the terminal that it takes, heading and mark of the order included.
    pub width: usize,
    /// Whether it takes what is left over.
    pub grows: bool,
    /// Columns with higher numbers give way first; 0 stays.
    pub priority: u8,
    /// When its numbers are worth a colour.
    pub alarm: Alarm,
    /// The cell of a row.
    pub value: fn(&R) -> Value<'_>,
    /// What it says, for help and docs/top.md.
    pub meaning: &'static str,
}

/// A table: its columns, and how it is sorted until told otherwise.
pub struct Table<R: 'static> {
    /// Its name on the tab and for `--tab`.
    pub name: &'static str,
    /// From left to right.
    pub columns: &'static [Column<R>],
    /// Whether a row says anything. Each namespace has one for what no listener or workload could be named for, mostly zero.
    pub is_shown: fn(&R) -> bool,
    /// The column that sorts at first, then those that decide between equals.
    pub order: &'static [&'static str],
}

/// Declares columns; a row reads: title, width (`+` = takes what is left), priority, alarm, value, meaning.
macro_rules! columns {
    ($row:ty: $($title:literal $width:literal $grows:literal $priority:literal $alarm:expr, $value:expr, $meaning:literal;)+) => {
        &[$(Column::<$row> {
            title: $title,
            width: $width,
            grows: $grows,
            priority: $priority,
            alarm: $alarm,
            value: $value,
            meaning: $meaning,
        }),+]
    };
}

/// A queue at four fifths of its limit is what alerts ask for too.
const FULL: Alarm = Alarm::From(0.8, 1.0);
/// One segment of a hundred sent again is more than a sound path loses, one of twenty is felt.
const LOSSY: Alarm = Alarm::From(0.01, 0.05);
const HAPPENED: Alarm = Alarm::Nonzero(Tone::Warn);
const HAPPENS: Alarm = Alarm::Nonzero(Tone::Bad);

/// Listeners.
pub static LISTENERS: Table<Listener> = Table {
    name: "listeners",
    order: &["drops/s", "full", "drops"],
    is_shown: Listener::is_shown,
    columns: columns! { Listener:
        "listener" 21 true 0 Alarm::None, |row| Value::Text(&row.address),
            "Address and port it is bound to; – in the row of what no listener could be named for, which is there once something was counted.";
        "process" 16 false 2 Alarm::None, |row| Value::Text(&row.process),
            "Name of the process that holds it.";
        "owner" 16 true 5 Alarm::None, |row| Value::Text(&row.owner.name),
            "namespace/pod/container, or the systemd unit; _other collects what found no room of its own.";
        "netns" 12 false 7 Alarm::None, |row| Value::Text(&row.owner.netns_name),
            "Network namespace: host, its name, or its inode number.";
        "queue" 11 false 1 Alarm::None, |row| Value::Of(row.queue, row.queue_limit),
            "Connections that wait for accept(), and the limit in force; on the fullest socket of a SO_REUSEPORT group.";
        "full" 7 false 0 FULL, |row| Value::Share(row.full()),
            "How full that queue is: the kernel queues one more than the limit, and at 100% drops what follows.";
        "peak" 7 false 4 Alarm::None, |row| Value::Count(row.peak),
            "Length of the fullest accept queue that was seen in the last two minutes.";
        "syn queue" 12 false 6 Alarm::None, |row| Value::Of(row.syn_queue, row.syn_queue_limit),
            "Handshakes under way, and how many may be; on the socket with the fullest SYN queue.";
        "drops" 8 false 0 HAPPENED, |row| Value::Count(row.drops.total),
            "SYNs and last ACKs that it dropped since the agent began to count.";
        "drops/s" 9 false 0 HAPPENS, |row| Value::Rate(row.drops.rate),
            "The same a second, since the reading before.";
        "accept/s" 10 false 3 Alarm::None, |row| Value::Rate(row.accepted.rate),
            "Handshakes completed a second, whether or not accept() was called.";
        "reason" 22 false 8 Alarm::None, |row| Value::Text(&row.reason),
            "The most frequent reason of its drops, by the label of tracer_tcp_listen_drops_total.";
    },
};

/// Workloads.
pub static WORKLOADS: Table<Workload> = Table {
    name: "workloads",
    order: &["share", "retr/s", "retrans"],
    is_shown: Workload::is_shown,
    columns: columns! { Workload:
        "workload" 20 true 0 Alarm::None, |row| Value::Text(&row.owner.name),
            "namespace/pod/container, or the systemd unit; – for what has neither, _other for what found no room.";
        "netns" 12 false 1 Alarm::None, |row| Value::Text(&row.owner.netns_name),
            "Network namespace: host, its name, or its inode number.";
        "share" 8 false 0 LOSSY, |row| Value::Share(row.share),
            "Its retransmits by all segments that its whole network namespace sent, retransmits among them, between the \
             last two passes. The kernel counts segments by namespace only: where several workloads share one, this is \
             the workload's part of the namespace's share, and not the share of its own segments.";
        "retr/s" 8 false 0 Alarm::None, |row| Value::Rate(row.retransmits.rate),
            "Segments sent again a second, since the reading before.";
        "retrans" 9 false 0 Alarm::None, |row| Value::Count(row.retransmits.total),
            "Segments sent again since the agent began to count, SYNs and SYN-ACKs among them.";
        "cause" 16 false 4 Alarm::None, |row| Value::Text(&row.cause),
            "The most frequent cause of its retransmits, by the label of tracer_tcp_retransmitted_segments_total.";
        "ns sent/s" 11 false 3 Alarm::None, |row| Value::Rate(row.netns_sent),
            "Segments a second that its whole network namespace sent, retransmits among them: what share is divided by.";
        "estab" 8 false 5 Alarm::None, |row| Value::Count(row.established),
            "Open sockets in ESTABLISHED at the last socket pass.";
        "close-wait" 12 false 6 Alarm::None, |row| Value::Count(row.close_wait),
            "Open sockets in CLOSE_WAIT: the peer has closed, the process has not.";
        "conn fail" 11 false 2 HAPPENED, |row| Value::Count(row.connect_failures.total),
            "Calls of connect() that ended without a connection.";
        "timeouts" 10 false 7 HAPPENED, |row| Value::Count(row.timeouts.total),
            "Connections that the kernel gave up because no answer came any more.";
        "tw over" 9 false 8 HAPPENED, |row| Value::Count(row.overflows.total),
            "Closing sockets that found no TIME_WAIT bucket.";
    },
};

/// Network namespaces.
pub static NAMESPACES: Table<Namespace> = Table {
    name: "namespaces",
    order: &["tw%", "port%", "tw over"],
    is_shown: |_| true,
    columns: columns! { Namespace:
        "netns" 14 true 0 Alarm::None, |row| Value::Text(&row.owner.netns_name),
            "host, the namespace's name, or its inode number.";
        "pod" 16 true 3 Alarm::None, |row| Value::Text(&row.owner.name),
            "namespace/pod, where the namespace is a pod's.";
        "time_wait" 14 false 1 Alarm::None, |row| Value::Of(row.time_wait, row.time_wait_limit),
            "Sockets in TIME_WAIT at the last pass, and the limit (net.ipv4.tcp_max_tw_buckets).";
        "tw%" 7 false 0 FULL, |row| Value::Share(row.time_wait_full()),
            "How much of that limit is used.";
        "tw over" 9 false 0 HAPPENED, |row| Value::Count(row.overflows.total),
            "Closing sockets that found no TIME_WAIT bucket since the agent began to count.";
        "over/s" 8 false 4 HAPPENS, |row| Value::Rate(row.overflows.rate),
            "The same a second, since the reading before.";
        "ports" 12 false 2 Alarm::None, |row| Value::Of(row.ports, row.ports_limit),
            "Ephemeral ports that the busiest destination uses, and how many there are for one. Without a first number \
             all sockets of the namespace are fewer than an eighth of the range, or no walk has counted yet.";
        "port%" 7 false 0 FULL, |row| Value::Share(row.ports_full()),
            "How many of those ports are used: at 100% connect() to that destination fails.";
        "sent/s" 8 false 5 Alarm::None, |row| Value::Rate(row.sent.rate),
            "Segments sent a second, between the last two passes, retransmits of data left out.";
        "recv/s" 8 false 6 Alarm::None, |row| Value::Rate(row.received.rate),
            "Segments received a second, between the last two passes.";
        "retr/s" 8 false 7 Alarm::None, |row| Value::Rate(row.retransmits.rate),
            "Segments sent again a second, since the reading before.";
        "share" 8 false 7 LOSSY, |row| Value::Share(row.share),
            "Retransmits by all segments sent, retransmits among them, between the last two passes.";
        "drops" 8 false 8 HAPPENED, |row| Value::Count(row.drops.total),
            "Drops of all its listeners.";
        "diff" 6 false 9 HAPPENED, |row| Value::Count(row.difference),
            "Largest difference between the kernel's count of a signal and the hooks': 0 if the numbers close.";
    },
};

impl<R> Table<R> {
    /// The place of a column by its title.
    #[must_use]
    pub fn position(&self, title: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.title == title)
    }

    /// Columns that sort, the chosen one first.
    pub(super) fn sorters(&self, chosen: usize) -> impl Iterator<Item = &Column<R>> {
        let ties = self.order.iter().filter_map(|title| self.position(title));
        std::iter::once(chosen).chain(ties).filter_map(|at| self.columns.get(at))
    }

    /// Where the order begins until told otherwise.
    #[must_use]
    pub fn default_sort(&self) -> usize {
        self.order.first().and_then(|title| self.position(title)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::{screen::Tab, text::width};

    fn check<R: Default>(table: &Table<R>) {
        assert!(table.order.iter().all(|title| table.position(title).is_some()), "{:?}", table.order);
        assert!(table.columns.iter().any(|column| column.grows && column.priority == 0), "{}", table.name);
        let row = R::default();
        for column in table.columns {
            // A blank, the title, the mark of the order.
            assert!(column.width > width(column.title), "{}", column.title);
            assert!(!column.meaning.contains("  ") && column.meaning.ends_with('.'), "{}", column.title);
            let same = table.columns.iter().filter(|other| other.title == column.title).count();
            assert_eq!(same, 1, "{}", column.title);
            assert_eq!((column.value)(&row).show(), UNKNOWN, "{}: an empty row is no zero", column.title);
        }
        let kept: usize = table.columns.iter().filter(|c| c.priority == 0).map(|c| c.width + 1).sum();
        assert!(kept <= 60, "{}: {kept} columns never give way", table.name);
    }

    #[test]
    fn docs_have_every_column_with_its_meaning() {
        let docs = include_str!("../../../docs/top.md");
        for (title, meaning) in Tab::ALL.into_iter().flat_map(Tab::columns) {
            assert!(docs.contains(&format!("\n| `{title}` | {meaning} |\n")), "docs/top.md: {title}");
        }
    }

    #[test]
    fn every_table_is_consistent() {
        check(&LISTENERS);
        check(&WORKLOADS);
        check(&NAMESPACES);
    }

    #[test]
    fn numbers_are_worth_a_colour_from_their_limit_on() {
        assert_eq!([0.5, 0.8, 1.0].map(|part| FULL.tone(Some(part))), [Tone::Plain, Tone::Warn, Tone::Bad]);
        assert_eq!([0.0, 1.0].map(|drops| HAPPENS.tone(Some(drops))), [Tone::Plain, Tone::Bad]);
        assert_eq!(HAPPENS.tone(None), Tone::Plain);
    }

    #[test]
    fn half_of_a_pair_is_still_told() {
        assert_eq!(Value::Of(None, Some(28.0)).show(), "–/28");
        assert_eq!(Value::Of(Some(3.0), None).show(), "3/–");
        assert_eq!(Value::Of(Some(3.0), Some(8.0)).number(), Some(3.0));
    }
}
