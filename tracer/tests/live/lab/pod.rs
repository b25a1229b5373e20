//! A pod as its node shows it: kubelet's directories, a network namespace, and cgroups named as kubelet and
//! the runtimes name them. The cgroups are real, the directories are the test's.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use super::agent::Agent;
use super::cgroup::Cgroup;
use super::netns::Netns;
use super::script::Script;

const PASS_INTERVAL: Duration = Duration::from_millis(200);

const POD: &str = "web.v2-0";
/// The labels that name it.
pub(crate) const NAMESPACE: [(&str, &str); 2] = [("namespace", "shop"), ("pod", POD)];

/// Sits in its cgroup.
const SANDBOX: &str = "enter($ARGV[0]); print qq(ready\\n); <STDIN>;";

/// The pod with a process of its sandbox.
pub(crate) struct Pod {
    logs: TempDir,
    uid: String,
    pub(crate) netns: Netns,
    // In the order of their ends.
    _sandbox: Script,
    _sandbox_cgroup: Cgroup,
}

impl Pod {
    /// A pod in this namespace.
    pub(crate) fn start(netns: Netns) -> Self {
        let uid = format!("6b1a2c3d-4e5f-4a6b-8c7d-{:012x}", std::process::id());
        let logs = tempfile::tempdir().unwrap();
        fs::create_dir(logs.path().join("containers")).unwrap();
        fs::create_dir_all(logs.path().join(format!("pods/shop_{POD}_{uid}"))).unwrap();
        let sandbox_cgroup = Cgroup::make(&scope(&uid, &id(0)));
        let sandbox = Script::start(&netns, SANDBOX, &[sandbox_cgroup.path()]);
        Self { logs, uid, netns, _sandbox: sandbox, _sandbox_cgroup: sandbox_cgroup }
    }

    /// An agent that looks at the pod's directories.
    pub(crate) fn agent(&self, flags: &[&str]) -> Agent {
        Agent::with(PASS_INTERVAL, &[&["--pod-logs", self.logs.path().to_str().unwrap()], flags].concat())
    }

    /// The cgroup of a container, or of one life of it.
    pub(crate) fn container(&self, number: u32) -> Cgroup {
        Cgroup::make(&scope(&self.uid, &id(number)))
    }

    /// A cgroup with the names of that container's, made inside of another cgroup.
    pub(crate) fn impostor(&self, inside: &str, number: u32) -> Cgroup {
        Cgroup::make(&format!("{inside}/{}", scope(&self.uid, &id(number))))
    }

    /// Makes the log's name, as kubelet does once the container runs: a link that leads nowhere from here.
    pub(crate) fn name(&self, container: &str, number: u32) {
        let link = self.logs.path().join(format!("containers/{POD}_shop_{container}-{}.log", id(number)));
        let log = format!("/var/log/pods/shop_{POD}_{}/{container}/0.log", self.uid);
        std::os::unix::fs::symlink(log, link).unwrap();
    }
}

/// The id of a container; that of the sandbox is the first.
pub(crate) fn id(number: u32) -> String {
    format!("{:08x}{number:056x}", std::process::id())
}

/// The path of a container's cgroup, as containerd makes it with systemd's driver.
fn scope(uid: &str, id: &str) -> String {
    let pod = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
    format!("kubepods.slice/kubepods-burstable.slice/{pod}/cri-containerd-{id}.scope")
}
