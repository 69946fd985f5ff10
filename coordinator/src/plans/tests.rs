use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use super::Follower;
use super::folder::{Found, documents};
use super::wanted::only_one;
use crate::clock::SystemClock;
use crate::identity::authority::Authority;
use crate::keeper::{Followed, Keeper};
use crate::store::memory::MemoryStore;

const PLAN: &str = "apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nspec:\n  toVersion: v1.20.2\n";

fn found(name: &str, text: &str) -> Found {
    Found { name: name.to_owned(), content: text.into() }
}

#[expect(clippy::disallowed_methods, reason = "a test stands on the other side")]
fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn a_git_checkout_and_a_mounted_config_map_hold_the_documents_that_people_see_there() {
    let checkout = tempfile::tempdir().unwrap();
    write(&checkout.path().join(".git/config.yaml"), "not a plan");
    write(&checkout.path().join("README.md"), "not a plan");
    write(&checkout.path().join("old/plan.yaml"), "another folder's");
    write(&checkout.path().join(".plan.yaml.swp"), "an editor's");
    write(&checkout.path().join("plan.yaml"), PLAN);
    fs::create_dir(checkout.path().join("folder.yaml")).unwrap();
    assert_eq!(documents(checkout.path()).unwrap(), [found("plan.yaml", PLAN)]);

    // As the kubelet mounts one: the files are links through one link, which alone is changed.
    let mounted = tempfile::tempdir().unwrap();
    write(&mounted.path().join("..2026_01_01/plan.yaml"), PLAN);
    write(&mounted.path().join("..2026_01_02/plan.yaml"), "newer");
    symlink("..2026_01_01", mounted.path().join("..data")).unwrap();
    symlink("..data/plan.yaml", mounted.path().join("plan.yaml")).unwrap();
    assert_eq!(documents(mounted.path()).unwrap(), [found("plan.yaml", PLAN)]);
    fs::remove_file(mounted.path().join("..data")).unwrap();
    symlink("..2026_01_02", mounted.path().join("..data")).unwrap();
    assert_eq!(documents(mounted.path()).unwrap(), [found("plan.yaml", "newer")]);
}

#[test]
fn nothing_is_read_through_a_link_out_of_the_folder_and_nothing_larger_than_a_document() {
    let outside = tempfile::tempdir().unwrap();
    write(&outside.path().join("key.pem"), "a secret");
    let folder = tempfile::tempdir().unwrap();
    symlink(outside.path().join("key.pem"), folder.path().join("plan.yaml")).unwrap();
    let error = documents(folder.path()).unwrap_err().to_string();
    assert!(error.contains("leads out of") && !error.contains("secret"), "{error}");
    fs::remove_file(folder.path().join("plan.yaml")).unwrap();
    write(&folder.path().join("plan.yaml"), &" ".repeat(1024 * 1024 + 1));
    assert!(documents(folder.path()).unwrap_err().to_string().contains("plan.yaml has more than"));
    for (name, shown) in [(&b"a\x1b[2J.yaml"[..], "a\\u{1b}[2J.yaml"), (b"pl\xe4n.yaml", "pl\u{fffd}n.yaml")]
    {
        let odd = tempfile::tempdir().unwrap();
        write(&odd.path().join(std::ffi::OsStr::from_bytes(name)), PLAN);
        let error = documents(odd.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("\"{shown}\" in ")), "{error}");
    }
    let missing = documents(&folder.path().join("nowhere")).unwrap_err().to_string();
    assert!(missing.contains("nowhere cannot be found"), "{missing}");
}

#[test]
fn exactly_one_document_may_say_what_is_wanted() {
    let only_one = |found: &[Found]| only_one(Path::new("/srv/plans"), found);
    assert!(only_one(&[]).unwrap_err().contains("/srv/plans holds no document"));
    let two = only_one(&[found("a.yaml", PLAN), found("b.yaml", PLAN)]).unwrap_err();
    assert!(two.contains("a.yaml, b.yaml") && two.contains("exactly one"), "{two}");
    let unread = only_one(&[found("a.yaml", "spec: 1\n")]).unwrap_err();
    assert!(unread.starts_with("a.yaml is not an upgrade plan: line 1, column 7: spec"), "{unread}");
}

#[test]
fn a_document_is_another_where_it_says_something_else_and_not_where_it_looks_otherwise() {
    let hash = |name: &str, text: &str| only_one(Path::new("/srv/plans"), &[found(name, text)]).unwrap().hash;
    let first = hash("a.yaml", PLAN);
    assert_eq!(hash("b.yaml", &format!("# a comment\n{PLAN}  policy: {{onFailure: halt}}\n")), first);
    assert_eq!(hash("a.yaml", &format!("{PLAN}status: {{plan: null}}\n")), first);
    assert_ne!(hash("a.yaml", &PLAN.replace("v1.20.2", "v1.20.3")), first);
    assert_ne!(hash("a.yaml", &format!("{PLAN}metadata: {{name: once-more}}\n")), first);
    assert_ne!(hash("a.yaml", &format!("{PLAN}  policy: {{redeploy: true}}\n")), first);
}

#[tokio::test]
async fn a_document_that_is_still_being_written_is_not_acted_upon() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(&folder.path().join("ca"), &SystemClock).unwrap();
    let store = Box::new(Arc::new(MemoryStore::default()));
    let keeper = Arc::new(Keeper::open(store, authority, Box::new(SystemClock)).unwrap());
    let (plans, file) = (folder.path().join("plans"), folder.path().join("plans/plan.yaml"));
    let mut follower = Follower::new(Arc::clone(&keeper), plans);
    // What Git has written so far reads, and says something else than the whole.
    write(&file, PLAN);
    assert_eq!(follower.look().await, Ok(()));
    write(&file, &format!("{PLAN}  policy: {{onFailure: roll-back-node}}\n"));
    assert_eq!(follower.look().await, Ok(()));
    let refused = follower.look().await.unwrap_err();
    assert!(refused.starts_with("plan.yaml is refused: no-control-plane: "), "{refused}");
    // Nothing has changed since: the nodes are not asked again.
    assert_eq!(follower.look().await, Err(refused));
    assert_eq!(keeper.acted_on(&Followed::File { name: "plan.yaml".to_owned() }), None);
}
