//! Pods without Kubernetes: for each a network namespace, a cgroup and a log's name as kubelet gives them, and one
//! process in it that plays one act of traffic.py.
//!
//! Owns their end. A process ends when its input is closed, so also when this program is killed; its namespace goes
//! with it. The cgroups are removed on drop.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::child::{Dialogue, until};
use crate::process::run;

const TRAFFIC: &str = include_str!("traffic.py");

/// The Kubernetes namespace of all pods.
const NAMESPACE: &str = "shop";

/// How long a cgroup may still count a process that has been waited for.
const REMOVE_LIMIT: Duration = Duration::from_secs(5);

/// What a pod does, and what its names are.
pub(crate) struct Act {
    /// A function of traffic.py.
    name: &'static str,
    pod: &'static str,
    container: &'static str,
    /// What the process is called; 15 bytes at most.
    process: &'static str,
    /// For people.
    what: &'static str,
}

const fn act(
    name: &'static str,
    pod: &'static str,
    container: &'static str,
    process: &'static str,
    what: &'static str,
) -> Act {
    Act { name, pod, container, process, what }
}

const ACTS: &[Act] = &[
    act("overflow", "orders-0", "api", "orders-api", "port 8080, backlog 5, 20 clients: handshakes dropped"),
    act("stuck", "reports-0", "web", "reports-web", "port 8081, backlog 5, never calls accept()"),
    act("half_open", "login-0", "auth", "login-auth", "port 8443: half-open connections, SYN cookies"),
    act("healthy", "storefront-0", "web", "storefront", "port 8000: keeps up with its clients"),
    act("database", "catalog-0", "db", "catalog-db", "port 5432, behind a link that loses 4 % of its packets"),
    act("gateway", "gateway-0", "proxy", "gateway", "the other end of that link"),
    act("time_wait", "crawler-0", "fetch", "crawler", "closes more connections than TIME_WAIT has room for"),
    act("ports", "search-0", "client", "search-client", "100 ephemeral ports, 92 in use, asks for more"),
    act("close_wait", "billing-0", "worker", "billing", "port 8090: forgets to close its connections"),
    act(
        "retries",
        "mailer-0",
        "smtp",
        "mailer",
        "connects through a network that loses SYNs or large packets, and to nowhere",
    ),
    act("closed_window", "export-0", "stream", "export", "port 9092: a receiver that does not read"),
];

/// The two that a link joins.
const LINKED: [&str; 2] = ["database", "gateway"];

impl Act {
    /// A UID and a container's id that are no other pod's: of this process and of the act's place.
    fn uid(&self) -> String {
        format!("7261ce12-0000-4000-8000-{:04x}{:08x}", self.place(), process::id())
    }

    fn container_id(&self) -> String {
        format!("{:032x}{:032x}", process::id(), self.place())
    }

    fn place(&self) -> usize {
        ACTS.iter().take_while(|act| act.name != self.name).count()
    }
}

/// Makes the names of the pods' logs, as kubelet has them in /var/log: names alone, links that lead nowhere.
pub(super) fn name_all(directory: &Path) -> Result<PathBuf> {
    let containers = directory.join("containers");
    fs::create_dir(&containers)?;
    for act in ACTS {
        fs::create_dir_all(directory.join(format!("pods/{NAMESPACE}_{}_{}", act.pod, act.uid())))?;
        let log = format!("{}_{NAMESPACE}_{}-{}.log", act.pod, act.container, act.container_id());
        symlink(format!("../pods/{}/0.log", act.uid()), containers.join(log))?;
    }
    Ok(directory.to_owned())
}

/// All pods.
pub(crate) struct Pods {
    // Processes end before their cgroups are removed.
    processes: Vec<Dialogue>,
    _cgroups: Cgroups,
}

impl Pods {
    /// Their Kubernetes namespace.
    pub(crate) const NAMESPACE: &str = NAMESPACE;

    /// All traffic flows when this returns.
    pub(super) fn start() -> Result<Self> {
        let mut cgroups = Cgroups::make()?;
        let mut processes = ACTS.iter().map(|act| start(act, &mut cgroups)).collect::<Result<Vec<_>>>()?;
        for process in &mut processes {
            process.expect("here")?;
        }
        join(&processes)?;
        for process in &mut processes {
            process.expect("ready")?;
        }
        Ok(Self { processes, _cgroups: cgroups })
    }

    /// Each pod's name and what it does.
    pub(crate) fn described() -> impl Iterator<Item = (String, &'static str)> {
        ACTS.iter().map(|act| (format!("{NAMESPACE}/{}", act.pod), act.what))
    }

    pub(super) fn check_run(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Dialogue::check_runs)
    }
}

/// In its cgroup first, so that no process of its network namespace was ever anybody else's.
fn start(act: &Act, cgroups: &mut Cgroups) -> Result<Dialogue> {
    const ENTER: &str = "echo $$ >\"$0/cgroup.procs\" && exec unshare --net python3 -c \"$@\"";
    let cgroup = cgroups.add(act)?;
    let mut command = Command::new("sh");
    command.args(["-c", ENTER]).arg(cgroup).args([TRAFFIC, act.name, act.process]);
    Dialogue::start(&mut command).with_context(|| format!("starting pod {}", act.pod))
}

/// Joins the two pods that talk to each other.
fn join(processes: &[Dialogue]) -> Result<()> {
    let mut pids = ACTS.iter().zip(processes).filter(|(act, _)| LINKED.contains(&act.name)).map(|(_, it)| it.pid());
    let (one, other) = (pids.next().context("one end")?, pids.next().context("another end")?);
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{one}/ns/net")).args([
        "ip",
        "link",
        "add",
        "eth0",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        &other.to_string(),
    ]);
    run(&mut command)
}

/// The cgroups of the pods, below one of this process's own.
struct Cgroups {
    root: PathBuf,
    /// In the order in which they were made.
    made: Vec<PathBuf>,
}

impl Cgroups {
    fn make() -> Result<Self> {
        let root = hierarchy()?.join(format!("tracer-lab-{}", process::id()));
        let mut cgroups = Self { root: root.clone(), made: Vec::new() };
        cgroups.add_directory(root)?;
        Ok(cgroups)
    }

    /// The cgroup of the act's container, named as kubelet's driver of cgroups names it.
    fn add(&mut self, act: &Act) -> Result<PathBuf> {
        let pod = self.root.join(format!("pod{}", act.uid()));
        self.add_directory(pod.clone())?;
        self.add_directory(pod.join(act.container_id()))
    }

    fn add_directory(&mut self, directory: PathBuf) -> Result<PathBuf> {
        fs::create_dir(&directory).with_context(|| format!("making the cgroup {}", directory.display()))?;
        self.made.push(directory.clone());
        Ok(directory)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for directory in self.made.iter().rev() {
            let removed = until("it is empty", REMOVE_LIMIT, || Ok(fs::remove_dir(directory).ok()));
            if let Err(error) = removed {
                eprintln!("could not remove the cgroup {}: {error:#}", directory.display());
            }
        }
    }
}

/// Where cgroups of version 2 are mounted.
fn hierarchy() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    mounted(&mounts)
        .context("the pods are cgroups of version 2, and none is mounted: `mount -t cgroup2 none DIRECTORY`")
}

fn mounted(mounts: &str) -> Option<PathBuf> {
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.find(|fields| fields.get(2) == Some(&"cgroup2")).map(|fields| PathBuf::from(fields[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_where_it_is_mounted() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mounted(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mounted("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n"), None);
    }

    #[test]
    fn every_act_is_in_the_script() {
        for act in ACTS {
            assert!(TRAFFIC.contains(&format!("def {}():", act.name)), "{}", act.name);
            assert!(act.process.len() <= 15, "{}", act.process);
        }
        assert_eq!(ACTS.iter().filter(|act| LINKED.contains(&act.name)).count(), 2);
    }

    #[test]
    fn ids_have_the_shape_that_kubelet_gives_them() {
        assert_eq!(ACTS[1].uid().len(), 36);
        assert_eq!(ACTS[1].container_id().len(), 64);
        assert_ne!(ACTS[0].container_id(), ACTS[1].container_id());
    }
}
