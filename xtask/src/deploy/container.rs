//! The image at work: run by podman with the rights, mounts and arguments that the least-privilege manifest
//! gives, it has to count real drops of another network namespace's listener to the last one.
//!
//! Owns the container and the namespace, and removes both. The flags are read off the rendered DaemonSet, so
//! that the manifest is what is tried. Not tried: kubelet, AppArmor, SELinux and the memory limit.

use std::fs;
use std::path::{Path, PathBuf};
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

/// More than the agent takes to end.
const STOP_LIMIT: Duration = Duration::from_secs(20);

pub(super) fn check() -> Result<()> {
    setup::image_tools()?;
    let tools = Tools::install()?;
    let daemonset = render::least_privilege(&tools)?;
    let image = image::build(Arch::native()?)?;
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
    fn command(&self) -> std::process::Command {
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
}

impl Container {
    fn start(image: &str, daemonset: &Value, netns: &Netns) -> Result<Self> {
        let mut run = stored("podman");
        // This machine's cgroups are left alone; what the cgroup mount shows is the node's either way.
        run.args(["run", "--detach", "--cgroups", "disabled", "--cgroupns", "host", "--log-driver", "k8s-file"]);
        run.args(["--runtime", "crun", "--pull", "never", "--network", &format!("ns:/run/netns/{}", netns.name)]);
        run.args(flags(&daemonset["spec"]["template"]["spec"])?);
        run.arg(image).args(strings(&daemonset["spec"]["template"]["spec"]["containers"][0]["args"]));
        Ok(Self { id: process::capture(&mut run)?.trim().to_owned() })
    }

    /// The kernel's word for it that the agent has these capabilities alone, and a seccomp filter.
    fn is_confined(&self) -> Result<()> {
        let pid = process::capture(stored("podman").args(["inspect", "--format", "{{.State.Pid}}", &self.id]))?;
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
        process::capture(stored("podman").args(["stop", "--time", &STOP_LIMIT.as_secs().to_string(), &self.id]))?;
        let code = process::capture(stored("podman").args(["inspect", "--format", "{{.State.ExitCode}}", &self.id]))?;
        if code.trim() != "0" {
            bail!("the agent left with {}:\n{}", code.trim(), self.log());
        }
        Ok(())
    }

    fn log(&self) -> String {
        let log = process::probe(command("sh").args(["-c", "\"$@\" 2>&1", "sh"]).args(words(stored("podman").args(["logs", &self.id]))));
        format!("--- log of the container ---\n{}", log.unwrap_or_default())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = process::probe(stored("podman").args(["rm", "--force", "--time", "5", &self.id]));
    }
}

/// The words of a command, for a shell.
fn words(command: &std::process::Command) -> Vec<std::ffi::OsString> {
    std::iter::once(command.get_program()).chain(command.get_args()).map(std::ffi::OsStr::to_owned).collect()
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
    flags.push(format!("--user={}", security["runAsUser"]));
    flags.extend(strings(&security["capabilities"]["drop"]).map(|name| format!("--cap-drop={name}")));
    flags.extend(strings(&security["capabilities"]["add"]).map(|name| format!("--cap-add={name}")));
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let volumes = pod["volumes"].as_array().into_iter().flatten();
        let volume = volumes.into_iter().find(|volume| volume["name"] == mount["name"]);
        let source = volume.and_then(|volume| volume["hostPath"]["path"].as_str()).context("a mount has its volume")?;
        let target = mount["mountPath"].as_str().context("a mount has a path")?;
        let access = if mount["readOnly"] == true { "ro" } else { "rw" };
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
                "volumeMounts": [{"name": "proc", "mountPath": "/p", "readOnly": true}],
            }],
            "volumes": [{"name": "proc", "hostPath": {"path": "/proc"}}],
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
                "--user=0",
                "--cap-drop=ALL",
                "--cap-add=BPF",
                "--volume=/proc:/p:ro"
            ]
        );
    }

    #[test]
    fn a_privileged_manifest_is_no_test_of_the_least() {
        assert!(flags(&pod(true)).is_err());
    }
}
