//! Protected paths: what is put back, what is named, and what may change.

use camino::Utf8Path;
use liftlock_proto::plan::Role;
use liftlock_proto::step::Step;

use super::harness::{End, Leased, shape};
use crate::engine::step::Observed;
use crate::protect::keep::TREE_LIMIT;
use crate::twin::{Picture, Twin};

const CNI: &str = "/etc/cni/net.d/10-flannel.conflist";
const CA: &str = "/etc/kubernetes/pki/ca.crt";
const RULES: &str = "/etc/liftlock/protect.d/shop.conf";

/// A worker with something to protect, as it is before its lease.
fn worker() -> Leased {
    let leased = Leased::new(&Twin::new(shape(3, 2)), "w1", Role::Worker);
    leased.meddle(|machine| {
        machine.disk.put("/etc/machine-id", "0123456789abcdef\n", 0o444);
        machine.disk.put(CNI, "{\"name\": \"cbr0\"}", 0o644);
        machine.disk.put("/root/.ssh/authorized_keys", "ssh-ed25519 AAAA", 0o600);
        machine.disk.put("/data/large", vec![7; usize::try_from(TREE_LIMIT).unwrap()], 0o600);
        machine.disk.put("/data/small", "of the shop", 0o640);
        machine.disk.put("/var/log/kubeadm-join.log", "[preflight] Running\n", 0o600);
    });
    leased
}

/// The worker at the end of its lease, sealed before the first change.
fn sealed() -> Leased {
    let mut leased = worker();
    let steps = leased.steps.clone();
    for step in steps.iter().take_while(|step| step.name() != "install-kubeadm") {
        assert_eq!(leased.carry(step), End::Done);
    }
    leased
}

fn verify(leased: &mut Leased) -> End {
    leased.carry(&Step::VerifyProtectedPaths {})
}

fn put(leased: &Leased, path: &str, content: &str, mode: u32) {
    leased.meddle(|machine| machine.disk.put(path, content, mode));
}

fn remove(leased: &Leased, path: &str) {
    assert!(leased.meddle(|machine| machine.disk.remove(Utf8Path::new(path))), "{path}");
}

fn same(leased: &Leased, before: &Picture) {
    let differences = leased.picture().differences(before);
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn what_was_sealed_and_changed_is_put_back_and_what_was_found_instead_is_kept() {
    let mut leased = sealed();
    let before = leased.picture();
    put(&leased, CNI, "{\"name\": \"other\"}", 0o666);
    put(&leased, "/etc/cni/net.d/00-stray.conf", "{}", 0o644);
    put(&leased, CA, "another authority", 0o644);
    remove(&leased, "/etc/machine-id");
    leased.meddle(|machine| machine.disk.set_mode("/root/.ssh/authorized_keys".into(), 0o644));
    assert_eq!(verify(&mut leased), End::Done);
    same(&leased, &before);
    let backup = leased.backups().remove(0);
    let found: Vec<String> = leased.meddle(|machine| {
        let files = machine.disk.below(&backup).into_iter();
        let found = files.filter(|(path, _)| path.as_str().contains("/found-"));
        found.map(|(_, file)| String::from_utf8_lossy(&file.content).into_owned()).collect()
    });
    assert_eq!(found, ["{}", "{\"name\": \"other\"}", "another authority"]);
    let lines = leased.log.lines();
    assert!(lines.iter().any(|line| line.contains(&format!("put back {CNI} (content, mode)"))), "{lines:#?}");
}

#[test]
fn what_cannot_be_put_back_is_named_and_goes_once_an_operator_says_that_it_may_change() {
    let mut leased = sealed();
    put(&leased, "/data/small", "of another shop", 0o640);
    put(&leased, "/data/new", "", 0o640);
    put(&leased, CNI, "{}", 0o644);
    let End::Failed(why) = verify(&mut leased) else { panic!() };
    assert!(why.contains("/data/small (content; ") && why.contains("/data/new (new; "), "{why}");
    assert!(why.contains("`liftlock retry w1`") && !why.contains(CNI), "{why}");
    let cni = leased.meddle(|machine| machine.disk.read(CNI.into()).map(<[u8]>::to_vec));
    assert_eq!(cni.as_deref(), Some(&b"{\"name\": \"cbr0\"}"[..]), "what could be put back is");
    put(&leased, RULES, "except /data/small\nexcept /data/new\n", 0o644);
    assert_eq!(verify(&mut leased), End::Done);
    put(&leased, "/data/large", "less", 0o600);
    assert!(matches!(verify(&mut leased), End::Failed(why) if why.contains("/data/large")));
    put(&leased, RULES, "live /data\n", 0o644);
    assert_eq!(verify(&mut leased), End::Done);
}

#[test]
fn a_raise_changes_nothing_that_is_protected_but_what_kubeadm_owns() {
    let twin = Twin::new(shape(3, 1));
    let mut leased = Leased::new(&twin, "cp1", Role::FirstControlPlane);
    let key = "/etc/kubernetes/pki/sa.key";
    put(&leased, key, "key", 0o600);
    leased.carry_until("verify-protected-paths");
    assert_eq!(leased.check(&Step::VerifyProtectedPaths {}).unwrap(), Observed::Done);
    put(&leased, "/etc/kubernetes/pki/apiserver.crt", "renewed once more", 0o644);
    put(&leased, "/etc/kubernetes/tmp/kubeadm-backup-x/x", "", 0o600);
    assert_eq!(leased.check(&Step::VerifyProtectedPaths {}).unwrap(), Observed::Done);
    put(&leased, key, "another key", 0o600);
    assert_eq!(leased.check(&Step::VerifyProtectedPaths {}).unwrap(), Observed::Partial);
}

#[test]
fn a_log_may_grow_and_be_rotated_and_not_be_rewritten() {
    let log = "/var/log/kubeadm-join.log";
    let mut leased = sealed();
    put(&leased, log, "[preflight] Running\nmore\n", 0o600);
    assert_eq!(verify(&mut leased), End::Done);
    put(&leased, &format!("{log}.1"), "[preflight] Running\nmore\n", 0o600);
    put(&leased, log, "new\n", 0o600);
    assert_eq!(verify(&mut leased), End::Done);
    remove(&leased, &format!("{log}.1"));
    let End::Failed(why) = verify(&mut leased) else { panic!() };
    assert!(why.contains(&format!("{log} (the log begins otherwise")), "{why}");
    remove(&leased, log);
    assert!(matches!(verify(&mut leased), End::Failed(why) if why.contains(&format!("{log} (gone"))));
}

#[test]
fn a_file_that_somebody_changed_is_put_back_when_the_lease_is_unwound_too() {
    let leased = worker();
    let before = leased.picture();
    let mut leased = leased.fork();
    leased.carry_until("kubeadm-upgrade-node");
    put(&leased, CNI, "{}", 0o644);
    let last = leased.steps.iter().position(|step| step.name() == "install-kubeadm").unwrap();
    assert_eq!(leased.unwind_from(last), Ok(()));
    same(&leased, &before);
}

#[test]
fn a_line_that_names_no_path_stops_the_node_while_it_prepares_and_before_any_change() {
    let mut leased = worker();
    put(&leased, RULES, "# ours\nsrv/shop\n", 0o644);
    let why = leased.prepare(&Step::MeasureSpace { role: Role::Worker }).unwrap_err().to_string();
    assert!(why.contains(&format!("{RULES}:2: \"srv/shop\" is not an absolute path")), "{why}");
    leased.carry_until("seal-protected-paths");
    let why = leased.fail("seal-protected-paths");
    assert!(why.contains(&format!("{RULES}:2: ")), "{why}");
}

#[test]
fn nothing_is_verified_where_nothing_was_sealed_and_a_damaged_manifest_is_named() {
    let mut leased = worker();
    assert_eq!(leased.carry(&leased.step("back-up-node")), End::Done);
    let End::Failed(why) = verify(&mut leased) else { panic!() };
    assert!(why.contains("nothing was sealed"), "{why}");
    assert_eq!(leased.carry(&Step::SealProtectedPaths {}), End::Done);
    let manifest = leased.backups().remove(0).join("protected.json");
    put(&leased, manifest.as_str(), "{}", 0o600);
    let End::Failed(why) = verify(&mut leased) else { panic!() };
    assert!(why.contains(manifest.as_str()), "{why}");
}

#[test]
fn the_manifest_and_the_copies_are_for_nobodys_eyes_and_in_the_index() {
    let leased = sealed();
    let backup = leased.backups().remove(0);
    leased.meddle(|machine| {
        let index =
            String::from_utf8(machine.disk.read(&backup.join("index.json")).unwrap().to_vec()).unwrap();
        for name in ["protected.json", "protected.pack"] {
            assert_eq!(machine.disk.file(&backup.join(name)).unwrap().mode, 0o600, "{name}");
            assert!(index.contains(&format!("\"{name}\"")), "{index}");
        }
        let pack = machine.disk.read(&backup.join("protected.pack")).unwrap();
        assert!(pack.len() < 1000, "/data is too large to be copied: {}", pack.len());
    });
}
