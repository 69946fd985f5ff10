use liftlock_proto::packages::PackageSource;
use liftlock_proto::plan::{Plan, PlannedNode};
use liftlock_proto::version::KubernetesVersion;

use super::*;
use crate::core::rollout::Rollout;
use crate::core::window::{Day, Window};

fn path(nodes: &[&str]) -> Path {
    let role = |name: &str| if name.starts_with("cp") { Role::FirstControlPlane } else { Role::Worker };
    let planned = |name: &&str| PlannedNode {
        name: name.parse().unwrap(),
        role: role(name),
        place: None,
        packages: PackageSource::default(),
        prepare: Vec::new(),
        steps: Vec::new(),
    };
    let first = Plan {
        id: "p-0123456789ab".parse().unwrap(),
        hash: String::new(),
        from_version: KubernetesVersion::new(1, 30, 4),
        to_version: KubernetesVersion::new(1, 31, 2),
        nodes: nodes.iter().map(planned).collect(),
        policy: Policy { drain_timeout_seconds: 900, ..Policy::default() },
        pools: Vec::new(),
    };
    Path { first, onward: Vec::new() }
}

/// On Saturdays, in Berlin.
fn saturdays(from: &str, to: &str) -> Conduct {
    let time = |text: &str| text.to_owned().try_into().unwrap();
    let time_zone = "Europe/Berlin".to_owned().try_into().unwrap();
    let window = Window { days: vec![Day::Sat], from: time(from), to: time(to), time_zone };
    Conduct { windows: vec![window], ..Conduct::default() }
}

/// A Friday.
fn now() -> Timestamp {
    "2026-11-27T12:00:00Z".parse().unwrap()
}

fn expected(path: &Path) -> Expected {
    Expected::of(&path.first.policy, std::iter::empty::<&Rollout>())
}

#[test]
fn a_plan_of_which_a_single_lease_fits_into_no_window_is_refused_and_says_how_long_one_has_to_be() {
    let path = path(&["cp1", "w1", "w2"]);
    let refused = |conduct: &Conduct| refusals(&path, conduct, now(), &expected(&path));
    assert_eq!(refused(&Conduct::default()), []);
    assert_eq!(refused(&saturdays("22:00", "22:45")), []);
    let found = refused(&saturdays("22:00", "22:44"));
    assert_eq!(found.len(), 2, "once a role: {found:?}");
    for part in [
        "first-control-plane is expected to take 45 min",
        "no such node was raised here yet",
        "opens Sat 2026-11-28 22:00 Europe/Berlin and has 44 min",
        "allowed is one of at least that length",
    ] {
        assert!(found[0].message.contains(part), "{part}: {}", found[0].message);
    }
    assert!(found.iter().all(|refusal| refusal.rule == "window-too-short" && !refusal.acceptable));
}

#[test]
fn how_the_leases_fit_into_the_windows_is_told_before_the_first_one() {
    let path = path(&["cp1", "w1", "w2"]);
    let fit = |conduct: &Conduct| fit(&path, conduct, now(), &expected(&path));
    assert_eq!(fit(&Conduct::default()), None);
    assert_eq!(fit(&saturdays("22:00", "22:30")), None);
    let told = fit(&saturdays("22:00", "00:15")).unwrap();
    let expected = "the first node is begun on Sat 2026-11-28 22:00 Europe/Berlin or later, and all leases fit into one \
                    window: the last one would end about Sun 2026-11-29 00:15 Europe/Berlin";
    assert_eq!(told, expected);
    let told = fit(&saturdays("22:00", "23:59")).unwrap();
    assert!(told.contains("take 2 windows") && told.contains("Sat 2026-12-05 22:45"), "{told}");
    let told = fit(&saturdays("12:00", "12:00").also(Day::Fri)).unwrap();
    assert!(told.starts_with("the first node may be begun on now, and all leases fit into one"), "{told}");
}

impl Conduct {
    fn also(mut self, day: Day) -> Self {
        self.windows.iter_mut().for_each(|window| window.days.push(day));
        self
    }
}
