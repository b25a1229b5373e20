//! Where the settings of many namespaces are read.
//!
//! `/proc/sys` remembers each file by name and namespace, all namespaces' under the same hash: a look-up walks past those of
//! all others (`proc_sys_compare`). Measured on Linux 6.18, reading 41 files in each of 1000 namespaces takes 3.5 ms a
//! namespace there, and 0.39 ms in proc file systems that remember 32 namespaces each. Such a one is mounted nowhere: it
//! has a descriptor, and goes with that. Where it is refused, as by the systemd unit's filter, which allows no system call
//! that mounts, `/proc/sys` serves; the slices in which settings are read hold all the same.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Namespaces that one file system remembers.
const NAMESPACES_EACH: usize = 32;
/// Up to so many `/proc/sys` is no dearer.
const FEW: usize = 64;

/// A source of settings for one pass.
#[derive(Debug, Default)]
pub struct ProcSys {
    /// `None` where `/proc/sys` serves.
    own: Option<Mutex<Own>>,
}

#[derive(Debug, Default)]
struct Own {
    mount: Option<Arc<OwnedFd>>,
    namespaces: usize,
}

/// A directory laid out as `/proc/sys` is; it is there for as long as this lives.
#[derive(Debug)]
pub struct Root {
    /// Its path.
    pub path: PathBuf,
    _mount: Option<Arc<OwnedFd>>,
}

impl ProcSys {
    /// For a pass over so many namespaces.
    #[must_use]
    pub fn for_namespaces(count: usize) -> Self {
        Self { own: (count > FEW).then(Mutex::default) }
    }

    /// The directory for the namespace that the calling thread is in; to be asked for once in each.
    #[must_use]
    pub fn root(&self) -> Root {
        let mount = self.own.as_ref().and_then(|own| own.lock().unwrap_or_else(PoisonError::into_inner).next());
        let path = match &mount {
            Some(mount) => format!("/proc/thread-self/fd/{}/sys", mount.as_raw_fd()),
            None => "/proc/sys".to_owned(),
        };
        Root { path: path.into(), _mount: mount }
    }
}

impl Own {
    fn next(&mut self) -> Option<Arc<OwnedFd>> {
        if self.namespaces.is_multiple_of(NAMESPACES_EACH) {
            self.mount = mount().ok().map(Arc::new);
        }
        self.namespaces += 1;
        self.mount.clone()
    }
}

/// A proc file system of its own, on no path.
fn mount() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::sysctls::{Settings, Whose};

    #[test]
    fn few_namespaces_are_read_where_everybody_reads() {
        assert_eq!(ProcSys::for_namespaces(FEW).root().path, PathBuf::from("/proc/sys"));
    }

    /// Needs root, as the agent does.
    #[test]
    fn many_are_read_elsewhere_and_say_the_same() {
        let many = ProcSys::for_namespaces(FEW + 1);
        let roots: Vec<Root> = (0..=NAMESPACES_EACH).map(|_| many.root()).collect();
        assert_ne!(roots[0].path, PathBuf::from("/proc/sys"));
        assert_eq!(roots[0].path, roots[NAMESPACES_EACH - 1].path);
        assert_ne!(roots[0].path, roots[NAMESPACES_EACH].path, "the next have another");
        let usual = Settings::read_from(&PathBuf::from("/proc/sys"), Whose::Host);
        assert!(usual.iter().count() > 20);
        for root in &roots {
            assert_eq!(Settings::read_from(&root.path, Whose::Host), usual);
        }
    }
}
