//! The image at work: run by podman with the rights, mounts and arguments that the least-privilege manifest
//! gives, it has to count real drops of another network namespace's listener to the last one.
//!
//! Owns the container and the namespace, and removes both. The flags are read off the rendered DaemonSet, so
//! that the manifest is what is tried. Not tried: kubelet, AppArmor and SELinux.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::render;
use super::tools::{Tools, directory};
use crate::image::{self, stored};
use crate::process::{self, command};
use crate::run::CAPABILITIES;
use crate::setup;
use crate::workspace::Arch;

const OVERFLOW: &str = include_str!("overflow.py");

/// The manifest's port, in a namespace where nobody else listens.
const ADDRESS: &str = "127.0.0.1:9795";

/// The one hierarchy of v2, or the directory of all.
const CGROUPS: &str = "/sys/fs/cgroup";

/// More than the agent takes to end.
const STOP_LIMIT: Duration = Duration::from_secs(20);

pub(super) fn check(agent: &Path) -> Result<()> {
    setup::image_tools()?;
    let tools = Tools::install()?;
    let daemonset = render::least_privilege(&tools)?;
    let image = image::build(Arch::native()?, agent)?;
    let netns = Netns::create()?;
    let container = Container::start(&image, &daemonset, &netns)?;
    container.is_confined()?;
    let mut overflow = netns.command();
    overflow.arg("python3").args(["-c", OVERFLOW, ADDRESS]);
    process::run(&mut overflow).with_context(|| container.log())?;
    container.stop()
}

/// A network namespace with its loopback up; removed on drop.
struct Netns {
    name: String,
}

impl Netns {
    fn create() -> Result<Self> {
        let netns = Self { name: format!("tracer-deploy-{}", std::process::id()) };
        process::run(command("ip").args(["netns", "add", &netns.name]))?;
        process::run(netns.command().args(["ip", "link", "set", "lo", "up"]))?;
        Ok(netns)
    }

    /// The beginning of a command that runs inside.
    fn command(&self) -> Command {
        let mut command = command("ip");
        command.args(["netns", "exec", &self.name]);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = process::probe(command("ip").args(["netns", "delete", &self.name]));
    }
}

/// The agent in its container; removed on drop.
struct Container {
    id: String,
    /// The parent of its cgroup, which podman leaves behind.
    cgroup: String,
}

impl Container {
    fn start(image: &str, daemonset: &Value, netns: &Netns) -> Result<Self> {
        let pod = &daemonset["spec"]["template"]["spec"];
        let cgroup = format!("/{}", netns.name);
        let mut run = podman("run");
        // No systemd may be there to make cgroups, and what is logged may have no journal to go to.
        run.args(["--detach", "--cgroups", "no-conmon", "--cgroup-parent", &cgroup, "--log-driver", "k8s-file"]);
        run.args(["--pull", "never", "--network", &format!("ns:/run/netns/{}", netns.name)]);
        // podman's own are more than some machines allow.
        run.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        run.args(flags(pod)?).arg(image).args(strings(&pod["containers"][0]["args"]));
        Ok(Self { id: process::capture(&mut run)?.trim().to_owned(), cgroup })
    }

    /// The kernel's word for it that the agent has these capabilities alone, and a seccomp filter.
    fn is_confined(&self) -> Result<()> {
        let pid = self.inspect("{{.State.Pid}}")?;
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).with_context(|| self.log())?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let expected = CAPABILITIES.iter().fold(0, |set: u64, (number, _)| set | 1 << number);
        let effective = u64::from_str_radix(field("CapEff:"), 16).context("CapEff: is a number")?;
        if effective != expected || field("Seccomp:") != "2" || field("NoNewPrivs:") != "1" {
            bail!("the agent is not confined as the manifest says (capabilities {expected:x}):\n{status}");
        }
        println!("container: capabilities {effective:x}, seccomp filter, no new privileges");
        Ok(())
    }

    /// Ends it as kubelet does.
    fn stop(&self) -> Result<()> {
        process::capture(podman("stop").args(["--time", &STOP_LIMIT.as_secs().to_string(), &self.id]))?;
        let code = self.inspect("{{.State.ExitCode}}")?;
        if code.trim() != "0" {
            bail!("the agent left with {}:\n{}", code.trim(), self.log());
        }
        Ok(())
    }

    fn inspect(&self, what: &str) -> Result<String> {
        process::capture(podman("inspect").args(["--format", what, &self.id]))
    }

    /// What the agent said, on both outputs.
    fn log(&self) -> String {
        let output = podman("logs").arg(&self.id).output();
        let parts = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        format!("--- log of the container ---\n{}", String::from_utf8_lossy(&parts))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = process::probe(podman("rm").args(["--force", "--time", "5", &self.id]));
        let hierarchies = fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([PathBuf::from(CGROUPS)]) {
            // Fails where it is not, and where something is still in it.
            let _ = fs::remove_dir(hierarchy.join(self.cgroup.trim_start_matches('/')));
        }
    }
}

/// podman with the storage that the image is in. runc knows every mixture of cgroup v1 and v2.
fn podman(verb: &str) -> Command {
    let mut command = stored("podman");
    command.args(["--cgroup-manager", "cgroupfs", "--runtime", "runc", verb]);
    command
}

/// What podman calls the pod's rights and mounts.
fn flags(pod: &Value) -> Result<Vec<String>> {
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    let mut flags = Vec::new();
    if security["privileged"] != false || security["allowPrivilegeEscalation"] != false {
        bail!("the least-privilege manifest is privileged: {security}");
    }
    flags.push("--security-opt=no-new-privileges".to_owned());
    if security["readOnlyRootFilesystem"] == true {
        flags.push("--read-only".to_owned());
        // Kubernetes has no writable /tmp and /run beside it.
        flags.push("--read-only-tmpfs=false".to_owned());
    }
    if pod["hostPID"] == true {
        flags.push("--pid=host".to_owned());
    }
    flags.push("--cgroupns=host".to_owned());
    flags.push(format!("--user={}", security["runAsUser"]));
    let memory = container["resources"]["limits"]["memory"].as_str().context("the agent has a memory limit")?;
    // Kubernetes' mebibytes are podman's megabytes.
    flags.push(format!("--memory={}", memory.replace("Mi", "m")));
    flags.extend(strings(&security["capabilities"]["drop"]).map(|name| format!("--cap-drop={name}")));
    flags.extend(strings(&security["capabilities"]["add"]).map(|name| format!("--cap-add={name}")));
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let volumes = pod["volumes"].as_array().into_iter().flatten();
        let volume = volumes.into_iter().find(|volume| volume["name"] == mount["name"]);
        let volume = volume.context("a mount has its volume")?;
        let target = mount["mountPath"].as_str().context("a mount has a path")?;
        if volume["emptyDir"].is_object() {
            flags.push(format!("--tmpfs={target}"));
            continue;
        }
        let source = volume["hostPath"]["path"].as_str().context("a volume is the node's or empty")?;
        let mut access = if mount["readOnly"] == true { "ro" } else { "rw" }.to_owned();
        if mount["mountPropagation"] == "HostToContainer" {
            access.push_str(",rslave");
        }
        flags.push(format!("--volume={}:{target}:{access}", of_this_machine(source)?.display()));
    }
    Ok(flags)
}

/// The directory, or an empty one where this machine is no node of a cluster.
fn of_this_machine(path: &str) -> Result<PathBuf> {
    if Path::new(path).is_dir() {
        return Ok(path.into());
    }
    let stand_in = directory().join("node").join("empty");
    fs::create_dir_all(&stand_in).with_context(|| format!("making {}", stand_in.display()))?;
    Ok(stand_in)
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(privileged: bool) -> Value {
        json!({
            "hostPID": true,
            "containers": [{
                "securityContext": {
                    "privileged": privileged, "allowPrivilegeEscalation": false, "runAsUser": 0,
                    "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"], "add": ["BPF"]},
                },
                "resources": {"limits": {"memory": "128Mi"}},
                "volumeMounts": [
                    {"name": "proc", "mountPath": "/p", "readOnly": true, "mountPropagation": "HostToContainer"},
                    {"name": "recordings", "mountPath": "/tmp"},
                ],
            }],
            "volumes": [{"name": "proc", "hostPath": {"path": "/proc"}}, {"name": "recordings", "emptyDir": {}}],
        })
    }

    #[test]
    fn flags_say_what_the_manifest_says() {
        assert_eq!(
            flags(&pod(false)).unwrap(),
            [
                "--security-opt=no-new-privileges",
                "--read-only",
                "--read-only-tmpfs=false",
                "--pid=host",
                "--cgroupns=host",
                "--user=0",
                "--memory=128m",
                "--cap-drop=ALL",
                "--cap-add=BPF",
                "--volume=/proc:/p:ro,rslave",
                "--tmpfs=/tmp"
            ]
        );
    }

    #[test]
    fn a_privileged_manifest_is_no_test_of_the_least() {
        assert!(flags(&pod(true)).is_err());
    }
}
