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
use super::import::{Imported, import};
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
        for folder in ["mnt/persistent/liftlock", "var/lib/liftlock/journal", "data/d", "root", "etc"] {
            fs::create_dir_all(bench.root.join(folder)).unwrap();
        }
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
        import(&self.host, &self.node, &self.replacement().store(&self.host.layout)).await.unwrap()
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
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(bench.at(path), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode("data/copy", 0o4750);
    mode("data/d", 0o2770);
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
async fn what_the_image_has_in_a_protected_path_gives_way_whatever_it_is() {
    let bench = Bench::new();
    bench.put("data/file", "ours");
    symlink("/mnt/large", bench.at("data/link")).unwrap();
    bench.put("data/d/inside", "ours");
    let before = bench.look("data").await;
    bench.export().await;
    bench.replace();
    for folder in ["data/file/of/the", "data/link"] {
        fs::create_dir_all(bench.at(folder)).unwrap();
    }
    bench.put("data/file/of/the/image", "theirs");
    symlink("/etc", bench.at("data/d")).unwrap();
    assert!(matches!(bench.import().await, Imported::Back { .. }));
    assert_eq!(sealed(&before, &bench.look("data").await, |_| false), [].into());
    assert!(!bench.at("etc/inside").exists(), "no link of the image's is followed");
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
