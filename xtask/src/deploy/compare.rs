//! Whether two sets of objects are the same, and where not. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Labels that a chart's objects have by convention, and others have not.
const HELM_LABELS: &[&str] = &["app.kubernetes.io/managed-by", "helm.sh/chart"];

/// Kinds that a chart leaves to whoever installs it.
const LEFT_TO_OTHERS: &[&str] = &["Namespace"];

/// The places at which the chart's objects are not kustomize's.
pub(super) fn differences(kustomize: &[Value], helm: &[Value]) -> Vec<String> {
    let (kustomize, helm) = (by_name(kustomize), by_name(helm));
    let names: BTreeSet<_> = kustomize.keys().chain(helm.keys()).collect();
    let mut found = Vec::new();
    for name in names {
        let [left, right] = [&kustomize, &helm].map(|objects| objects.get(name).unwrap_or(&Value::Null));
        compare(name, left, right, &mut found);
    }
    found
}

fn by_name(objects: &[Value]) -> BTreeMap<String, Value> {
    let objects = objects.iter().filter(|object| !LEFT_TO_OTHERS.iter().any(|kind| object["kind"] == *kind));
    let named = objects.map(|object| {
        let name = |part: &Value| part.as_str().unwrap_or_default().to_owned();
        (format!("{}/{}", name(&object["kind"]), name(&object["metadata"]["name"])), without_labels(object))
    });
    named.collect()
}

/// The object without Helm's own labels.
fn without_labels(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| !HELM_LABELS.contains(&name.as_str()));
            kept.map(|(name, value)| (name.clone(), without_labels(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_labels).collect(),
        other => other.clone(),
    }
}

fn compare(path: &str, kustomize: &Value, helm: &Value, found: &mut Vec<String>) {
    match (kustomize, helm) {
        (Value::Object(left), Value::Object(right)) => {
            for name in left.keys().chain(right.keys()).collect::<BTreeSet<_>>() {
                let [left, right] = [left, right].map(|fields| fields.get(name).unwrap_or(&Value::Null));
                compare(&format!("{path}.{name}"), left, right, found);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (number, (left, right)) in left.iter().zip(right).enumerate() {
                compare(&format!("{path}[{number}]"), left, right, found);
            }
        }
        (left, right) if left != right => found.push(format!("{path}: {left} by kustomize, {right} by Helm")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(labels: &Value, ports: &Value) -> Value {
        json!({"kind": "DaemonSet", "metadata": {"name": "a", "labels": labels}, "spec": {"ports": ports}})
    }

    #[test]
    fn the_conventions_of_charts_are_no_difference() {
        let kustomize = [object(&json!({"x": "1"}), &json!([1])), json!({"kind": "Namespace", "metadata": {}})];
        let labels = json!({"x": "1", "helm.sh/chart": "a-1", "app.kubernetes.io/managed-by": "Helm"});
        assert!(differences(&kustomize, &[object(&labels, &json!([1]))]).is_empty());
    }

    #[test]
    fn differences_are_shown_where_they_are() {
        let left = object(&json!({"x": "1"}), &json!([1, 2]));
        let right = object(&json!({"x": "2"}), &json!([1, 3]));
        assert_eq!(
            differences(&[left], &[right]),
            [
                "DaemonSet/a.metadata.labels.x: \"1\" by kustomize, \"2\" by Helm",
                "DaemonSet/a.spec.ports[1]: 2 by kustomize, 3 by Helm"
            ]
        );
    }

    #[test]
    fn a_missing_object_and_a_longer_list_differ() {
        let one = object(&json!({}), &json!([1]));
        assert_eq!(differences(std::slice::from_ref(&one), &[]).len(), 1);
        assert_eq!(differences(&[one], &[object(&json!({}), &json!([1, 2]))]).len(), 1);
    }
}
