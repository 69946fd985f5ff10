//! Exports and imports of real files in a temporary folder, as any user.

#![expect(clippy::disallowed_methods, reason = "the tests look past what they test")]

use std::fs;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use liftlock_proto::name::{FencingToken, NodeName};
use liftlock_proto::version::KubernetesVersion;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use tempfile::TempDir;

use super::export::export;
use super::import::{ImportError, Imported, import};
use super::replacement::Replacement;
use crate::engine::context::{Context, Reporter, TimeSpent};
use crate::engine::fence;
use crate::engine::lease::Lease;
use crate::host::real::{RealFiles, RealTrees};
use crate::host::trees::{Depth, Survey, Tree};
use crate::host::{Host, Layout};
use crate::protect::compare::sealed;
use crate::twin::{Shape, Twin, redeploy};

struct Silent;

impl Reporter for Silent {
    fn line(&self, _: &str, _: &str) {}
    fn spent(&self, _: TimeSpent, _: Range<Duration>) {}
}

struct Bench {
    _folder: TempDir,
    root: Utf8PathBuf,
    host: Host,
    node: NodeName,
}

impl Bench {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().canonicalize().unwrap()).unwrap();
        let version = KubernetesVersion::new(1, 30, 4);
        let twin = Twin::new(Shape { control_planes: 1, workers: 1, version, offered: version });
        let layout = Layout { state_dir: root.join("var/lib/liftlock"), root: root.clone() };
        let host = Host {
            files: Arc::new(RealFiles::new(layout.clone())),
            trees: Arc::new(RealTrees::new(layout.clone())),
            layout,
            redeploy: Some(Arc::new(redeploy::replacement())),
            ..twin.host("w1")
        };
        let bench = Self { _folder: folder, root, host, node: "w1".parse().unwrap() };
        for folder in
            ["mnt/persistent/liftlock", "var/lib/liftlock/journal", "data/d", "root", "etc", "usr/local/sbin"]
        {
            fs::create_dir_all(bench.root.join(folder)).unwrap();
        }
        bench.put(redeploy::COMMAND.trim_start_matches('/'), "#!");
        bench.put("var/lib/liftlock/fence", &fence::written(FencingToken(7)));
        bench.put("var/lib/liftlock/journal/p-0123456789ab-7.journal", "begun");
        bench
    }

    fn at(&self, path: &str) -> Utf8PathBuf {
        self.root.join(path)
    }

    fn put(&self, path: &str, content: &str) {
        fs::write(self.at(path), content).unwrap();
    }

    fn replacement(&self) -> Replacement {
        self.host.redeploy.as_deref().cloned().unwrap()
    }

    async fn export(&self) -> Utf8PathBuf {
        let cx = Context {
            host: self.host.clone(),
            node: self.node.clone(),
            plan: "p-0123456789ab".parse().unwrap(),
            step: "redeploy",
            lease: Arc::new(Lease::new(FencingToken(7), Duration::MAX)),
            captured: Arc::default(),
            reporter: Arc::new(Silent),
        };
        export(&cx, &self.replacement()).await.unwrap().folder
    }

    async fn import(&self) -> Imported {
        self.try_import().await.unwrap()
    }

    async fn try_import(&self) -> Result<Imported, ImportError> {
        import(&self.host, &self.node, &self.replacement().store(&self.host.layout)).await
    }

    /// Says of a path that it outlives the system where it is.
    fn keep(&mut self, path: &str) {
        let mut replacement = self.replacement();
        replacement.keeps.push(path.into());
        self.host.redeploy = Some(Arc::new(replacement));
    }

    fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.at(path), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }

    /// All but the store is gone, and a system that knows nothing is there.
    fn replace(&self) {
        for folder in ["var", "data", "root", "etc"] {
            fs::remove_dir_all(self.at(folder)).unwrap();
        }
        fs::create_dir_all(self.at("etc")).unwrap();
        fs::create_dir_all(self.at("root")).unwrap();
    }

    async fn look(&self, path: &str) -> Tree {
        let survey = Survey { path: self.at(path), depth: Depth::Whole, leave_out: Vec::new(), known: None };
        self.host.trees.survey(survey).await.unwrap()
    }
}

#[tokio::test]
async fn what_was_exported_comes_back_with_links_holes_attributes_owner_modes_and_times() {
    let bench = Bench::new();
    bench.put("data/one", "content");
    fs::hard_link(bench.at("data/one"), bench.at("data/d/two")).unwrap();
    bench.put("data/copy", "content");
    symlink("../one", bench.at("data/d/link")).unwrap();
    rustix::fs::mknodat(CWD, bench.at("data/d/pipe").as_str(), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff no text");
    fs::write(bench.at("data").as_std_path().join(name), "odd").unwrap();
    let mut sparse = vec![0; 8 << 20];
    sparse.splice(4 << 20..(4 << 20) + 3, *b"end");
    let file = fs::File::create(bench.at("data/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", 4 << 20).unwrap();
    file.set_len(8 << 20).unwrap();
    bench.mode("data/copy", 0o4750);
    bench.mode("data/d", 0o2770);
    rustix::fs::setxattr(bench.at("data/copy").as_str(), "user.note", b"ours", XattrFlags::empty()).unwrap();
    bench.put("root/.profile", "export EDITOR=vi\n");
    let (data, root) = (bench.look("data").await, bench.look("root").await);
    let links_before = fs::metadata(bench.at("data/one")).unwrap().nlink();

    bench.export().await;
    bench.replace();
    bench.put("root/.profile", "of the image");
    assert!(matches!(bench.import().await, Imported::Back { token: FencingToken(7), .. }));

    for (path, before) in [("data", &data), ("root", &root)] {
        let now = bench.look(path).await;
        assert_eq!(sealed(before, &now, |_| false), [].into(), "{path}");
        for (name, entry) in before.entries() {
            assert_eq!(now.entry(&name).unwrap().stamp.modified, entry.stamp.modified, "{path}/{name}: time");
        }
    }
    assert_eq!(fs::metadata(bench.at("data/one")).unwrap().nlink(), links_before);
    let sparse_now = fs::metadata(bench.at("data/sparse")).unwrap();
    assert!(fs::read(bench.at("data/sparse")).unwrap() == sparse && sparse_now.blocks() * 512 < 1 << 20);
    assert_eq!(fs::read(bench.at("var/lib/liftlock/journal/p-0123456789ab-7.journal")).unwrap(), b"begun");
    assert!(matches!(bench.import().await, Imported::Nothing(_)), "it comes back once");
}

#[tokio::test]
async fn an_export_is_for_root_alone_holds_each_content_once_and_follows_no_link() {
    let bench = Bench::new();
    bench.put("data/one", &"x".repeat(100_000));
    bench.put("data/two", &"x".repeat(100_000));
    fs::create_dir_all(bench.at("secret")).unwrap();
    bench.put("secret/file", "not protected");
    symlink("/secret", bench.at("data/away")).unwrap();
    let folder = bench.export().await;
    let mode = |path: &Utf8PathBuf| fs::metadata(path).unwrap().mode() & 0o777;
    let (pack, index) = (folder.join("content.pack"), folder.join("index.json"));
    assert_eq!((mode(&folder), mode(&pack), mode(&index)), (0o700, 0o600, 0o600));
    let content = fs::read_to_string(&pack).unwrap();
    assert!(content.len() < 150_000 && !content.contains("not protected"), "{}", content.len());
}

#[tokio::test]
async fn what_the_image_has_in_the_place_of_something_of_another_kind_gives_way_and_is_not_lost() {
    let bench = Bench::new();
    bench.put("data/file", "ours");
    fs::create_dir_all(bench.at("data/folder")).unwrap();
    bench.put("data/folder/file", "ours too");
    symlink("file", bench.at("data/link")).unwrap();
    bench.export().await;
    bench.replace();
    fs::create_dir_all(bench.at("elsewhere")).unwrap();
    fs::create_dir_all(bench.at("data/file/full")).unwrap();
    fs::create_dir_all(bench.at("data/link/full")).unwrap();
    symlink("../elsewhere", bench.at("data/folder")).unwrap();
    assert!(matches!(bench.import().await, Imported::Back { .. }));
    assert_eq!(fs::read_to_string(bench.at("data/file")).unwrap(), "ours");
    assert_eq!(fs::read_to_string(bench.at("data/folder/file")).unwrap(), "ours too");
    assert_eq!(fs::read_link(bench.at("data/link")).unwrap().to_str(), Some("file"));
    assert!(fs::read_dir(bench.at("elsewhere")).unwrap().next().is_none(), "no link is followed");
    for aside in ["data/.file.liftlock-found/full", "data/.link.liftlock-found/full"] {
        assert!(bench.at(aside).exists(), "{aside}");
    }
}

#[tokio::test]
async fn a_kept_folder_that_had_something_in_it_and_is_empty_now_is_a_mount_that_is_missing() {
    let mut bench = Bench::new();
    for (kept, inside) in [("var/lib/etcd", "var/lib/etcd/db"), ("data/large", "data/large/file")] {
        fs::create_dir_all(bench.at(kept)).unwrap();
        bench.put(inside, "content");
        bench.keep(&format!("/{kept}"));
    }
    bench.export().await;
    bench.replace();
    for (kept, inside) in [("data/large", "data/large/file"), ("var/lib/etcd", "var/lib/etcd/db")] {
        fs::create_dir_all(bench.at(kept).join("lost+found")).unwrap();
        let error = bench.try_import().await.unwrap_err();
        assert!(
            matches!(&error, ImportError::NotKept { path } if *path == format!("/{kept}")),
            "{kept}: {error}"
        );
        assert!(!bench.at("var/lib/liftlock/fence").exists(), "nothing was touched");
        bench.put(inside, "content");
    }
    assert!(matches!(bench.import().await, Imported::Back { .. }));
    assert_eq!(fs::read_to_string(bench.at("data/large/file")).unwrap(), "content");
}

#[tokio::test]
async fn an_agents_state_that_outlives_the_system_is_refused_because_no_new_system_could_be_told_by_it() {
    let mut bench = Bench::new();
    assert_eq!(bench.replacement().refusal(&bench.host).await.unwrap(), None);
    bench.keep("/var");
    let why = bench.replacement().refusal(&bench.host).await.unwrap().unwrap_or_default();
    assert!(why.contains("/var/lib/liftlock") && why.contains("`keeps`"), "{why}");
}

#[tokio::test]
async fn a_store_that_others_may_write_to_is_refused_and_nothing_is_brought_back_from_it() {
    let bench = Bench::new();
    bench.export().await;
    bench.replace();
    for path in ["mnt/persistent/liftlock", "mnt/persistent"] {
        bench.mode(path, 0o777);
        let error = bench.try_import().await.unwrap_err().to_string();
        assert!(error.contains(bench.at(path).as_str()) && error.contains("chmod"), "{error}");
        let why = bench.replacement().refusal(&bench.host).await.unwrap().unwrap_or_default();
        assert!(why.contains(bench.at(path).as_str()) && why.contains("chmod"), "{why}");
        assert!(!bench.at("data").exists(), "nothing was touched");
        bench.mode(path, 0o755);
    }
    fs::rename(bench.at("mnt/persistent/liftlock"), bench.at("mnt/persistent/real")).unwrap();
    symlink("real", bench.at("mnt/persistent/liftlock")).unwrap();
    let error = bench.try_import().await.unwrap_err().to_string();
    assert!(error.contains("symbolic link"), "{error}");
}

#[tokio::test]
async fn no_kubelet_can_start_beside_half_of_what_was_there() {
    let bench = Bench::new();
    for folder in ["etc/kubernetes", "var/lib/weave"] {
        fs::create_dir_all(bench.at(folder)).unwrap();
    }
    bench.put("etc/kubernetes/kubelet.conf", "kubeconfig");
    bench.put("var/lib/weave/last", "weave");
    let pack = bench.export().await.join("content.pack");
    bench.replace();
    let whole = fs::read(&pack).unwrap();
    fs::write(&pack, String::from_utf8(whole.clone()).unwrap().replace("weave", "wEave")).unwrap();
    let error = bench.try_import().await.unwrap_err().to_string();
    assert!(error.contains("var/lib/weave/last: it is damaged"), "{error}");
    assert!(bench.at("etc/kubernetes").exists(), "a part came back");
    assert!(!bench.at("etc/kubernetes/kubelet.conf").exists());
    fs::write(&pack, whole).unwrap();
    assert!(matches!(bench.import().await, Imported::Back { .. }));
    assert_eq!(fs::read_to_string(bench.at("etc/kubernetes/kubelet.conf")).unwrap(), "kubeconfig");
}

#[tokio::test]
async fn what_lies_in_a_store_and_is_no_export_keeps_nobody_from_his_own() {
    let bench = Bench::new();
    bench.put("data/one", "content");
    bench.export().await;
    bench.put("mnt/persistent/liftlock/vmlinuz-6", "an image");
    fs::create_dir(bench.at("mnt/persistent/liftlock/w1-9")).unwrap();
    bench.replace();
    assert!(matches!(bench.import().await, Imported::Back { token: FencingToken(7), .. }));
    assert_eq!(fs::read_to_string(bench.at("data/one")).unwrap(), "content");
}

#[tokio::test]
async fn a_system_that_has_seen_a_lease_may_share_its_store_with_a_node_that_is_being_replaced() {
    let bench = Bench::new();
    bench.export().await;
    let store = bench.replacement().store(&bench.host.layout);
    let other = "w2".parse().unwrap();
    let imported = import(&bench.host, &other, &store).await.unwrap();
    assert!(matches!(&imported, Imported::Nothing(why) if why.contains("no export of w2")), "{imported:?}");
    bench.replace();
    let error = import(&bench.host, &other, &store).await.unwrap_err();
    assert!(matches!(&error, ImportError::OtherNodes { .. }), "a new one may have another's: {error}");
}
