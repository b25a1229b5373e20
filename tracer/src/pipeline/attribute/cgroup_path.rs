//! What a cgroup's path says about the workload inside.
//!
//! Owns the shapes that Kubernetes, the container runtimes and systemd give to paths. Pure: no I/O. Paths
//! are chosen by whoever may make cgroups, so nothing in one is taken on trust but its shape.

/// A cgroup's path, and how much of it names cgroups that only root can make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPath {
    whole: String,
    by_root: usize,
}

impl CgroupPath {
    /// `by_root` bytes at the path's beginning are of cgroups that only root can make.
    #[must_use]
    pub fn new(whole: String, by_root: usize) -> Self {
        Self { by_root: by_root.min(whole.len()), whole }
    }

    /// All of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.whole
    }
}

/// A path of which nothing is delegated.
impl From<&str> for CgroupPath {
    fn from(path: &str) -> Self {
        Self { whole: path.to_owned(), by_root: path.len() }
    }
}

/// What a path names; every part may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    /// The pod's UID as the API server writes it, or the 32 digits of a static pod.
    pub pod_uid: Option<String>,
    /// The container's 64 hexadecimal digits.
    pub container_id: Option<String>,
    /// The systemd unit, with its suffix.
    pub unit: Option<String>,
    /// A container's digits in the part of the path that others than root can make: a detail of the unit, by which no
    /// name is ever looked up.
    pub delegated_container: Option<String>,
}

/// Reads a path from the outermost cgroup inwards, as far as only root can make its cgroups.
///
/// The outermost pod counts, and in it the outermost container, the one that the node's runtime knows; so does the
/// outermost unit. What is nested inside was made by what is around it. But a unit around a pod (`containerd.service`)
/// says nothing about the pod, and a container's own scope is no unit.
#[must_use]
pub fn parse(path: &CgroupPath) -> Workload {
    let mut workload = Workload::default();
    let (by_root, by_others) = path.whole.split_at(path.by_root);
    let mut segments = by_root.split('/');
    for segment in segments.by_ref() {
        // `<slice>:<runtime>:<id>` is how containerd writes systemd's slice and scope in one name.
        segment.split(':').for_each(|part| workload.descend(part));
        if is_user_manager(segment) {
            break;
        }
    }
    if workload.pod_uid.is_none() && workload.container_id.is_none() && workload.unit.is_some() {
        let id = segments.chain(by_others.split('/')).find_map(container_id);
        workload.delegated_container = id.map(str::to_owned);
    }
    workload
}

impl Workload {
    fn descend(&mut self, part: &str) {
        if let Some(uid) = pod_uid(part) {
            if self.pod_uid.is_none() {
                *self = Self { pod_uid: Some(uid), ..Self::default() };
            }
        } else if is_monitor(part) {
            // Beside the container, not in it, and named after it.
        } else if let Some(id) = container_id(part) {
            self.container_id.get_or_insert_with(|| id.to_owned());
        } else if is_unit(part) {
            self.unit.get_or_insert_with(|| part.to_owned());
        }
    }
}

/// `user@1000.service`, all that is in which belongs to that user, who may give it any name.
fn is_user_manager(part: &str) -> bool {
    part.starts_with("user@") && part.ends_with(".service")
}

/// The UID in `pod<uid>` (cgroupfs driver) or `kubepods-burstable-pod<uid>.slice` (systemd driver, where
/// underscores stand for the dashes).
fn pod_uid(part: &str) -> Option<String> {
    let uid = match part.strip_suffix(".slice") {
        Some(slice) => slice.contains("kubepods").then(|| slice.rsplit_once("-pod"))??.1,
        None => part.strip_prefix("pod")?,
    };
    let dashed = uid.replace('_', "-");
    (is_uuid(&dashed) || is_hex(uid, 32)).then_some(dashed)
}

pub(super) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Runtimes write their identifiers in lower case.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The id in `<id>`, `<runtime>-<id>` and `<runtime>-<id>.scope`.
fn container_id(part: &str) -> Option<&str> {
    let stem = part.strip_suffix(".scope").unwrap_or(part);
    let id = stem.rsplit_once('-').map_or(stem, |(_, id)| id);
    is_hex(id, 64).then_some(id)
}

/// `crio-conmon-<id>` and `libpod-conmon-<id>` hold a container's monitor.
fn is_monitor(part: &str) -> bool {
    part.starts_with("crio-conmon-") || part.starts_with("libpod-conmon-")
}

fn is_unit(part: &str) -> bool {
    let stem = part.strip_suffix(".service").or_else(|| part.strip_suffix(".scope"));
    stem.is_some_and(|stem| !stem.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "4f2c1e0d9b8a7766554433221100ffeeddccbbaa99887766554433221100abcd";
    const OTHER: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const UID: &str = "6b1a2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
    const UID_: &str = "6b1a2c3d_4e5f_4a6b_8c7d_9e0f1a2b3c4d";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    /// Puts the constants into a template, parses it and names what was found; `-` for nothing.
    fn found(template: &str) -> [&'static str; 3] {
        let path = template
            .replace("UID_", UID_)
            .replace("UID", UID)
            .replace("STATIC", STATIC)
            .replace("OTHER", OTHER)
            .replace("ID", ID);
        let workload = parse(&path.as_str().into());
        let name = |value: Option<String>| match value.as_deref() {
            None => "-",
            Some(UID) => "UID",
            Some(STATIC) => "STATIC",
            Some(OTHER) => "OTHER",
            Some(ID) => "ID",
            Some(unit) => String::leak(unit.to_owned()),
        };
        [name(workload.pod_uid), name(workload.container_id), name(workload.unit)]
    }

    #[test]
    fn known_shapes() {
        let slice = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice";
        let rows: &[(&str, [&str; 3])] = &[
            // Kubernetes, cgroupfs driver.
            ("/kubepods/podUID/ID", ["UID", "ID", "-"]),
            ("/kubepods/burstable/podUID/ID", ["UID", "ID", "-"]),
            ("/kubepods/besteffort/podUID/ID", ["UID", "ID", "-"]),
            ("/kubepods/besteffort/podUID/ID/child", ["UID", "ID", "-"]),
            ("/kubepods/burstable/podSTATIC/ID", ["STATIC", "ID", "-"]),
            ("/kubepods/burstable/podUID/crio-ID", ["UID", "ID", "-"]),
            ("/kubepods/burstable/podUID", ["UID", "-", "-"]),
            // Kubernetes, systemd driver.
            ("{slice}/cri-containerd-ID.scope", ["UID", "ID", "-"]),
            ("{slice}/crio-ID.scope", ["UID", "ID", "-"]),
            ("{slice}/crio-ID.scope/container", ["UID", "ID", "-"]),
            ("{slice}/docker-ID.scope", ["UID", "ID", "-"]),
            ("{slice}/crio-conmon-ID.scope", ["UID", "-", "-"]),
            ("/kubepods.slice/kubepods-podUID_.slice/cri-containerd-ID.scope", ["UID", "ID", "-"]),
            ("/kubepods.slice/kubepods-podSTATIC.slice/crio-ID.scope", ["STATIC", "ID", "-"]),
            ("/system.slice/containerd.service/kubepods-burstable-podUID_.slice:cri-containerd:ID", ["UID", "ID", "-"]),
            // Seen from another cgroup namespace.
            ("/../../kubepods-besteffort-podUID_.slice/cri-containerd-ID.scope", ["UID", "ID", "-"]),
            ("/../../podUID/ID", ["UID", "ID", "-"]),
            ("/../cri-containerd-ID.scope", ["-", "ID", "-"]),
            // Kubernetes in a container, and a container in a pod.
            (
                "/docker/OTHER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUID_.slice/cri-containerd-ID.scope",
                ["UID", "ID", "-"],
            ),
            ("/kubepods/burstable/podUID/ID/docker/OTHER", ["UID", "ID", "-"]),
            ("/kubepods/podUID/ID/system.slice/nginx.service", ["UID", "ID", "nginx.service"]),
            // Containers without Kubernetes.
            ("/system.slice/docker-ID.scope", ["-", "ID", "-"]),
            ("/docker/ID", ["-", "ID", "-"]),
            ("/machine.slice/libpod-ID.scope/container", ["-", "ID", "-"]),
            ("/libpod_parent/libpod-ID", ["-", "ID", "-"]),
            ("/machine.slice/libpod-conmon-ID.scope", ["-", "-", "-"]),
            ("/system.slice/crio-conmon-ID.scope", ["-", "-", "-"]),
            ("/system.slice/web.service/libpod-payload-ID", ["-", "ID", "web.service"]),
            ("/ecs/task/ID", ["-", "ID", "-"]),
            ("/docker/ID/system.slice/nginx.service", ["-", "ID", "nginx.service"]),
            // systemd units.
            ("/system.slice/foo.service", ["-", "-", "foo.service"]),
            ("/system.slice/foo.service/worker", ["-", "-", "foo.service"]),
            ("/system.slice/system-getty.slice/getty@tty1.service", ["-", "-", "getty@tty1.service"]),
            ("/user.slice/user-0.slice/session-3.scope", ["-", "-", "session-3.scope"]),
            // What a user's manager runs is that user's to name.
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", ["-", "-", "user@1000.service"]),
            ("/user.slice/user-1000.slice/user@1000.service/podUID/ID", ["-", "-", "user@1000.service"]),
            // The outermost unit and the outermost pod.
            ("/system.slice/web.service/sshd.service", ["-", "-", "web.service"]),
            ("/kubepods/podUID/ID/podSTATIC/OTHER", ["UID", "ID", "-"]),
            ("/kubepods/podUID/ID/a.service/b.service", ["UID", "ID", "a.service"]),
            ("/init.scope", ["-", "-", "init.scope"]),
        ];
        for (template, expected) in rows {
            assert_eq!(found(&template.replace("{slice}", slice)), *expected, "{template}");
        }
    }

    #[test]
    fn what_others_than_root_can_make_names_nobody() {
        let pod = format!("/user.slice/kubepods-pod{UID_}.slice/docker-{ID}.scope");
        let unit = format!("/system.slice/web.service/docker-{ID}.scope");
        let parsed = |path: &str, by_root: &str| parse(&CgroupPath::new(path.to_owned(), by_root.len()));
        assert_eq!(parsed(&pod, "/user.slice"), Workload::default());
        let web = Workload { unit: Some("web.service".into()), ..Workload::default() };
        assert_eq!(
            parsed(&unit, "/system.slice/web.service"),
            Workload { delegated_container: Some(ID.into()), ..web }
        );
        assert_eq!(parsed(&unit, "/system.slice"), Workload::default());
        let user = format!("/user.slice/user@1.service/libpod-{ID}.scope");
        assert_eq!(parse(&user.as_str().into()).delegated_container.as_deref(), Some(ID));
        assert_eq!(parsed(&user, "/user.slice/user@1.service").delegated_container.as_deref(), Some(ID));
    }

    #[test]
    fn what_only_looks_alike_names_nothing() {
        for template in [
            "",
            "/",
            "//",
            "/..",
            "/system.slice",
            "/.service",
            "/.scope",
            "/kubepods.slice/kubepods-burstable.slice",
            "/kubepods/pod",
            "/kubepods/podSTATICa",
            "/kubepods/podUID-",
            "/kubepods/pod6b1a2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4g",
            "/kubepods/podé1a2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d",
            "/app.slice/app-podUID_.slice",
            "/docker/IDa",
            "/docker/docker-0123456789ab",
            "/docker/4F2C1E0D9B8A7766554433221100FFEEDDCCBBAA99887766554433221100ABCD",
            "/docker/ID.service.d",
            "/system.slice/cups.socket",
        ] {
            assert_eq!(found(template), ["-", "-", "-"], "{template}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_found_has_the_right_shape(path in "(/|:|pod|-|kubepods|\\.slice|\\.scope|\\.service|[0-9a-f]{32}|\\PC){0,40}") {
            let workload = parse(&path.as_str().into());
            if let Some(uid) = workload.pod_uid {
                prop_assert!(is_uuid(&uid) || is_hex(&uid, 32), "{uid}");
            }
            if let Some(id) = workload.container_id {
                prop_assert!(is_hex(&id, 64), "{id}");
            }
            if let Some(unit) = workload.unit {
                prop_assert!(is_unit(&unit) && !unit.contains('/'), "{unit}");
            }
        }

        #[test]
        fn a_container_is_found_at_any_depth(depth in 0..50_usize, id in "[0-9a-f]{64}") {
            let path = format!("{}/docker-{id}.scope", "/a".repeat(depth));
            prop_assert_eq!(parse(&path.as_str().into()).container_id, Some(id));
        }
    }
}
