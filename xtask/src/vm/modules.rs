//! Kernel modules for a guest: those that the experiments need, with what these need, in load order.
//!
//! Takes a kernel's directory of modules, gives the modules' bytes, unpacked. Fails when the kernel has
//! one neither as a module nor built in.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};

use crate::kernels::find;
use crate::process;

/// What the live tests ask of the kernel.
const NEEDED: &[&str] = &[
    // Pairs of namespaces.
    "veth",
    // Packets lost, refused and redirected on purpose.
    "nf_tables",
    "nft_reject_inet",
    "nft_numgen",
    "nft_chain_nat",
    "nft_redir",
    "nft_tproxy",
    // The table of listening sockets, which a kernel on a disk loads when it is asked for.
    "tcp_diag",
];

/// A module, ready to load.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// All modules of a guest, each after those that it depends on.
pub(super) fn in_load_order(directory: &Path) -> Result<Vec<Module>> {
    let built_in = fs::read_to_string(directory.join("modules.builtin")).unwrap_or_default();
    let built_in = built_in.lines().filter_map(|path| module_name(Path::new(path))).collect();
    let mut order = Order { directory, built_in, seen: HashSet::new(), modules: Vec::new() };
    for name in NEEDED {
        order.add(name)?;
    }
    Ok(order.modules)
}

struct Order<'a> {
    directory: &'a Path,
    built_in: HashSet<String>,
    seen: HashSet<String>,
    modules: Vec<Module>,
}

impl Order<'_> {
    fn add(&mut self, name: &str) -> Result<()> {
        if self.built_in.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(file) = find(self.directory, |file| module_name(Path::new(file)).as_deref() == Some(name)) else {
            bail!("the kernel in {} has no module `{name}`", self.directory.display());
        };
        let bytes = read(&file)?;
        for needed in dependencies(&bytes).with_context(|| format!("reading {}", file.display()))? {
            self.add(&needed)?;
        }
        self.modules.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

/// The name by which the kernel knows the module in this file: `nf-tables.ko.xz` is `nf_tables`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, rest) = file.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"].contains(&rest).then(|| name.replace('-', "_"))
}

/// The module's bytes, decompressed: not every kernel can do that itself.
fn read(file: &PathBuf) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(file).with_context(|| format!("reading {}", file.display())),
    };
    process::capture_bytes(process::command(program).args(["-dc"]).arg(file))
}

/// The modules that this one names in its section `.modinfo`: `depends=a,b`.
fn dependencies(bytes: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(bytes)?;
    let section = file.section_by_name(".modinfo").context("no section .modinfo")?;
    Ok(depends(section.data()?))
}

fn depends(modinfo: &[u8]) -> Vec<String> {
    let fields = modinfo.split(|&byte| byte == 0).filter_map(|field| std::str::from_utf8(field).ok());
    let list = fields.into_iter().find_map(|field| field.strip_prefix("depends=")).unwrap_or_default();
    list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for (file, name) in [
            ("kernel/net/nf-tables.ko.xz", Some("nf_tables")),
            ("veth.ko", Some("veth")),
            ("veth.ko.sig", None),
            ("README", None),
        ] {
            assert_eq!(module_name(Path::new(file)).as_deref(), name, "{file}");
        }
    }

    #[test]
    fn dependencies_of_a_module() {
        assert_eq!(
            depends(b"license=GPL\0depends=nf_tables,nf-reject-ipv4\0name=x\0"),
            ["nf_tables", "nf_reject_ipv4"]
        );
        assert!(depends(b"license=GPL\0depends=\0").is_empty());
        assert!(depends(b"").is_empty());
    }
}
