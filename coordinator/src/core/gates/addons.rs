//! Add-ons, as they lie on the control planes.

use std::collections::BTreeMap;

use super::situation::{Candidate, Situation};
use super::{Consent, Finding, Gate, Look, When};
use crate::core::addons::{addons, set_of};
use crate::core::view::Addons;

/// Half of them would be applied, or what others may have written.
pub(super) static UNREADABLE: Gate = Gate {
    name: "addons-unreadable",
    about: "the add-ons for the target read, and nobody but root can have written them",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Machines(|situation| {
        if situation.to_raise().all(|node| !node.control_plane()) {
            return Vec::new();
        }
        let name = set_of(situation);
        situation.control_planes().filter_map(|node| unreadable(node, name.as_deref())).collect()
    }),
};

/// Which of them are applied would depend on which control plane comes last.
pub(super) static DIFFER: Gate = Gate {
    name: "addons-differ",
    about: "every control plane has the same add-ons for the target",
    consent: Consent::Never,
    when: When::Before,
    look: Look::Machines(differ),
};

fn unreadable(node: &Candidate<'_>, name: Option<&str>) -> Option<Finding> {
    let unread = node.agent()?.findings.addons.as_ref().err();
    let unread = unread.map(|why| format!("the add-ons on {} cannot be read: {why}", node.name));
    let refused = || match addons(node, name?)? {
        Addons::Refused { why } => Some(format!("the add-ons on {} are not applied: {why}", node.name)),
        Addons::Whole { .. } => None,
    };
    unread.or_else(refused).map(Finding::closed)
}

fn differ(situation: &Situation<'_>) -> Vec<Finding> {
    let Some(name) = set_of(situation) else { return Vec::new() };
    let mut by_digest: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
    for node in situation.control_planes().filter(|node| node.agent().is_some()) {
        match addons(node, &name) {
            Some(Addons::Whole { digest }) => {
                by_digest.entry(Some(digest.as_str())).or_default().push(node.name.as_str());
            }
            None => by_digest.entry(None).or_default().push(node.name.as_str()),
            // The other gate's.
            Some(Addons::Refused { .. }) => {}
        }
    }
    if by_digest.len() < 2 {
        return Vec::new();
    }
    let told: Vec<String> = by_digest
        .into_iter()
        .map(|(digest, nodes)| {
            let what = digest.map_or("none".to_owned(), |digest| format!("{}…", short(digest)));
            format!("{} on {}", what, nodes.join(", "))
        })
        .collect();
    vec![Finding::closed(format!(
        "the control planes have different add-ons {name} (SHA-256: {}): put the same files on each of them, with the same \
         [addons] in agent.toml",
        told.join("; ")
    ))]
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use liftlock_proto::plan::Policy;
    use liftlock_proto::step::Step;
    use liftlock_proto::version::KubernetesVersion;

    use super::*;
    use crate::core::gates::tests::cluster_at;
    use crate::core::planning::make_plan;
    use crate::core::view::ClusterView;

    const TO: KubernetesVersion = KubernetesVersion::new(1, 31, 2);

    fn with(sets: &[(&str, &str, &str)]) -> ClusterView {
        let mut view = cluster_at(30);
        for (node, name, digit) in sets {
            let agent = view.nodes.get_mut(&node.parse().unwrap()).unwrap().agent.as_mut().unwrap();
            let addons = match *digit {
                "!" => Addons::Refused { why: "others than root may write to it".to_owned() },
                digit => Addons::Whole { digest: digit.repeat(64) },
            };
            agent.findings.addons.as_mut().unwrap().insert((*name).to_owned(), addons);
        }
        view
    }

    /// Which node applies which digest, or the rules that refuse the plan.
    /// Nodes with the digests that they apply, or rules with their words.
    type Planned = Result<Vec<(String, String)>, Vec<(&'static str, String)>>;

    fn planned(view: &ClusterView) -> Planned {
        let plan = make_plan(view, TO, &Policy::default());
        let plan = plan.map_err(|refusals| {
            refusals.into_iter().map(|refusal| (refusal.rule, refusal.message)).collect::<Vec<_>>()
        })?;
        let applying = plan.nodes.iter().flat_map(|node| {
            node.steps.iter().filter_map(|step| match step {
                Step::ApplyAddons { digest, .. } => Some((node.name.to_string(), digest[..1].to_owned())),
                _ => None,
            })
        });
        Ok(applying.collect())
    }

    #[test]
    fn the_last_control_plane_applies_the_add_ons_of_the_release_or_else_of_its_minor() {
        let on_all = |name, digit| ["cp1", "cp2", "cp3"].map(|node| (node, name, digit)).to_vec();
        assert_eq!(planned(&with(&[])), Ok(vec![]));
        assert_eq!(planned(&with(&on_all("v1.30", "a"))), Ok(vec![]), "of another version");
        assert_eq!(planned(&with(&on_all("v1.31", "a"))), Ok(vec![("cp3".to_owned(), "a".to_owned())]));
        let both = [on_all("v1.31", "a"), on_all("v1.31.2", "b")].concat();
        assert_eq!(planned(&with(&both)), Ok(vec![("cp3".to_owned(), "b".to_owned())]));
    }

    #[test]
    fn add_ons_that_differ_or_do_not_read_refuse_the_plan_and_name_the_nodes() {
        let some = with(&[("cp1", "v1.31", "a"), ("cp2", "v1.31", "a"), ("cp3", "v1.31", "b")]);
        let refusals = planned(&some).unwrap_err();
        assert_eq!(refusals[0].0, "addons-differ");
        assert!(refusals[0].1.contains("aaaaaaaaaaaa… on cp1, cp2; bbbbbbbbbbbb… on cp3"), "{refusals:?}");
        let missing = planned(&with(&[("cp1", "v1.31", "a"), ("cp2", "v1.31", "a")])).unwrap_err();
        assert!(missing[0].1.contains("none on cp3"), "{missing:?}");
        let refused = with(&[("cp1", "v1.31", "a"), ("cp2", "v1.31", "a"), ("cp3", "v1.31", "!")]);
        let refusals = planned(&refused).unwrap_err();
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert!(refusals[0].0 == "addons-unreadable" && refusals[0].1.contains("on cp3"), "{refusals:?}");
    }
}
