//! What a pass could not do, by why: counted in every pass, said in the log when it begins and when it ends, and shown
//! by `/metrics`, `/status` and `tracer doctor` in the same words.
//!
//! Pure: errors are passed in.

use std::{fmt, io, path::Path};

/// Declares the obstacles from one table: name as a metric label, what is the matter, and the remedy.
macro_rules! obstacles {
    ($($id:ident $name:literal $what:literal $remedy:literal;)+) => {
        /// Why a pass left something out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Obstacle { $(#[doc = $what] $id,)+ }

        /// All of them.
        pub const ALL: [Obstacle; [$(Obstacle::$id),+].len()] = [$(Obstacle::$id),+];
        /// Their names, as a label's values.
        pub const NAMES: [&str; ALL.len()] = [$($name),+];

        impl Obstacle {
            /// What is the matter, after a number.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$id => $what,)+ }
            }

            /// What is to be done about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$id => $remedy,)+ }
            }
        }
    };
}

obstacles! {
    Denied "denied" "processes or files of network namespaces may not be looked at"
        "run as root of the host with CAP_SYS_PTRACE";
    BeyondLimit "beyond_limit" "sightings of network namespaces are beyond the limit of 16384"
        "find out who makes so many: lsns -t net";
    Refused "refused" "network namespaces cannot be entered"
        "setns() takes CAP_SYS_ADMIN in the host's user namespace, and a seccomp profile that allows it";
    Hung "hung" "network namespaces cannot be read because entering or reading hangs"
        "see where: cat /proc/PID/task/*/stack of the agent; a lock of the kernel may be held";
    WalkHung "walk_hung" "walks over the sockets of network namespaces hang; no ports are counted meanwhile"
        "a program holds a socket locked, as one does that sends from memory which does not answer: see what hangs in sendmsg";
    Unreadable "unreadable" "network namespaces were entered and not read"
        "mount the host's /proc, and see that the agent has descriptors left";
    Unlisted "unlisted" "network namespaces have listeners that cannot be listed"
        "see that iterators and sock_diag are allowed, and that the agent has memory and descriptors left";
    DirectoryUnreadable "directory_unreadable" "directories of names cannot be read"
        "mount /run/netns and /var/log readable";
    DirectoryHung "directory_hung" "directories of names hang"
        "see which mount does not answer; the names that were read before stay";
    ManyNamespaces "many_namespaces" "network namespaces are beyond the first 1000 and show no counts of zero"
        "find out who makes so many: lsns -t net";
    ProcessNumbers "process_numbers" "PID namespace lies between the agent and the kernel, whose numbers of processes mean others here: open files, and names and units by process, are left out"
        "run the agent in the host's PID namespace (hostPID: true, --pid=host)";
    Clock "clock" "time namespace has an offset that cannot be read: times of events and peaks of queues are off by it"
        "start the agent in the host's time namespace";
    PassFailed "pass_failed" "passes in a row ended early, and what they would have shown is as old as the last that did not"
        "see the log for the step that failed";
}

impl Obstacle {
    /// The name as a metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// What it is for a directory.
    #[must_use]
    pub fn of_directory(kind: io::ErrorKind) -> Self {
        if kind == io::ErrorKind::TimedOut { Self::DirectoryHung } else { Self::DirectoryUnreadable }
    }
}

/// What was met, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obstacles {
    counts: [usize; ALL.len()],
    /// The first that was met of each kind.
    causes: [Option<String>; ALL.len()],
}

impl Obstacles {
    /// Notes one, with its cause in words.
    pub fn note(&mut self, obstacle: Obstacle, cause: impl fmt::Display) {
        self.note_many(obstacle, 1, cause);
    }

    /// Notes several of a kind.
    pub fn note_many(&mut self, obstacle: Obstacle, count: usize, cause: impl fmt::Display) {
        if count > 0 {
            self.counts[obstacle as usize] += count;
            self.causes[obstacle as usize].get_or_insert_with(|| cause.to_string());
        }
    }

    /// Notes a directory that was not read.
    pub fn note_directory(&mut self, path: &Path, kind: io::ErrorKind, cause: impl fmt::Display) {
        self.note(Obstacle::of_directory(kind), format_args!("{}: {cause}", path.display()));
    }

    /// How many there were of a kind.
    #[must_use]
    pub fn count(&self, obstacle: Obstacle) -> usize {
        self.counts[obstacle as usize]
    }

    /// Those that were met.
    pub fn iter(&self) -> impl Iterator<Item = Met<'_>> {
        let cause = |obstacle: Obstacle| self.causes[obstacle as usize].as_deref().unwrap_or_default();
        let met = move |obstacle| Met { obstacle, count: self.count(obstacle), cause: cause(obstacle) };
        ALL.into_iter().map(met).filter(|met| met.count > 0)
    }

    /// Those that `before` had not.
    pub fn new_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Met<'a>> {
        self.iter().filter(|met| before.count(met.obstacle) == 0)
    }
}

/// One kind that was met.
#[derive(Clone, Copy, Debug)]
pub struct Met<'a> {
    /// Which.
    pub obstacle: Obstacle,
    /// How often.
    pub count: usize,
    /// The first one's cause.
    pub cause: &'a str,
}

impl fmt::Display for Met<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { obstacle, count, cause } = self;
        write!(f, "{count} {} ({cause}); {}", obstacle.what(), obstacle.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_met_is_said_once_with_its_first_cause_and_a_remedy() {
        let mut met = Obstacles::default();
        met.note(Obstacle::Refused, "namespace 5: EPERM");
        met.note(Obstacle::Refused, "namespace 6: EPERM");
        met.note_many(Obstacle::Denied, 0, "nothing");
        let said: Vec<String> = met.new_since(&Obstacles::default()).map(|met| met.to_string()).collect();
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with("2 network namespaces cannot be entered (namespace 5: EPERM); setns() "),
            "{said:?}"
        );
        assert_eq!(met.new_since(&met).count(), 0, "it is no news");
        assert_eq!(Obstacles::default().new_since(&met).count(), 0, "it is over");
    }

    #[test]
    fn a_directory_hangs_or_cannot_be_read() {
        let mut met = Obstacles::default();
        met.note_directory(Path::new("/run/netns"), io::ErrorKind::TimedOut, "it hangs");
        met.note_directory(Path::new("/var/log"), io::ErrorKind::PermissionDenied, "EACCES");
        let found: Vec<_> = met.iter().map(|met| (met.obstacle.name(), met.cause.to_owned())).collect();
        let [first, second] =
            [("directory_unreadable", "/var/log: EACCES"), ("directory_hung", "/run/netns: it hangs")];
        assert_eq!(found, [first, second].map(|(name, cause)| (name, cause.to_owned())));
    }
}
