//! The labels of Nodes, as far as a report takes them.

use liftlock_proto::v1::Label;

use crate::host::NodeState;

/// Bytes of keys and values that are told of one Node: a Node of a large cloud has about 40 labels.
const OF_A_NODE: usize = 8 * 1024;

/// Bytes that are told of all Nodes: a report is to stay far below the mebibyte that the coordinator takes.
const OF_ALL: usize = 256 * 1024;

/// Bytes that a label takes besides its key and its value.
const FRAME: usize = 8;

/// The labels of each Node; `None` where there are more than a report takes. What is told is told whole, so that no selector
/// judges by half of them.
pub(crate) fn of_nodes(nodes: &[NodeState]) -> Vec<Option<Vec<Label>>> {
    let mut left = OF_ALL;
    let told = nodes.iter().map(|node| {
        let bytes: usize = node.labels.iter().map(|(key, value)| key.len() + value.len() + FRAME).sum();
        left = left.checked_sub(bytes).filter(|_| bytes <= OF_A_NODE)?;
        let label = |(key, value): (&String, &String)| Label { key: key.clone(), value: value.clone() };
        Some(node.labels.iter().map(label).collect())
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(labels: usize) -> NodeState {
        let label = |number| (format!("example.com/label-{number:04}"), "x".repeat(63));
        NodeState { labels: (0..labels).map(label).collect(), ..NodeState::default() }
    }

    #[test]
    fn labels_are_told_whole_or_not_at_all_and_a_report_stays_small() {
        let few: Vec<NodeState> = (0..3).map(|_| node(40)).collect();
        assert!(of_nodes(&few).iter().all(|told| told.as_ref().is_some_and(|told| told.len() == 40)));
        assert_eq!(of_nodes(&[node(40), node(1000)])[1], None);
        let many: Vec<NodeState> = (0..500).map(|_| node(20)).collect();
        let told = of_nodes(&many);
        assert!(told[0].is_some() && told[499].is_none());
        let bytes: usize =
            told.iter().flatten().flatten().map(|label| label.key.len() + label.value.len()).sum();
        assert!(bytes <= OF_ALL, "{bytes}");
    }
}
