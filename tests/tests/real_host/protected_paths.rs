//! Protected paths on a node's real files: sealed, changed in every way, verified and put back.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_agent::engine::context::{Captured, Context, Reporter, TimeSpent};
use liftlock_agent::engine::lease::Lease;
use liftlock_agent::engine::step::{Observed, PreState, StepFailure};
use liftlock_agent::steps;
use liftlock_proto::name::FencingToken;
use liftlock_proto::plan::Role;
use liftlock_proto::step::Step;
use liftlock_tests::standin::node::NodeTree;

use super::{Place, Said};

impl Reporter for Said {
    fn line(&self, _: &str, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }

    fn spent(&self, _: TimeSpent, _: std::ops::Range<Duration>) {}
}

/// A worker whose protected paths are sealed.
struct Sealed {
    place: Place,
    said: Said,
}

impl Sealed {
    /// `prepare` fills the node before it is sealed.
    async fn new(prepare: impl FnOnce(&NodeTree)) -> Self {
        let place = Place::new(1, 1).await;
        prepare(&place.tree("w1"));
        let sealed = Self { place, said: Said::default() };
        for step in [Step::BackUpNode { role: Role::Worker }, Step::SealProtectedPaths {}] {
            sealed.run(&step).await.unwrap();
            assert_eq!(sealed.check(&step).await.unwrap(), Observed::Done, "{}", step.name());
        }
        sealed
    }

    fn at(&self, path: &str) -> Utf8PathBuf {
        self.place.tree("w1").at(path)
    }

    fn context(&self, step: &Step) -> Context {
        Context {
            host: self.place.host("w1"),
            node: "w1".parse().unwrap(),
            plan: "p-0123456789ab".parse().unwrap(),
            step: step.name(),
            lease: Arc::new(Lease::new(FencingToken(7), Duration::MAX)),
            captured: Arc::new(Captured::new()),
            reporter: Arc::new(self.said.clone()),
        }
    }

    async fn run(&self, step: &Step) -> Result<(), StepFailure> {
        let (cx, runner) = (self.context(step), steps::runner(step).unwrap());
        let pre: PreState = runner.capture(&cx).await?;
        runner.run(&cx, &pre).await
    }

    async fn check(&self, step: &Step) -> Result<Observed, StepFailure> {
        steps::runner(step).unwrap().check(&self.context(step)).await
    }

    async fn verify(&self) -> Result<(), String> {
        self.run(&Step::VerifyProtectedPaths {}).await.map_err(|failure| failure.to_string())
    }

    async fn is_as_sealed(&self) -> bool {
        self.check(&Step::VerifyProtectedPaths {}).await.unwrap() == Observed::Done
    }

    /// What the node's sealed paths are, told by other means than the agent's: all but what nobody can set.
    fn picture(&self) -> BTreeMap<Utf8PathBuf, String> {
        let mut picture = BTreeMap::new();
        for path in ["/etc/cni", "/etc/machine-id", "/data", "/root"] {
            describe(&self.at(path), &mut picture);
        }
        picture
    }
}

fn describe(path: &Utf8Path, picture: &mut BTreeMap<Utf8PathBuf, String>) {
    let Ok(status) = fs::symlink_metadata(path) else { return };
    let (kind, times) = (status.file_type(), (status.mtime(), status.mtime_nsec()));
    let mut names = vec![0; 1000];
    let length = rustix::fs::llistxattr(path.as_str(), &mut names).unwrap();
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let xattrs: Vec<(String, Vec<u8>)> = names
        .map(|name| {
            let mut value = vec![0; 1000];
            let length = rustix::fs::lgetxattr(path.as_str(), name, &mut value).unwrap();
            (String::from_utf8_lossy(name).into_owned(), value[..length].to_vec())
        })
        .collect();
    let content = match kind {
        _ if kind.is_symlink() => path.read_link_utf8().unwrap().into_string(),
        _ if kind.is_file() => format!("{:?}", fs::read(path).unwrap()),
        _ => format!("{kind:?} {}", kind.is_fifo()),
    };
    let (mode, owner, links) = (status.mode(), (status.uid(), status.gid()), status.nlink());
    let holes = kind.is_file() && status.blocks() * 512 < status.size();
    let what = format!("{mode:o} {owner:?} {links} {times:?} {holes} {xattrs:?} {content}");
    picture.insert(path.to_owned(), what);
    if kind.is_dir() {
        for entry in path.read_dir_utf8().unwrap() {
            describe(entry.unwrap().path(), picture);
        }
    }
}

fn put(path: &Utf8Path, content: &[u8], mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn set_xattr(path: &Utf8Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path.as_str(), name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// Everything that a file system knows of, below sealed paths.
fn everything(node: &NodeTree) {
    let cni = node.at("/etc/cni/net.d");
    put(&cni.join("10-flannel.conflist"), b"{}", 0o640);
    put(&cni.join("a"), b"two names", 0o644);
    fs::hard_link(cni.join("a"), cni.join("b")).unwrap();
    symlink("10-flannel.conflist", cni.join("link")).unwrap();
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, cni.join("pipe").as_str(), pipe, rustix::fs::Mode::RUSR, 0).unwrap();
    set_xattr(&cni.join("10-flannel.conflist"), "user.note", b"ours");
    let sparse = node.at("/root/sparse");
    put(&sparse, b"", 0o600);
    let file = fs::File::options().write(true).open(&sparse).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"end", 3 << 20).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    put(&node.at("/root/.ssh/authorized_keys"), b"ssh-ed25519 AAAA", 0o600);
    put(&node.at("/data/shop/order"), b"1", 0o600);
}

#[tokio::test]
async fn whatever_happens_to_sealed_files_they_are_put_back_with_links_holes_attributes_and_times() {
    type Change = fn(&Sealed);
    let changes: [(&str, Change); 12] = [
        ("content", |node| fs::write(node.at("/etc/cni/net.d/10-flannel.conflist"), "{...}").unwrap()),
        ("an editor's rename", |node| {
            let file = node.at("/etc/cni/net.d/10-flannel.conflist");
            put(&file.with_extension("new"), b"{}", 0o640);
            fs::rename(file.with_extension("new"), file).unwrap();
        }),
        ("both names", |node| fs::write(node.at("/etc/cni/net.d/b"), "other").unwrap()),
        ("one name anew", |node| {
            fs::remove_file(node.at("/etc/cni/net.d/a")).unwrap();
            put(&node.at("/etc/cni/net.d/a"), b"other", 0o644);
        }),
        ("one name gone", |node| fs::remove_file(node.at("/etc/cni/net.d/b")).unwrap()),
        ("a link", |node| {
            fs::remove_file(node.at("/etc/cni/net.d/link")).unwrap();
            symlink("/etc/shadow", node.at("/etc/cni/net.d/link")).unwrap();
        }),
        ("a file for a folder", |node| {
            fs::remove_dir_all(node.at("/root/.ssh")).unwrap();
            fs::write(node.at("/root/.ssh"), "").unwrap();
        }),
        ("a folder for a file", |node| {
            fs::remove_file(node.at("/root/sparse")).unwrap();
            put(&node.at("/root/sparse/x"), b"", 0o600);
        }),
        ("a stray", |node| put(&node.at("/etc/cni/net.d/new/00.conf"), b"{}", 0o600)),
        ("an attribute", |node| set_xattr(&node.at("/root/.ssh/authorized_keys"), "user.x", b"y")),
        ("a mode", |node| {
            fs::set_permissions(node.at("/root/.ssh"), fs::Permissions::from_mode(0o777)).unwrap();
        }),
        ("everything gone", |node| {
            for path in ["/etc/cni", "/root", "/data"] {
                fs::remove_dir_all(node.at(path)).unwrap();
            }
            fs::remove_file(node.at("/etc/machine-id")).unwrap();
        }),
    ];
    let node = Sealed::new(everything).await;
    let before = node.picture();
    assert!(node.is_as_sealed().await);
    for (what, change) in changes {
        change(&node);
        assert_ne!(node.picture(), before, "{what}");
        assert!(!node.is_as_sealed().await, "{what}");
        node.verify().await.unwrap_or_else(|why| panic!("{what}: {why}"));
        assert!(node.is_as_sealed().await, "{what}");
        let after = node.picture();
        let differs: Vec<_> = after.iter().filter(|(path, is)| before.get(*path) != Some(is)).collect();
        assert!(differs.is_empty() && after.len() == before.len(), "{what}: {differs:#?}");
    }
}

#[tokio::test]
async fn an_owner_that_changed_is_put_back() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else may give files away, so nothing can change.
        return;
    }
    let node = Sealed::new(everything).await;
    let (before, key) = (node.picture(), node.at("/root/.ssh/authorized_keys"));
    std::os::unix::fs::chown(&key, Some(1), Some(1)).unwrap();
    assert!(!node.is_as_sealed().await);
    node.verify().await.unwrap();
    assert_eq!(node.picture(), before);
}

#[tokio::test]
async fn a_tree_that_is_too_large_to_copy_is_proven_and_the_good_name_of_a_file_mends_the_other() {
    let node = Sealed::new(|tree| {
        put(&tree.at("/data/large"), &vec![1; 17 << 20], 0o600);
        put(&tree.at("/data/a"), b"two names", 0o600);
        fs::hard_link(tree.at("/data/a"), tree.at("/data/b")).unwrap();
    })
    .await;
    let before = node.picture();
    // As an editor does it, which leaves the other name as it was.
    put(&node.at("/data/new"), b"other", 0o600);
    fs::rename(node.at("/data/new"), node.at("/data/a")).unwrap();
    fs::set_permissions(node.at("/data/large"), fs::Permissions::from_mode(0o644)).unwrap();
    node.verify().await.unwrap();
    let after: BTreeMap<_, _> =
        node.picture().into_iter().filter(|(path, _)| !path.ends_with("data")).collect();
    assert!(after.iter().all(|(path, is)| before[path] == *is), "{after:#?}");

    fs::write(node.at("/data/large"), "less").unwrap();
    fs::write(node.at("/data/stray"), "").unwrap();
    let why = node.verify().await.unwrap_err();
    assert!(why.contains("/data/large (content, time; its tree is too large for copies"), "{why}");
    assert!(why.contains("/data/stray (new; "), "{why}");
    assert_eq!(fs::read_to_string(node.at("/data/large")).unwrap(), "less", "nothing is guessed");
}

#[tokio::test]
async fn a_folder_in_use_may_change_within_and_not_be_another_one() {
    let node = Sealed::new(|tree| put(&tree.at("/var/lib/cni/cache/x"), b"1", 0o600)).await;
    fs::remove_dir_all(node.at("/var/lib/cni/cache")).unwrap();
    fs::set_permissions(node.at("/var/lib/cni"), fs::Permissions::from_mode(0o711)).unwrap();
    assert!(node.is_as_sealed().await);
    // The old one is kept, so that no new one gets its inode.
    fs::rename(node.at("/var/lib/cni"), node.at("/var/lib/cni-old")).unwrap();
    fs::create_dir(node.at("/var/lib/cni")).unwrap();
    let why = node.verify().await.unwrap_err();
    assert!(why.contains("/var/lib/cni (another folder; "), "{why}");
}

#[tokio::test]
async fn what_an_earlier_plan_sealed_and_nobody_touched_is_sealed_by_the_next_one_too() {
    let node = Sealed::new(everything).await;
    let folder = node.at("/etc/kubernetes/tmp");
    let [first] =
        &folder.read_dir_utf8().unwrap().map(|entry| entry.unwrap().into_path()).collect::<Vec<_>>()[..]
    else {
        panic!("one backup")
    };
    let manifest = |path: &Utf8Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(path.join("protected.json")).unwrap()).unwrap()
    };
    let before = manifest(first);
    fs::write(first.join("closed"), "").unwrap();
    for step in [Step::BackUpNode { role: Role::Worker }, Step::SealProtectedPaths {}] {
        node.run(&step).await.unwrap();
    }
    let all = folder.read_dir_utf8().unwrap().map(|entry| entry.unwrap().into_path());
    let second = all.filter(|path| path != first).find(|path| path.join("protected.json").exists()).unwrap();
    assert_eq!(manifest(&second)["contents"], before["contents"]);
    for name in ["protected.json", "protected.pack"] {
        assert_eq!(fs::metadata(second.join(name)).unwrap().mode() & 0o777, 0o600, "{name}");
    }
}
