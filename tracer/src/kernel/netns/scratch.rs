//! A network namespace for one live test, removed with it.
//!
//! Owns the namespace's life: `ip netns add` on creation, `ip netns del` when dropped. Tests only.

use std::process::{Command, Output};

use super::{NetnsRef, Roots, discover};

/// A named namespace without any process.
pub(crate) struct ScratchNetns {
    pub(crate) name: String,
}

impl ScratchNetns {
    /// Adds a namespace whose name no other test and no other run uses.
    ///
    /// Panics without root: a live test that cannot run must not pass.
    pub(crate) fn add(test: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes network namespaces and needs root; leave it out with `-- --skip live_`"
        );
        let name = format!("tracer-{test}-{}", std::process::id());
        let output = ip(&["netns", "add", &name]);
        assert!(output.status.success(), "ip netns add {name}: {output:?}");
        Self { name }
    }

    /// How discovery sees it.
    pub(crate) fn find(&self) -> NetnsRef {
        let found = discover(&Roots::default()).unwrap();
        let mut named = found.namespaces.into_values();
        named.find(|netns| netns.names.contains(&self.name)).unwrap()
    }
}

impl Drop for ScratchNetns {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Output {
    Command::new("ip").args(arguments).output().expect("iproute2 is installed")
}
