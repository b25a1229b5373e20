//! `cargo xtask setup`: installs what the build needs and this machine lacks.
//!
//! Owns the list of what is needed. Looks before it installs, says each thing it does, and is
//! silent and quick when there is nothing to do. Cargo's and rustup's registries and, for the
//! tests' tools, Debian's packages are the only sources.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::process::{self, cargo, command};
use crate::workspace::{self, Arch};

/// Newer ones need an LLVM library that the toolchains do not carry.
const BPF_LINKER_VERSION: &str = "0.10.1";

/// A program and the Debian package that brings it.
type Tool = (&'static str, &'static str);

/// Programs that the live tests call.
const TEST_TOOLS: &[Tool] = &[
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("iperf3", "iperf3"),
    ("promtool", "prometheus"),
];

/// Programs that build and run the image.
const IMAGE_TOOLS: &[Tool] = &[("buildah", "buildah"), ("podman", "podman"), ("runc", "runc"), ("ip", "iproute2")];

/// Programs that check what is in deploy/; the rest comes from registries into target/.
const DEPLOY_TOOLS: &[Tool] = &[("python3", "python3"), ("npm", "npm"), ("systemd-analyze", "systemd")];

/// Programs that the benchmarks call.
const BENCH_TOOLS: &[Tool] = &[("ip", "iproute2"), ("wrk", "wrk"), ("nginx", "nginx-light")];

/// Programs that the demo and the end-to-end run call.
const LAB_TOOLS: &[Tool] =
    &[("ip", "iproute2"), ("nft", "nftables"), ("python3", "python3"), ("prometheus", "prometheus")];

/// Programs that build the dashboards' page.
const PAGE_TOOLS: &[Tool] = &[("node", "nodejs"), ("npm", "npm")];

/// What draws pictures of it.
const BROWSER: &[Tool] = &[("chromium-headless-shell", "chromium-headless-shell")];

/// Programs that take a kernel's types out of its image, and its modules out of their files.
const KERNEL_TOOLS: &[Tool] =
    &[("zstd", "zstd"), ("lz4", "lz4"), ("xz", "xz-utils"), ("gzip", "gzip"), ("bpftool", "bpftool")];

/// Programs that make packages.
const PACKAGE_TOOLS: &[Tool] =
    &[("tar", "tar"), ("gzip", "gzip"), ("dpkg-deb", "dpkg"), ("sha256sum", "coreutils"), ("md5sum", "coreutils")];

/// Programs that packages are for: they format pages and complete words.
const PACKAGE_CHECK_TOOLS: &[Tool] = &[("groff", "groff-base"), ("bash", "bash"), ("zsh", "zsh"), ("fish", "fish")];

/// Programs that check dashboards against Grafana's types.
const SCHEMA_TOOLS: &[Tool] = &[("node", "nodejs"), ("npm", "npm")];

/// Packages that start a service where systemd runs, and its name.
const SERVICES: &[(&str, &str)] = &[("prometheus", "prometheus"), ("nginx-light", "nginx")];

/// Options of `cargo xtask setup`.
#[derive(Args)]
pub(crate) struct Opts {
    /// Install the programs that the tests call as well.
    #[arg(long)]
    test_tools: bool,
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    toolchain()?;
    if opts.test_tools {
        test_tools()?;
    }
    Ok(())
}

/// What compiles the agent and its eBPF programs.
pub(crate) fn toolchain() -> Result<()> {
    if process::find("rustup").is_none() {
        bail!("rustup is not installed; install it with `apt-get install rustup` or from https://rustup.rs");
    }
    nightly_with_rust_src()?;
    static_target(Arch::native()?)?;
    bpf_linker()
}

fn nightly_with_rust_src() -> Result<()> {
    if nightly_sysroot().is_none() {
        say("the nightly toolchain, which compiles the eBPF programs");
        process::run(command("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]))
            .context("the eBPF programs need the nightly toolchain")?;
    }
    nightly_component("rust-src", "lib/rustlib/src/rust/library/core")
}

/// What lints the eBPF programs.
pub(crate) fn nightly_clippy() -> Result<()> {
    nightly_component("clippy", "bin/cargo-clippy")
}

/// Installs the component unless the file that it brings is there.
fn nightly_component(component: &str, file: &str) -> Result<()> {
    let sysroot = nightly_sysroot().context("`rustup run nightly rustc` fails")?;
    if !sysroot.join(file).exists() {
        say(&format!("{component} for the nightly toolchain"));
        process::run(command("rustup").args(["component", "add", component, "--toolchain", "nightly"]))?;
    }
    Ok(())
}

fn nightly_sysroot() -> Option<PathBuf> {
    process::probe(command("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"])).map(PathBuf::from)
}

/// The standard library for static agents of the architecture; a linker comes with the compiler.
pub(crate) fn static_target(arch: Arch) -> Result<()> {
    let target = arch.static_target();
    let libraries = process::capture(command("rustc").args(["--print", "target-libdir", "--target", target]))?;
    if !Path::new(libraries.trim()).is_dir() {
        say(&format!("the target of the static agent, {target}"));
        process::run(command("rustup").args(["target", "add", target]))?;
    }
    Ok(())
}

fn bpf_linker() -> Result<()> {
    let linker = workspace::tools().join("bin/bpf-linker");
    // It loads nightly's LLVM, so it is asked in nightly's environment.
    let version = process::probe(command("rustup").args(["run", "nightly"]).arg(&linker).arg("--version"));
    if version.is_some_and(|version| version.ends_with(BPF_LINKER_VERSION)) {
        return Ok(());
    }
    say("bpf-linker, which takes a minute to compile");
    // Without optimization it compiles in half of the time. What takes time in it is LLVM, which comes compiled.
    process::run(
        cargo()
            .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--debug", "--locked", "--force"])
            .arg("--root")
            .arg(workspace::tools()),
    )
}

/// What the tests call besides the agent itself.
pub(crate) fn test_tools() -> Result<()> {
    debian_tools("tests", TEST_TOOLS)
}

/// What checks dashboards against Grafana's types.
pub(crate) fn schema_tools() -> Result<()> {
    debian_tools("dashboards' check", SCHEMA_TOOLS)
}

/// What the benchmarks call. Not every release has libbpf-tools; without it the comparison is left out.
pub(crate) fn bench_tools() -> Result<()> {
    let mut tools = BENCH_TOOLS.to_vec();
    if process::probe(command("apt-cache").args(["show", "libbpf-tools"])).is_some() {
        tools.push(("tcpstates", "libbpf-tools"));
    }
    debian_tools("benchmarks", &tools)
}

/// What makes packages.
pub(crate) fn package_tools() -> Result<()> {
    debian_tools("packages", PACKAGE_TOOLS)
}

/// What the tests of packages call.
pub(crate) fn package_check_tools() -> Result<()> {
    debian_tools("tests of packages", &[PACKAGE_TOOLS, PACKAGE_CHECK_TOOLS].concat())
}

/// What builds and runs the container image.
pub(crate) fn image_tools() -> Result<()> {
    debian_tools("container image", IMAGE_TOOLS)
}

/// What the checks of deploy/ call. Debian's Python makes environments only with a further package.
pub(crate) fn deploy_tools() -> Result<()> {
    debian_tools("checks of deploy/", &deploy_programs())
}

fn deploy_programs() -> Vec<Tool> {
    let mut tools = DEPLOY_TOOLS.to_vec();
    if process::probe(command("python3").args(["-c", "import ensurepip"])).is_none() {
        tools.push(("python3 -m venv", "python3-venv"));
    }
    tools
}

/// What the demo and the end-to-end run call.
pub(crate) fn lab_tools() -> Result<()> {
    debian_tools("demo and the end-to-end run", LAB_TOOLS)
}

/// What builds the dashboards' page.
pub(crate) fn page_tools() -> Result<()> {
    debian_tools("dashboards' page", PAGE_TOOLS)
}

/// What draws pictures of it.
pub(crate) fn browser() -> Result<()> {
    debian_tools("pictures", BROWSER)
}

/// What the comparison with kernels calls.
pub(crate) fn kernel_tools() -> Result<()> {
    debian_tools("comparisons with kernels", KERNEL_TOOLS)
}

/// What boots guests of the architecture.
pub(crate) fn guest_tools(arch: Arch) -> Result<()> {
    debian_tools("guests", &guest_programs(arch))
}

fn guest_programs(arch: Arch) -> Vec<Tool> {
    [KERNEL_TOOLS, &[arch.qemu()]].concat()
}

/// Steps of `cargo xtask test` that need programs of their own.
#[expect(clippy::struct_excessive_bools, reason = "facts that are independent of each other")]
pub(crate) struct Steps {
    pub(crate) live: bool,
    pub(crate) end_to_end: bool,
    /// No browser that draws pictures is there.
    pub(crate) lacks_browser: bool,
    pub(crate) guests: bool,
}

/// Installs what all steps of a test run call, at once: apt works for one at a time.
pub(crate) fn tools_of_all_steps(steps: &Steps) -> Result<()> {
    let mut tools = [TEST_TOOLS, SCHEMA_TOOLS, PACKAGE_TOOLS, PACKAGE_CHECK_TOOLS].concat();
    tools.extend(deploy_programs());
    if steps.live {
        tools.extend_from_slice(IMAGE_TOOLS);
    }
    if steps.end_to_end {
        tools.extend([LAB_TOOLS, PAGE_TOOLS].concat());
    }
    if steps.end_to_end && steps.lacks_browser {
        tools.extend(BROWSER);
    }
    if steps.guests {
        tools.extend(guest_programs(Arch::native()?));
    }
    debian_tools("steps of a test run", &tools)
}

fn debian_tools(purpose: &str, tools: &[Tool]) -> Result<()> {
    let packages = missing_packages(tools, |program| process::find(program).is_some());
    if packages.is_empty() {
        return Ok(());
    }
    let mut install = command("apt-get");
    install.args(["install", "-y", "--no-install-recommends"]).args(&packages);
    if !process::is_root() || process::find("apt-get").is_none() {
        let mut advice =
            format!("the {purpose} need programs that are not installed; as root, type `{}`", process::shown(&install));
        if process::find("apt-get").is_none() {
            advice.push_str(", or this system's equivalent");
        }
        bail!(advice);
    }
    let mut what = format!("{} from Debian's packages, for the {purpose}", packages.join(", "));
    for (package, service) in SERVICES {
        if packages.contains(package) && Path::new("/run/systemd/system").exists() {
            write!(what, " (its service is not used; `systemctl disable --now {service}` stops it)")?;
        }
    }
    say(&what);
    process::run(command("apt-get").arg("update"))?;
    process::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// The packages of the programs that are not there, each once.
fn missing_packages(tools: &[Tool], is_there: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let missing = tools.iter().filter(|(program, _)| !is_there(program)).map(|&(_, package)| package);
    missing.collect::<BTreeSet<_>>().into_iter().collect()
}

fn say(what: &str) {
    println!("setup: installing {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_missing_when_all_programs_are_there() {
        assert!(missing_packages(TEST_TOOLS, |_| true).is_empty());
    }

    #[test]
    fn a_package_of_two_programs_is_named_once() {
        assert_eq!(
            missing_packages(TEST_TOOLS, |program| !["ip", "ss", "promtool"].contains(&program)),
            ["iproute2", "prometheus"]
        );
    }
}
