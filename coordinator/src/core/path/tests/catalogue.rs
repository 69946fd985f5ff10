//! Paths under a catalogue.

use super::*;

/// A catalogue of `"v1.20.2"`, `"v1.20.2 required"`, `"v1.20.2 bad"`.
fn catalogue(entries: &[&str]) -> Catalogue {
    let entry = |entry: &&str| match entry.split_once(' ') {
        Some((version, "bad")) => {
            format!("[[known-bad]]\nversion = \"{version}\"\nwhy = \"it loses pods.\"\n")
        }
        Some((version, _)) => format!("[[approved]]\nversion = \"{version}\"\nrequired-stop = true\n"),
        None => format!("[[approved]]\nversion = \"{entry}\"\n"),
    };
    Catalogue::parse(&entries.iter().map(entry).collect::<String>()).unwrap()
}

fn stops(
    view: &ClusterView,
    target: KubernetesVersion,
    policy: &Policy,
    entries: &[&str],
) -> Vec<KubernetesVersion> {
    let path = make_path(view, target, policy, &catalogue(entries)).unwrap();
    path.plans().map(|plan| plan.to_version).collect()
}

fn refused(view: &ClusterView, target: KubernetesVersion, entries: &[&str]) -> Vec<(&'static str, String)> {
    let refusals = make_path(view, target, &Policy::default(), &catalogue(entries)).unwrap_err();
    assert!(refusals.iter().all(|refusal| !refusal.acceptable), "{refusals:?}");
    refusals.into_iter().map(|refusal| (refusal.rule, refusal.message)).collect()
}

#[test]
fn a_stop_is_at_the_newest_approved_release_that_every_node_is_offered() {
    let mut view = view(3, 2, minor(19, 7));
    let stops = |view: &ClusterView, entries: &[&str]| stops(view, minor(21, 2), &Policy::default(), entries);
    assert_eq!(stops(&view, &["v1.20.2", "v1.20.7", "v1.20.9", "v1.21.2"]), [minor(20, 7), minor(21, 2)]);
    assert_eq!(stops(&view, &["v1.20.2", "v1.20.7 bad", "v1.21.2"]), [minor(20, 2), minor(21, 2)]);
    assert_eq!(stops(&view, &["v1.20.2", "v1.21.2"]), [minor(20, 2), minor(21, 2)]);
    agent(&mut view, "w2").offered.retain(|version| *version != minor(20, 7));
    assert_eq!(stops(&view, &["v1.20.2", "v1.20.7", "v1.21.2"]), [minor(20, 2), minor(21, 2)]);
}

#[test]
fn a_required_stop_is_a_stop_of_its_own_also_inside_a_minor_and_the_only_one_that_its_minor_needs() {
    let view = view(3, 2, minor(19, 2));
    let stops = |target, entries: &[&str]| stops(&view, target, &Policy::default(), entries);
    let inside = stops(minor(20, 7), &["v1.19.7 required", "v1.20.2 required", "v1.20.7"]);
    assert_eq!(inside, [minor(19, 7), minor(20, 2), minor(20, 7)]);
    let on_the_way = stops(minor(21, 2), &["v1.20.2 required", "v1.20.7", "v1.21.2", "v1.21.7 required"]);
    assert_eq!(on_the_way, [minor(20, 2), minor(21, 2)]);
    assert_eq!(stops(minor(19, 7), &["v1.19.2 required", "v1.19.7 required"]), [minor(19, 7)]);
}

#[test]
fn what_the_catalogue_does_not_approve_of_is_refused_with_its_reason_and_what_would_be_allowed() {
    let view = view(3, 2, minor(19, 2));
    let on_it = ["v1.19.2", "v1.19.7", "v1.20.2 bad", "v1.20.7"];
    let bad = refused(&view, minor(20, 2), &on_it);
    let why = "the catalogue knows v1.20.2 to be bad: it loses pods; the nearest that it approves of are v1.19.7 and \
               v1.20.7";
    assert_eq!(bad, [("known-bad", why.to_owned())]);
    let off = refused(&view, minor(20, 7), &on_it[..3]);
    let why = "v1.20.7 is not on the catalogue: the nearest that it approves of is v1.19.7";
    assert_eq!(off, [("off-catalogue", why.to_owned())]);
    let none = refused(&view, minor(20, 7), &["v1.19.2"]);
    let why = "v1.20.7 is not on the catalogue: it approves of none that is newer than v1.19.2";
    assert_eq!(none, [("off-catalogue", why.to_owned())]);
    let unseen = ClusterView::default();
    assert_eq!(
        refused(&unseen, minor(20, 7), &[])[0].1,
        "v1.20.7 is not on the catalogue: it approves of none"
    );
}

#[test]
fn nobody_may_consent_to_what_the_catalogue_does_not_approve_of() {
    let view = view(3, 2, minor(19, 2));
    for (rule, on_it) in [("known-bad", "v1.20.2 bad"), ("off-catalogue", "v1.20.7")] {
        let policy = Policy { accepted: vec![rule.to_owned()], ..Policy::default() };
        let refusals = make_path(&view, minor(20, 2), &policy, &catalogue(&[on_it])).unwrap_err();
        let rules: Vec<&str> = refusals.iter().map(|refusal| refusal.rule).collect();
        assert_eq!(rules, ["unknown-consent", rule]);
    }
}

#[test]
fn a_minor_on_the_way_of_which_nothing_is_approved_that_every_node_can_have_is_refused() {
    let view = view(3, 2, minor(19, 7));
    let none = refused(&view, minor(21, 2), &["v1.20.7 bad", "v1.21.2"]);
    assert_eq!((none.len(), none[0].0), (1, "off-catalogue"), "{none:?}");
    for part in ["v1.20 is a stop on the way to v1.21.2", "v1.20.2, v1.20.7", "of no release of v1.20"] {
        assert!(none[0].1.contains(part), "{part}: {none:?}");
    }
    let another = refused(&view, minor(21, 2), &["v1.20.4", "v1.20.5", "v1.21.2"]);
    assert!(another[0].1.contains("it approves of v1.20.4, v1.20.5: add the repository"), "{another:?}");
    let gates = gates_on_the_way(&view, minor(21, 2), &Policy::default(), &catalogue(&["v1.21.2"]));
    let (_, verdict, messages) = gates.into_iter().find(|(gate, ..)| gate.name == "off-catalogue").unwrap();
    assert_eq!((verdict, messages.len()), (Verdict::Refused, 1));
}

#[test]
fn a_required_stop_that_no_node_is_offered_is_said_with_its_number() {
    let view = view(3, 2, minor(19, 7));
    let refusals = refused(&view, minor(21, 2), &["v1.20.7", "v1.21.1 required", "v1.21.2"]);
    assert_eq!((refusals.len(), refusals[0].0), (5, "version-not-offered"), "{refusals:?}");
    assert!(refusals[0].1.starts_with("at stop 2 of 3, v1.21.1: cp1's package repositories"), "{refusals:?}");
}

#[test]
fn a_stop_is_planned_again_under_the_catalogue_of_then() {
    let view = view(3, 2, minor(19, 7));
    let planned = |entries: &[&str]| {
        let stop =
            make_stop(&view, minor(20, 7), Some(minor(21, 2)), &Policy::default(), &catalogue(entries));
        stop.map(|plan| plan.to_version).map_err(|refusals| {
            let [refusal] = refusals.as_slice() else { panic!("{refusals:?}") };
            (refusal.rule, refusal.message.clone())
        })
    };
    assert_eq!(planned(&["v1.20.7"]), Ok(minor(20, 7)));
    assert_eq!(planned(&["v1.20.7 bad"]).unwrap_err().0, "known-bad");
    assert_eq!(planned(&["v1.20.2"]).unwrap_err().0, "off-catalogue");
    let (rule, message) = planned(&["v1.20.2 required", "v1.20.7"]).unwrap_err();
    assert!(
        rule == "required-stop" && message.contains("v1.20.2 on the way from v1.19.7 to v1.20.7"),
        "{message}"
    );
}

#[test]
fn nobody_is_spared_at_a_required_stop_and_one_that_was_begun_is_ended_first() {
    let on_it = ["v1.29.7 required", "v1.30.2 required", "v1.31.2"];
    let path = make_path(&view(3, 2, minor(29, 7)), minor(31, 2), &skipping(), &catalogue(&on_it)).unwrap();
    assert_eq!(raised_at(&path), [["cp1", "cp2", "cp3", "w1", "w2"]; 2]);

    let mut begun = view(3, 2, minor(29, 7));
    kubelet(&mut begun, "w2", minor(29, 2));
    let ended_first = make_path(&begun, minor(31, 2), &skipping(), &catalogue(&on_it)).unwrap();
    assert_eq!(raised_at(&ended_first)[0], ["w2"]);
    assert_eq!(ended_first.first.to_version, minor(29, 7));
}

#[test]
fn what_runs_already_runs_on_whatever_the_catalogue_says_of_it() {
    let view = view(3, 2, minor(19, 7));
    for entries in [&["v1.19.7 bad"][..], &["v1.20.2"]] {
        assert_eq!(refused(&view, minor(19, 7), entries)[0].0, "nothing-to-do");
    }
}

/// What a catalogue may say of a release: three in six times that it is approved.
fn entries() -> impl Strategy<Value = Vec<String>> {
    let word = prop::sample::select(vec!["", "", "", " required", " bad", "absent"]);
    prop::collection::vec(word, everything().len()).prop_map(|words| {
        let said = everything().into_iter().zip(words).filter(|(_, word)| *word != "absent");
        said.map(|(version, word)| format!("{version}{word}")).collect()
    })
}

proptest! {
    #[test]
    fn no_path_stops_at_what_is_bad_or_not_approved_and_none_goes_past_a_required_stop(
        from in 19_u16..33, distance in 0_u16..4, patch in prop::sample::select(vec![2_u16, 7]),
        skips in any::<bool>(), entries in entries(),
    ) {
        let (mut now, target) = (view(3, 2, minor(from, 2)), minor(from + distance, patch));
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        let catalogue = catalogue(&entries);
        let policy = Policy { workers_skip_stops: skips, ..Policy::default() };
        let approved = |minor: u16| everything().into_iter().any(|v| v.minor == minor && catalogue.allows(v));
        let possible = catalogue.allows(target) && (from + 1..target.minor).all(approved) && target != minor(from, 2);
        let path = make_path(&now, target, &policy, &catalogue);
        prop_assert_eq!(path.is_ok(), possible, "{:?}", path);
        let Ok(path) = path else { return Ok(()) };
        let stops: Vec<KubernetesVersion> = path.plans().map(|plan| plan.to_version).collect();
        prop_assert!(stops.is_sorted() && stops.iter().all(|stop| catalogue.allows(*stop)), "{:?}", stops);
        for required in catalogue.required_between(minor(from, 2), target) {
            prop_assert!(stops.contains(&required), "{} is not in {:?}", required, stops);
        }
        for (planned, after) in path.plans().zip(stops.iter().skip(1).map(|stop| Some(*stop)).chain([None])) {
            let then = make_stop(&now, planned.to_version, after, &policy, &catalogue).unwrap();
            prop_assert_eq!(&then, planned);
            let raised: BTreeSet<&NodeName> = planned.nodes.iter().map(|node| &node.name).collect();
            let spared: BTreeSet<NodeName> =
                now.nodes.keys().filter(|name| !raised.contains(name)).cloned().collect();
            prop_assert!(spared.is_empty() || !catalogue.requires(planned.to_version));
            raise(&mut now, planned.to_version, &spared);
        }
    }
}
