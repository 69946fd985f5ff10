//! The catalogue's file: read for every plan, when it is applied, and before each stop.

use std::path::PathBuf;

use super::path::{Journey, TOO_LONG};
use super::*;
use crate::core::catalogue::Checksum;
use crate::core::planning::Refusal;
use crate::identity::files;

/// Both stops of a journey.
const BOTH: &str = "[[approved]]\nversion = \"v1.30.4\"\n[[approved]]\nversion = \"v1.31.2\"\n";

const SECOND_IS_BAD: &str =
    "[[approved]]\nversion = \"v1.30.4\"\n[[known-bad]]\nversion = \"v1.31.2\"\nwhy = \"it loses pods\"\n";

impl Coordinator {
    /// The same with a catalogue in its folder.
    fn keeping_a_catalogue(self, text: &str) -> Self {
        let kept = Self {
            keeper: self.keeper.with_catalogue(Some(CatalogueSource::File(file(&self.state_dir)))),
            ..self
        };
        kept.write_catalogue(text);
        kept
    }

    fn write_catalogue(&self, text: &str) {
        files::write(&file(&self.state_dir), text).unwrap();
    }

    fn refused(&self) -> Refusal {
        let refusals = self.keeper.plan("v1.31.2".parse().unwrap(), &Policy::default()).unwrap_err();
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        refusals.into_iter().next().unwrap()
    }
}

fn file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("catalogue.toml")
}

#[test]
fn a_catalogue_that_anybody_may_write_to_or_that_is_no_file_of_its_size_is_not_read() {
    let coordinator = Coordinator::new();
    let _agents = coordinator.connect_all();
    let coordinator = coordinator.keeping_a_catalogue(BOTH);
    let file = file(&coordinator.state_dir);
    let refused_for = |why: &str| {
        let refusal = coordinator.refused();
        assert!(refusal.rule == "catalogue-unread" && refusal.message.contains(why), "{refusal:?}");
    };
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o646)).unwrap();
    refused_for("anybody on this machine may write to it: `chmod o-w ");
    coordinator.write_catalogue(&"#".repeat(1024 * 1024 + 1));
    refused_for("it has more than 1048576 bytes");
    files::remove(&file).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
    refused_for("it is no file");
    files::remove(&file).unwrap();
    coordinator.write_catalogue(BOTH);
    assert!(coordinator.keeper.plan("v1.31.2".parse().unwrap(), &Policy::default()).is_ok());
}

#[test]
fn without_a_catalogue_that_reads_nothing_is_planned_or_applied() {
    let coordinator = Coordinator::new();
    let agents = coordinator.connect_all();
    let path = coordinator.plan();
    let coordinator = coordinator.keeping_a_catalogue("[[approved]]\nversoin = \"v1.31.2\"\n");
    let file = file(&coordinator.state_dir);
    for why in ["line 2, column 1: unknown field `versoin`, expected", "there is no such file"] {
        let refusal = coordinator.refused();
        assert!(refusal.rule == "catalogue-unread" && !refusal.acceptable, "{refusal:?}");
        let applied = coordinator.keeper.apply(&path, "alice").unwrap_err().to_string();
        let asked = coordinator.keeper.gates(None, &Policy::default()).unwrap_err().to_string();
        for said in [refusal.message, applied, asked] {
            assert!(said.contains(why) && said.contains(&*file.to_string_lossy()), "{said}");
        }
        let versions = coordinator.keeper.versions(Vec::new());
        assert!(versions.catalogue_flaw.contains(why), "{versions:?}");
        assert_eq!(versions.versions.len(), 2, "what is installed and offered is known all the same");
        files::remove(&file).unwrap();
    }
    drop(agents);
}

#[test]
fn of_a_catalogue_that_somebody_else_keeps_only_the_copy_with_its_checksum_counts() {
    let coordinator = Coordinator::new();
    let _agents = coordinator.connect_all();
    let fetched = Fetched {
        url: "https://lists.example/catalogue.toml".parse().unwrap(),
        sha256: Checksum::of(BOTH.as_bytes()),
        copy: file(&coordinator.state_dir),
    };
    let keeper = coordinator.keeper.with_catalogue(Some(CatalogueSource::Fetched(fetched)));
    let coordinator = Coordinator { keeper, ..coordinator };
    let refused = |coordinator: &Coordinator| {
        let refusal = coordinator.refused();
        assert_eq!(refusal.rule, "catalogue-unread");
        for part in ["https://lists.example/catalogue.toml", "has not been fetched yet"] {
            assert!(refusal.message.contains(part), "{refusal:?}");
        }
    };
    refused(&coordinator);
    coordinator.write_catalogue(SECOND_IS_BAD);
    refused(&coordinator);
    coordinator.write_catalogue(BOTH);
    assert_eq!(coordinator.plan().first.to_version.to_string(), "v1.31.2");
}

#[test]
fn an_edit_of_the_catalogue_counts_at_the_next_plan_and_for_what_was_planned_before() {
    let coordinator = Coordinator::new().keeping_a_catalogue(BOTH);
    let _agents = coordinator.connect_all();
    let path = coordinator.plan();
    coordinator.write_catalogue(SECOND_IS_BAD);
    assert_eq!(coordinator.refused().rule, "known-bad");
    let refused = coordinator.keeper.apply(&path, "alice").unwrap_err().to_string();
    assert!(refused.contains("cannot be started now") && refused.contains("it loses pods"), "{refused}");
    let newest = coordinator.keeper.gates(None, &Policy::default()).unwrap();
    assert_eq!(newest.to_version, "v1.30.4", "a bad version is nothing to raise to");
    coordinator.write_catalogue(BOTH);
    coordinator.keeper.apply(&path, "alice").unwrap();
}

#[test]
fn a_path_halts_before_a_stop_that_is_known_to_be_bad_meanwhile() {
    let mut journey = Journey::new();
    journey.coordinator = journey.coordinator.take().map(|coordinator| coordinator.keeping_a_catalogue(BOTH));
    journey.apply();
    journey.coordinator().write_catalogue(SECOND_IS_BAD);
    journey.goes_on();
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::BetweenStops), "the stop at hand is reached");
    journey.time_passes(TOO_LONG);
    assert_eq!(journey.phase(), (1, v1::RolloutPhase::Halted));
    let reason = journey.coordinator().rollout().reason;
    assert!(reason.contains("knows v1.31.2 to be bad: it loses pods"), "{reason}");
    assert_eq!(journey.leases.len(), NODES.len());
}

#[test]
fn versions_say_who_runs_them_who_is_offered_them_and_what_the_catalogue_says() {
    let coordinator = Coordinator::new().keeping_a_catalogue(SECOND_IS_BAD);
    let agents = coordinator.connect_all();
    let versions = coordinator.keeper.versions(vec!["cp2".parse().unwrap()]);
    assert_eq!((versions.nodes, versions.silent), (4, vec!["cp2".to_owned()]));
    let [present, next] = versions.versions.as_slice() else { panic!("{:?}", versions.versions) };
    assert_eq!((present.version.as_str(), present.kubelets.len(), present.offered_by), ("v1.30.4", 4, 4));
    assert_eq!(present.control_planes, ["cp1", "cp2", "cp3"]);
    assert_eq!(present.standing(), v1::VersionStanding::Approved);
    assert_eq!((next.kubelets.len(), next.offered_by, next.text.as_str()), (0, 4, "it loses pods"));
    assert_eq!(next.standing(), v1::VersionStanding::KnownBad);
    for agent in agents {
        agent.leaves(&coordinator);
    }
    assert_eq!(coordinator.keeper.versions(Vec::new()).silent, NODES);
}
