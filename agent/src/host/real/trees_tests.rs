//! Trees in a temporary folder, as any user.

#![expect(clippy::disallowed_methods, reason = "the tests look past what they test")]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use liftlock_proto::name::FencingToken;
use rustix::fs::{FileType, Mode, XattrFlags};
use tempfile::TempDir;

use super::{RealClock, RealTrees};
use crate::engine::lease::{Lease, Permit};
use crate::host::trees::{Content, Depth, Entry, Kind, Moment, Name, Place, Survey, Tree, Trees};
use crate::host::{HostError, HostResult, Layout};
use crate::protect::compare::{Difference, sealed};

struct Bench {
    _folder: TempDir,
    root: Utf8PathBuf,
    trees: RealTrees,
    permit: Permit,
}

impl Bench {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().canonicalize().unwrap()).unwrap();
        fs::create_dir_all(root.join("tree/d")).unwrap();
        let layout = Layout { state_dir: root.join("state"), root: root.clone() };
        let lease = Lease::new(FencingToken(1), Duration::MAX);
        Self {
            _folder: folder,
            root,
            trees: RealTrees::new(layout),
            permit: lease.permit(&RealClock).unwrap(),
        }
    }

    fn at(&self, path: &str) -> Utf8PathBuf {
        self.root.join("tree").join(path)
    }

    fn put(&self, path: &str, content: &str) -> Utf8PathBuf {
        fs::write(self.at(path), content).unwrap();
        self.at(path)
    }

    fn place(&self, path: &str) -> Place {
        Place { root: self.root.join("tree"), path: path.into() }
    }

    async fn look(&self, known: Option<&Tree>) -> Tree {
        self.try_to_look(known, Vec::new()).await.unwrap()
    }

    async fn try_to_look(&self, known: Option<&Tree>, leave_out: Vec<Name>) -> HostResult<Tree> {
        let known = known.map(|known| Arc::new(known.clone()));
        let survey = Survey { path: self.root.join("tree"), depth: Depth::Whole, leave_out, known };
        self.trees.survey(survey).await
    }

    async fn put_back(&self, path: &str, was: &Tree, content: Option<&[u8]>) {
        let entry = was.entry(&path.into()).unwrap();
        let content = content.map_or(Content::Present, |bytes| Content::Bytes(bytes.to_vec()));
        self.trees.put_back(&self.permit, &self.place(path), entry, content).await.unwrap();
    }

    async fn differences(&self, was: &Tree) -> Vec<(String, Vec<Difference>)> {
        let differences = sealed(was, &self.look(Some(was)).await, |_| false);
        differences.into_iter().map(|(path, found)| (path.to_string(), found.into_iter().collect())).collect()
    }
}

fn kind(tree: &Tree, path: &str) -> Option<Kind> {
    tree.entry(&path.into()).map(|entry| entry.kind.clone())
}

fn set_xattr(path: &Utf8PathBuf, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::setxattr(path.as_str(), name, value, XattrFlags::empty())
}

/// An ACL as the kernel keeps it: the owner rw, user 1 r, group r, mask r, others none.
fn acl() -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    let nobody = u32::MAX;
    for (tag, bits, id) in
        [(1_u16, 6_u16, nobody), (2, 4, 1), (4, 4, nobody), (16, 4, nobody), (32, 0, nobody)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(bits.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

#[tokio::test]
async fn everything_in_a_tree_is_seen_as_what_it_is_and_no_link_is_followed() {
    let bench = Bench::new();
    bench.put("d/file", "content");
    symlink("/etc", bench.at("away")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, bench.at("pipe").as_str(), FileType::Fifo, Mode::RUSR, 0).unwrap();
    std::os::unix::net::UnixListener::bind(bench.at("socket")).unwrap();
    let odd = std::ffi::OsStr::new("tree/odd\n").to_owned();
    fs::write(bench.root.as_std_path().join(odd), "").unwrap();
    let tree = bench.look(None).await;
    let hash = blake3::hash(b"content").into();
    assert_eq!(kind(&tree, "d/file"), Some(Kind::File { blake3: Some(hash), sparse: false }));
    assert_eq!(kind(&tree, "away"), Some(Kind::Link("/etc".into())));
    assert_eq!(kind(&tree, "pipe"), Some(Kind::Pipe));
    assert_eq!(kind(&tree, "socket"), None);
    let names: Vec<String> = tree.entries().map(|(path, _)| path.to_string()).collect();
    assert_eq!(names, ["", "away", "d", "odd\\x0a", "pipe", "d/file"]);
    let json = serde_json::to_string(&tree).unwrap();
    assert_eq!(serde_json::from_str::<Tree>(&json).unwrap(), tree);
}

#[tokio::test]
async fn a_tree_that_is_not_there_is_empty_and_what_has_a_rule_of_its_own_is_left_out() {
    let bench = Bench::new();
    bench.put("d/file", "content");
    let tree = bench.try_to_look(None, vec!["d".into()]).await.unwrap();
    assert_eq!(tree.entries().count(), 1);
    let survey = Survey {
        path: bench.root.join("none/such"),
        depth: Depth::Whole,
        leave_out: Vec::new(),
        known: None,
    };
    assert_eq!(bench.trees.survey(survey).await.unwrap().root, None);
}

#[tokio::test]
async fn a_mount_in_a_tree_is_told_and_not_gone_into() {
    let layout = Layout { root: "/".into(), state_dir: "/var/lib/liftlock".into() };
    let survey = Survey { path: "/dev".into(), depth: Depth::Whole, leave_out: Vec::new(), known: None };
    let tree = RealTrees::new(layout).survey(survey).await.unwrap();
    assert_eq!(kind(&tree, "shm"), Some(Kind::MountPoint));
    assert!(!tree.folders.contains_key(&Name::from("shm")));
    assert!(matches!(kind(&tree, "null"), Some(Kind::CharacterDevice(_))));
    let survey = Survey { path: "/dev/shm".into(), depth: Depth::Root, leave_out: Vec::new(), known: None };
    let layout = Layout { root: "/".into(), state_dir: "/var/lib/liftlock".into() };
    let root = RealTrees::new(layout).survey(survey).await.unwrap();
    assert_eq!((root.mount.unwrap().kind.as_str(), root.root.unwrap().kind), ("tmpfs", Kind::Folder));
}

#[tokio::test]
async fn a_link_above_a_sealed_tree_is_refused() {
    let bench = Bench::new();
    symlink("tree", bench.root.join("link")).unwrap();
    let survey =
        Survey { path: bench.root.join("link/d"), depth: Depth::Whole, leave_out: Vec::new(), known: None };
    let error = bench.trees.survey(survey).await.unwrap_err();
    assert!(
        matches!(&error, HostError::Malformed { why, .. } if why.contains("a symbolic link leads to it")),
        "{error}"
    );
    let outside = Place { root: "/etc".into(), path: "hostname".into() };
    let entry = bench.look(None).await.root.unwrap();
    assert!(bench.trees.put_back(&bench.permit, &outside, &entry, Content::Present).await.is_err());
}

#[tokio::test]
async fn a_file_that_nobody_touched_is_not_read_again_and_one_that_was_is_read_whatever_its_time_says() {
    let bench = Bench::new();
    let path = bench.put("d/file", "content");
    let was = bench.look(None).await;
    // Not read again: what an earlier look is said to have seen is believed.
    let mut claimed = was.clone();
    claimed.began = Moment(i64::MAX, 0);
    let other = blake3::hash(b"other").into();
    Arc::make_mut(claimed.folders.get_mut(&Name::from("d")).unwrap())
        .get_mut(&Name::from("file"))
        .unwrap()
        .kind = Kind::File { blake3: Some(other), sparse: false };
    assert_eq!(kind(&bench.look(Some(&claimed)).await, "d/file"), kind(&claimed, "d/file"));
    // What changed within the file system's coarsest tick before the look is read again.
    claimed.began = was.began;
    assert_eq!(kind(&bench.look(Some(&claimed)).await, "d/file"), kind(&was, "d/file"));
    // A change that hides behind the same size and time.
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "c0ntent").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let mut known = was.clone();
    known.began = Moment(i64::MAX, 0);
    let now = bench.look(Some(&known)).await;
    let differences = sealed(&was, &now, |_| false);
    assert_eq!(differences.into_keys().map(|path| path.to_string()).collect::<Vec<_>>(), ["d/file"]);
}

/// Something that happens to a tree, and what it is called.
type Happening = (&'static str, fn(&Bench));

#[tokio::test]
async fn a_look_that_knows_an_earlier_one_sees_what_a_first_one_sees_and_shares_what_nobody_touched() {
    let bench = Bench::new();
    let changes: [Happening; 9] = [
        ("nothing", |_| ()),
        ("a file went", |bench| fs::remove_file(bench.at("d/other")).unwrap()),
        ("a file came", |bench| _ = bench.put("d/new", "")),
        ("a file has another name", |bench| fs::rename(bench.at("d/file"), bench.at("d/renamed")).unwrap()),
        ("a folder went", |bench| fs::remove_dir_all(bench.at("d/sub")).unwrap()),
        ("a folder came", |bench| fs::create_dir_all(bench.at("d/empty")).unwrap()),
        ("a folder became a file", |bench| {
            fs::remove_dir_all(bench.at("d/sub")).unwrap();
            bench.put("d/sub", "");
        }),
        ("a file became a folder", |bench| {
            fs::remove_file(bench.at("d/file")).unwrap();
            fs::create_dir_all(bench.at("d/file")).unwrap();
            bench.put("d/file/inside", "");
        }),
        ("a link leads elsewhere", |bench| {
            fs::remove_file(bench.at("d/link")).unwrap();
            symlink("other", bench.at("d/link")).unwrap();
        }),
    ];
    for (what, change) in changes {
        fs::remove_dir_all(bench.at("")).unwrap();
        for folder in ["d/sub", "e"] {
            fs::create_dir_all(bench.at(folder)).unwrap();
        }
        for file in ["d/file", "d/other", "d/sub/file", "e/file"] {
            bench.put(file, "content");
        }
        symlink("file", bench.at("d/link")).unwrap();
        let known = Tree { began: Moment(i64::MAX, 0), ..bench.look(None).await };
        change(&bench);
        let (now, first) = (bench.look(Some(&known)).await, bench.look(None).await);
        let seen = |tree: &Tree| -> Vec<(String, Kind)> {
            tree.entries().map(|(path, entry)| (path.to_string(), entry.kind.clone())).collect()
        };
        assert_eq!(seen(&now), seen(&first), "{what}");
        let shared = |folder: &str| {
            let listing = |tree: &Tree| tree.folders.get(&Name::from(folder)).map(Arc::as_ptr);
            listing(&now) == listing(&known)
        };
        assert!(shared("e"), "{what}: what nobody touched is a copy");
        assert_eq!(shared("d"), what == "nothing", "{what}");
    }
}

#[tokio::test]
async fn a_file_is_put_back_with_its_attributes_acl_times_and_holes() {
    let bench = Bench::new();
    let mut content = vec![0; 1 << 20];
    content[600_000..600_003].copy_from_slice(b"end");
    let path = bench.at("d/file");
    let file = fs::File::create(&path).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"end", 600_000).unwrap();
    file.set_len(1 << 20).unwrap();
    set_xattr(&path, "user.note", b"ours").unwrap();
    set_xattr(&path, "system.posix_acl_access", &acl()).unwrap();
    // cap_net_raw+ep, where the user may give it.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let is_capable = set_xattr(&path, "security.capability", &capability).is_ok();
    file.set_modified(std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 7)).unwrap();
    let was = bench.look(None).await;
    let entry = was.entry(&"d/file".into()).unwrap().clone();
    assert!(matches!(entry.kind, Kind::File { sparse: true, .. }));
    let expected = if is_capable { 3 } else { 2 };
    assert_eq!(entry.xattrs.len(), expected, "{:?}", entry.xattrs);

    fs::remove_file(&path).unwrap();
    fs::write(&path, "something else").unwrap();
    set_xattr(&path, "user.other", b"theirs").unwrap();
    bench.put_back("d/file", &was, Some(&content)).await;
    bench.put_back("d", &was, None).await;
    assert_eq!(bench.differences(&was).await, []);
    assert_eq!(fs::read(&path).unwrap(), content);
    let status = fs::metadata(&path).unwrap();
    assert!(status.blocks() * 512 < status.size(), "{} blocks", status.blocks());
    assert_eq!((status.mtime(), status.mtime_nsec()), (1_000_000_000, 7));
    assert_eq!(fs::read_dir(bench.at("d")).unwrap().count(), 1, "nothing is left beside it");

    // Only its metadata.
    rustix::fs::removexattr(path.as_str(), "user.note").unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o4777)).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    assert_eq!(bench.differences(&was).await[0].1, [Difference::Mode, Difference::Attributes]);
    bench.put_back("d/file", &was, None).await;
    assert_eq!(bench.differences(&was).await, []);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
}

#[tokio::test]
async fn hard_links_links_pipes_and_folders_are_put_back_as_they_were() {
    let bench = Bench::new();
    bench.put("a", "one");
    fs::hard_link(bench.at("a"), bench.at("d/b")).unwrap();
    symlink("../a", bench.at("d/link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, bench.at("d/pipe").as_str(), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let was = bench.look(None).await;
    for path in ["d/b", "d/link", "d/pipe"] {
        fs::remove_file(bench.at(path)).unwrap();
    }
    fs::remove_dir(bench.at("d")).unwrap();
    for path in ["d", "d/link", "d/pipe"] {
        bench.put_back(path, &was, None).await;
    }
    for _ in 0..2 {
        bench.trees.link(&bench.permit, &bench.place("d/b"), &"a".into()).await.unwrap();
    }
    assert_eq!(bench.differences(&was).await, []);
    assert_eq!(fs::metadata(bench.at("a")).unwrap().ino(), fs::metadata(bench.at("d/b")).unwrap().ino());
    assert_eq!(fs::read_dir(bench.at("d")).unwrap().count(), 3, "nothing is left beside them");
}

#[tokio::test]
async fn what_is_set_aside_is_whole_in_its_new_place_and_gone_from_the_old_one() {
    let bench = Bench::new();
    bench.put("d/file", "stray");
    let to = bench.root.join("backup/found/d");
    for _ in 0..2 {
        bench.trees.set_aside(&bench.permit, &bench.place("d"), &to).await.unwrap();
    }
    assert_eq!(fs::read_to_string(to.join("file")).unwrap(), "stray");
    assert!(!bench.at("d").exists());
    assert_eq!(fs::metadata(bench.root.join("backup")).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn nothing_is_put_back_through_a_link_that_somebody_put_in_the_way() {
    let bench = Bench::new();
    bench.put("d/file", "content");
    let was = bench.look(None).await;
    fs::rename(bench.at("d"), bench.root.join("elsewhere")).unwrap();
    symlink("../elsewhere", bench.at("d")).unwrap();
    let entry: Entry = was.entry(&"d/file".into()).unwrap().clone();
    let place = bench.place("d/file");
    let content = Content::Bytes(b"x".to_vec());
    let error = bench.trees.put_back(&bench.permit, &place, &entry, content).await.unwrap_err();
    assert!(matches!(error, HostError::File { .. }), "{error}");
    assert_eq!(fs::read_to_string(bench.root.join("elsewhere/file")).unwrap(), "content");
}
