//! What the names of container logs say: which pod and which container an id belongs to.
//!
//! Owns the two shapes that kubelet gives to names below `/var/log`. Pure: no I/O. A name that does not have
//! the shape names nothing; no file is ever opened.

use super::cgroup_path::{is_hex, is_uuid};

/// The longest name of a pod or a namespace, and more than a container's may be.
const NAME_BYTES_MAX: usize = 253;

/// A pod's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Its Kubernetes namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub pod: Box<str>,
}

/// A container's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName {
    /// The pod that it belongs to.
    pub pod: PodName,
    /// Its name in the pod, which a restart keeps.
    pub container: Box<str>,
}

impl PodName {
    fn new(namespace: &str, pod: &str) -> Option<Self> {
        // Pods may have dots in their names, namespaces may not.
        let is_valid = is_name(pod) && is_name(namespace) && !namespace.contains('.');
        is_valid.then(|| Self { namespace: namespace.into(), pod: pod.into() })
    }
}

/// The container's id and names in `<pod>_<namespace>_<container>-<id>.log`, a name below `containers`.
///
/// Names may hold dots and dashes but no underscore. kubelet cuts what is longer than a file name may be, and
/// cuts the id: such a name says nothing.
#[must_use]
pub fn container_log(name: &str) -> Option<(&str, ContainerName)> {
    let [pod, namespace, rest] = three_parts(name)?;
    let (container, id) = rest.strip_suffix(".log")?.rsplit_once('-')?;
    let is_valid = is_hex(id, 64) && is_name(container) && !container.contains('.');
    let pod = is_valid.then(|| PodName::new(namespace, pod))??;
    Some((id, ContainerName { pod, container: container.into() }))
}

/// The pod's UID and names in `<namespace>_<pod>_<uid>`, a name below `pods`. A static pod has the 32 digits of its
/// configuration's hash for a UID, here as in the path of its cgroup.
#[must_use]
pub fn pod_logs(name: &str) -> Option<(&str, PodName)> {
    let [namespace, pod, uid] = three_parts(name)?;
    let is_uid = is_uuid(uid) || is_hex(uid, 32);
    Some((uid, is_uid.then(|| PodName::new(namespace, pod))??))
}

fn three_parts(name: &str) -> Option<[&str; 3]> {
    let mut parts = name.split('_');
    let three = [parts.next()?, parts.next()?, parts.next()?];
    parts.next().is_none().then_some(three)
}

/// Whether Kubernetes could have given the name: it allows lower-case letters, digits, dashes and dots.
fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "4f2c1e0d9b8a7766554433221100ffeeddccbbaa99887766554433221100abcd";
    const UID: &str = "6b1a2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn container_logs_name_namespace_pod_and_container() {
        for (template, expected) in [
            ("web-0_shop_app-ID.log", Some(["shop", "web-0", "app"])),
            ("web.v2-7d9f_shop-eu_side-car-ID.log", Some(["shop-eu", "web.v2-7d9f", "side-car"])),
            ("kube-apiserver-node.example.org_kube-system_kube-apiserver-ID.log", {
                Some(["kube-system", "kube-apiserver-node.example.org", "kube-apiserver"])
            }),
            ("0_1_2-ID.log", Some(["1", "0", "2"])),
            ("web-0_shop_app-ID", None),
            ("web-0_shop_app-ID.log.1", None),
            ("web-0_shop_appID.log", None),
            ("web-0_shop_-ID.log", None),
            ("web-0__app-ID.log", None),
            ("_shop_app-ID.log", None),
            ("web_0_shop_app-ID.log", None),
            ("shop_app-ID.log", None),
            ("web-0_shop_app-4f2c1e0d9b8a.log", None),
            ("web-0_shop_app-IDa.log", None),
            ("web-0_shop.eu_app-ID.log", None),
            ("web-0_shop_app.1-ID.log", None),
            ("Web_shop_app-ID.log", None),
            ("web\n_shop_app-ID.log", None),
            ("", None),
        ] {
            let name = template.replace("ID", ID);
            let found = container_log(&name).map(|(id, names)| {
                assert_eq!(id, ID);
                [names.pod.namespace, names.pod.pod, names.container].map(String::from)
            });
            assert_eq!(found, expected.map(|names| names.map(str::to_owned)), "{template}");
        }
    }

    #[test]
    fn directories_of_pods_name_them_by_uid() {
        for (template, expected) in [
            ("shop_web-0_UID", Some(["shop", "web-0", UID])),
            ("shop-eu_web.v2-7d9f_UID", Some(["shop-eu", "web.v2-7d9f", UID])),
            ("kube-system_etcd-node1_STATIC", Some(["kube-system", "etcd-node1", STATIC])),
            ("shop_web-0", None),
            ("shop_web-0_", None),
            ("shop_web-0_UIDa", None),
            ("shop_web_0_UID", None),
            ("_web-0_UID", None),
            ("shop__UID", None),
            // As kubelets before 1.14 called them.
            ("UID", None),
            ("", None),
        ] {
            let name = template.replace("UID", UID).replace("STATIC", STATIC);
            let found = pod_logs(&name).map(|(uid, names)| [names.namespace, names.pod, uid.into()].map(String::from));
            assert_eq!(found, expected.map(|names| names.map(str::to_owned)), "{template}");
        }
    }

    #[test]
    fn what_was_cut_to_fit_a_file_name_names_nothing() {
        let name = format!("{}_shop_app-{ID}.log", "w".repeat(200));
        assert!(container_log(&format!("{}.log", &name[..251])).is_none());
        assert!(container_log(&format!("{}_shop_app-{ID}.log", "w".repeat(254))).is_none());
    }

    proptest! {
        #[test]
        fn any_name_is_survived(name in "(_|-|\\.log|\\.|[0-9a-f]{32}|[0-9a-f]{64}|[a-z]|\\PC){0,12}") {
            if let Some((id, names)) = container_log(&name) {
                prop_assert!(is_hex(id, 64));
                prop_assert_eq!(&name, &format!("{}_{}_{}-{id}.log", names.pod.pod, names.pod.namespace, names.container));
            }
            if let Some((uid, names)) = pod_logs(&name) {
                prop_assert_eq!(&name, &format!("{}_{}_{uid}", names.namespace, names.pod));
            }
        }
    }
}
