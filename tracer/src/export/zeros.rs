//! Which network namespaces show counts of zero: a thousand do. Whoever may make namespaces can make very many, and each
//! has some fifty rows, nearly all of which stay zero.

use std::{cmp::Reverse, collections::HashSet};

use crate::view::{Namespace, View, WITH_ZEROS_MAX};

/// Values of the label `netns` of those that show none, and are not in `/status`: neither the host's nor a pod's while there is room for these, and
/// the younger ones, where the kernel numbers them in the order of their making.
pub(super) fn namespaces_without(view: &View) -> HashSet<&str> {
    if view.namespaces.len() <= WITH_ZEROS_MAX {
        return HashSet::new();
    }
    let mut namespaces: Vec<&Namespace> = view.namespaces.iter().collect();
    namespaces.sort_by_key(|namespace| (Reverse(namespace.is_host), namespace.owner.pod.is_empty(), namespace.id));
    namespaces.drain(..WITH_ZEROS_MAX);
    namespaces.into_iter().map(|namespace| namespace.label.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        export::{
            metrics::MetricId,
            namespace_rows,
            rows::{ROWS_MAX, Rows, Suppressed},
        },
        pipeline::attribute::Owner,
    };

    fn namespace(id: u64) -> Namespace {
        Namespace { id, ..namespace_rows::tests::namespace(&id.to_string()) }
    }

    #[test]
    fn the_host_pods_and_the_oldest_show_zeros() {
        let mut view = View { namespaces: (1..=1_002).map(namespace).collect(), ..View::default() };
        view.namespaces[1_001].is_host = true;
        view.namespaces[1_000].owner = Arc::new(Owner { pod: "web-0".into(), ..Owner::default() });
        assert_eq!(namespaces_without(&view), ["999", "1000"].into());
        view.namespaces.truncate(1_000);
        assert!(namespaces_without(&view).is_empty());
    }

    #[test]
    fn counts_above_zero_and_levels_are_shown_in_any_case() {
        let suppressed = Suppressed::default();
        let mut rows = Rows::new(ROWS_MAX, &suppressed);
        rows.leave_out_zeros_of(["7"].into());
        for netns in ["7", "8"] {
            for signal in 0..2 {
                let labels = [netns, "", "", ["listen_drops", "passive_opens"][signal]];
                rows.add(MetricId::KernelCount, &labels, f64::from(signal == 1));
                rows.add(MetricId::CountDifference, &labels, 0.0);
            }
            rows.add(MetricId::TcpTimeWaitSockets, &[netns, "", ""], 0.0);
        }
        let text = String::from_utf8(super::super::encode::encode(&rows).to_vec()).unwrap();
        let of = |netns: &str| text.lines().filter(|line| line.contains(&format!("netns=\"{netns}\""))).count();
        assert_eq!((of("7"), of("8")), (2, 5), "{text}");
    }
}
