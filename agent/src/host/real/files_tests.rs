//! Files and folders in a temporary folder, as any user.

#![expect(clippy::disallowed_methods, reason = "the tests look past what they test")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::name::FencingToken;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::RealClock;
use super::files::{RealFiles, hexadecimal};
use crate::engine::lease::{Lease, Permit};
use crate::host::{ChunkSink, Files, HostError, HostResult, Layout};

struct Place {
    folder: TempDir,
    files: RealFiles,
    permit: Permit,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().canonicalize().unwrap()).unwrap();
        let layout = Layout { state_dir: root.join("state"), root };
        let lease = Lease::new(FencingToken(1), Duration::MAX);
        Self { folder, files: RealFiles::new(layout), permit: lease.permit(&RealClock).unwrap() }
    }

    fn at(&self, path: &str) -> Utf8PathBuf {
        let root = self.folder.path().canonicalize().unwrap();
        Utf8PathBuf::from_path_buf(root).unwrap().join(path)
    }

    fn put(&self, path: &str, content: &str, mode: u32) -> Utf8PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

fn mode(path: &Utf8Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

/// Collects what is streamed to it.
#[derive(Default)]
struct Sink(Vec<u8>);

#[async_trait::async_trait]
impl ChunkSink for Sink {
    async fn chunk(&mut self, bytes: &[u8]) -> HostResult<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[tokio::test]
async fn a_written_file_has_the_content_and_the_mode_and_nothing_is_left_beside_it() {
    let place = Place::new();
    let path = place.put("etc/file", "old", 0o644);
    // As a crash in the middle of an earlier attempt leaves it.
    place.put("etc/.file.liftlock-part", "half", 0o600);
    place.files.write(&place.permit, &path, b"new", 0o640).await.unwrap();
    assert_eq!(place.files.read(&path).await.unwrap().as_deref(), Some(&b"new"[..]));
    assert_eq!(mode(&path), 0o640);
    assert_eq!(place.files.list(path.parent().unwrap()).await.unwrap(), ["file"]);
}

#[tokio::test]
async fn a_file_that_is_not_there_is_none_and_a_folder_that_is_not_there_is_empty() {
    let place = Place::new();
    let path = place.at("no/such");
    assert_eq!(place.files.read(&path).await.unwrap(), None);
    assert_eq!(place.files.list(&path).await.unwrap(), Vec::<String>::new());
    assert!(!place.files.exists(&path).await.unwrap());
    assert_eq!(place.files.size_of_tree(&path).await.unwrap(), 0);
    assert!(!place.files.stream(&path, &mut Sink::default()).await.unwrap());
    place.files.remove_file(&place.permit, &path).await.unwrap();
    let copied = place.files.copy_tree(&place.permit, &path, &place.at("copy")).await.unwrap();
    assert_eq!(copied, []);
}

#[tokio::test]
async fn a_path_that_climbs_or_lies_elsewhere_is_refused_by_every_call() {
    let place = Place::new();
    for path in
        [place.at("a/../../etc/passwd"), Utf8PathBuf::from("/etc/passwd"), Utf8PathBuf::from("etc/passwd")]
    {
        let refused = |result: HostResult<()>| {
            let error = result.unwrap_err();
            assert!(matches!(error, HostError::Malformed { .. }), "{error}");
        };
        let (files, permit, fine) = (&place.files, &place.permit, place.at("fine"));
        refused(files.read(&path).await.map(drop));
        refused(files.stream(&path, &mut Sink::default()).await.map(drop));
        refused(files.list(&path).await.map(drop));
        refused(files.exists(&path).await.map(drop));
        refused(files.space(&path).await.map(drop));
        refused(files.size_of_tree(&path).await.map(drop));
        refused(files.write(permit, &path, b"", 0o600).await);
        refused(files.create_dir(permit, &path, 0o700).await);
        refused(files.copy_tree(permit, &path, &fine).await.map(drop));
        refused(files.copy_tree(permit, &fine, &path).await.map(drop));
        refused(files.restore_file(permit, &path, &fine).await);
        refused(files.restore_file(permit, &fine, &path).await);
        refused(files.remove_file(permit, &path).await);
        refused(files.create(permit, &path).await.map(drop));
    }
}

#[tokio::test]
async fn a_dangling_link_does_not_exist() {
    let place = Place::new();
    symlink("nowhere", place.at("link")).unwrap();
    assert!(!place.files.exists(&place.at("link")).await.unwrap());
}

#[tokio::test]
async fn a_copied_tree_keeps_content_modes_times_and_links() {
    let place = Place::new();
    let key = place.put("pki/etcd/ca.key", "secret", 0o600);
    place.put("pki/ca.crt", "public", 0o644);
    fs::hard_link(place.at("pki/ca.crt"), place.at("pki/same.crt")).unwrap();
    symlink("etcd/ca.key", place.at("pki/link")).unwrap();
    fs::set_permissions(place.at("pki/etcd"), fs::Permissions::from_mode(0o710)).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::options().write(true).open(&key).unwrap().set_modified(long_ago).unwrap();

    let to = place.at("backup/files/pki");
    let mut copied = place.files.copy_tree(&place.permit, &place.at("pki"), &to).await.unwrap();

    copied.sort_by(|a, b| a.path.cmp(&b.path));
    let paths: Vec<&str> = copied.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["ca.crt", "etcd/ca.key", "same.crt"]);
    for file in &copied {
        let content = fs::read(to.join(&file.path)).unwrap();
        assert_eq!(file.size, content.len() as u64);
        assert_eq!(file.sha256, hexadecimal(&Sha256::digest(&content)));
    }
    assert_eq!((mode(&to.join("etcd")), mode(&to.join("etcd/ca.key"))), (0o710, 0o600));
    assert_eq!(to.join("etcd/ca.key").metadata().unwrap().modified().unwrap(), long_ago);
    assert_eq!(fs::read_link(to.join("link")).unwrap().to_str(), Some("etcd/ca.key"));
    let inode = |name: &str| to.join(name).metadata().unwrap().ino();
    assert_eq!(inode("ca.crt"), inode("same.crt"), "two names of one file");
    assert_eq!(mode(&place.at("backup")), 0o700);
}

#[tokio::test]
async fn a_copy_does_not_follow_a_link_out_of_the_tree() {
    let place = Place::new();
    let outside = place.put("outside/secret", "secret", 0o600);
    fs::create_dir(place.at("tree")).unwrap();
    symlink(place.at("outside"), place.at("tree/folder")).unwrap();
    symlink(&outside, place.at("tree/file")).unwrap();
    let copied = place.files.copy_tree(&place.permit, &place.at("tree"), &place.at("copy")).await.unwrap();
    assert_eq!(copied, []);
    assert!(place.at("copy/folder").is_symlink() && place.at("copy/file").is_symlink());
    assert_eq!(place.files.size_of_tree(&place.at("tree")).await.unwrap(), 0);
}

#[tokio::test]
async fn a_copy_that_was_cut_off_is_finished_by_the_next_one() {
    let place = Place::new();
    place.put("tree/a", "whole", 0o600);
    symlink("a", place.at("tree/b")).unwrap();
    place.put("copy/a", "wh", 0o400);
    place.put("copy/b", "no link", 0o600);
    let copied = place.files.copy_tree(&place.permit, &place.at("tree"), &place.at("copy")).await.unwrap();
    assert_eq!(copied.len(), 1);
    assert_eq!(fs::read_to_string(place.at("copy/a")).unwrap(), "whole");
    assert!(place.at("copy/b").is_symlink());
}

#[tokio::test]
async fn a_single_file_is_copied_under_its_new_name() {
    let place = Place::new();
    let from = place.put("admin.conf", "config", 0o600);
    let copied = place.files.copy_tree(&place.permit, &from, &place.at("backup/admin.conf")).await.unwrap();
    assert_eq!(copied.len(), 1);
    assert_eq!(copied.first().unwrap().path, "");
    assert_eq!(fs::read_to_string(place.at("backup/admin.conf")).unwrap(), "config");
}

#[tokio::test]
async fn a_copy_into_itself_is_refused() {
    let place = Place::new();
    place.put("tree/a", "x", 0o600);
    let error =
        place.files.copy_tree(&place.permit, &place.at("tree"), &place.at("tree/copy")).await.unwrap_err();
    assert!(error.to_string().contains("it would hold itself"), "{error}");
}

#[tokio::test]
async fn sockets_are_left_out_of_a_copy() {
    let place = Place::new();
    place.put("tree/a", "x", 0o600);
    let _socket = std::os::unix::net::UnixListener::bind(place.at("tree/socket")).unwrap();
    let copied = place.files.copy_tree(&place.permit, &place.at("tree"), &place.at("copy")).await.unwrap();
    assert_eq!(copied.len(), 1);
    assert!(!place.at("copy/socket").exists());
}

#[tokio::test]
async fn a_file_is_put_back_with_its_mode_and_a_link_as_a_link() {
    let place = Place::new();
    let backup = place.put("backup/ca.key", "secret", 0o600);
    let target = place.put("pki/ca.key", "changed, and longer", 0o644);
    place.files.restore_file(&place.permit, &backup, &target).await.unwrap();
    assert_eq!((fs::read_to_string(&target).unwrap().as_str(), mode(&target)), ("secret", 0o600));

    symlink("client-1.pem", place.at("backup/current.pem")).unwrap();
    let target = place.put("pki/current.pem", "a file now", 0o600);
    place.files.restore_file(&place.permit, &place.at("backup/current.pem"), &target).await.unwrap();
    assert_eq!(fs::read_link(&target).unwrap().to_str(), Some("client-1.pem"));
    assert_eq!(place.files.list(&place.at("pki")).await.unwrap(), ["ca.key", "current.pem"]);
}

#[tokio::test]
async fn a_streamed_file_is_there_only_once_it_is_finished() {
    let place = Place::new();
    let path = place.at("snapshot.db");
    let mut file = place.files.create(&place.permit, &path).await.unwrap();
    file.write(b"first ").await.unwrap();
    file.write(b"second").await.unwrap();
    assert!(!path.exists());
    file.finish().await.unwrap();
    let mut sink = Sink::default();
    assert!(place.files.stream(&path, &mut sink).await.unwrap());
    assert_eq!((sink.0.as_slice(), mode(&path)), (&b"first second"[..], 0o600));
    assert_eq!(place.files.list(path.parent().unwrap()).await.unwrap(), ["snapshot.db"]);
}

#[tokio::test]
async fn a_streamed_file_that_is_given_up_leaves_nothing() {
    let place = Place::new();
    let mut file = place.files.create(&place.permit, &place.at("snapshot.db")).await.unwrap();
    file.write(b"half").await.unwrap();
    drop(file);
    assert_eq!(place.files.list(&place.at("")).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn space_is_that_of_the_nearest_folder_that_is_there() {
    let place = Place::new();
    let here = place.files.space(&place.at("")).await.unwrap();
    let below = place.files.space(&place.at("not/yet/there")).await.unwrap();
    assert_eq!((here.device, here.total), (below.device, below.total));
    assert!(here.free <= here.total && here.total > 0);
}

#[tokio::test]
async fn a_folder_is_made_with_its_parents_and_its_mode() {
    let place = Place::new();
    let path = place.at("a/b/c");
    place.files.create_dir(&place.permit, &path, 0o700).await.unwrap();
    place.files.create_dir(&place.permit, &path, 0o700).await.unwrap();
    assert_eq!((mode(&place.at("a")), mode(&path)), (0o700, 0o700));
}

#[tokio::test]
async fn a_copy_is_taken_of_a_file_and_of_nothing_else_and_only_into_the_state_folder() {
    let place = Place::new();
    let from = place.put("srv/offline/kubeadm", "a program", 0o755);
    let to = place.at("state/packages/v1.31.2/kubeadm");
    let taken = place.files.take(&from, &to).await.unwrap().unwrap();
    assert_eq!((taken.size, taken.sha256), (9, hexadecimal(&Sha256::digest("a program"))));
    assert_eq!((fs::read_to_string(&to).unwrap().as_str(), mode(&to)), ("a program", 0o600));
    assert_eq!(mode(to.parent().unwrap()), 0o700);
    // What becomes of the file is nothing to the copy.
    fs::write(&from, "another").unwrap();
    assert_eq!(fs::read_to_string(&to).unwrap(), "a program");
    assert_ne!(from.metadata().unwrap().ino(), to.metadata().unwrap().ino());

    let link = place.at("srv/offline/link");
    symlink("/etc/passwd", &link).unwrap();
    let pipe = place.at("srv/offline/pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        pipe.as_str(),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    for other in [link, pipe, place.at("srv/offline")] {
        place.files.take(&other, &to).await.unwrap_err();
    }
    assert_eq!(fs::read_to_string(&to).unwrap(), "a program");
    assert_eq!(place.files.take(&place.at("srv/offline/none"), &to).await.unwrap(), None);
    for elsewhere in [place.at("usr/bin/kubeadm"), place.at("state"), place.at("state/../usr/bin/kubeadm")] {
        place.files.take(&from, &elsewhere).await.unwrap_err();
        place.files.discard(&elsewhere).await.unwrap_err();
    }
    place.files.discard(&to).await.unwrap();
    place.files.discard(&to).await.unwrap();
    assert!(!to.exists() && from.exists());
}
