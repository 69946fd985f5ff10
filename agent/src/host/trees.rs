//! Trees that an upgrade must leave alone: what is in them, told so that a later look can be compared with it.
//!
//! No symbolic link is followed and no mount is crossed, and nothing that somebody renames meanwhile leads elsewhere.
//! Names are bytes, because the kernel's are.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ChunkSink, Clearance, HostResult};

/// Looks at whole trees, and puts single things in them back.
#[async_trait]
pub trait Trees: Send + Sync {
    /// What is at a path and beneath it. Of a file that is as `known` says only its metadata are looked at.
    async fn survey(&self, survey: Survey) -> HostResult<Tree>;
    /// Feeds a regular file to `sink` chunk by chunk; false where there is none.
    async fn read(&self, place: &Place, sink: &mut dyn ChunkSink) -> HostResult<bool>;
    /// Makes what is at a place what the entry says, with owner, mode, times and extended attributes, in one rename and
    /// durably. Of a folder only the metadata are put right, whatever `content` says.
    async fn put_back(
        &self,
        by: &dyn Clearance,
        place: &Place,
        entry: &Entry,
        content: Content,
    ) -> HostResult<()>;
    /// Makes a place another name of a file in the same tree, in one rename and durably.
    async fn link(&self, by: &dyn Clearance, place: &Place, of: &Name) -> HostResult<()>;
    /// Moves what is at a place to `to`, whose folder is made (0700); fine if there is nothing. A folder is moved within
    /// its file system only.
    async fn set_aside(&self, by: &dyn Clearance, place: &Place, to: &Utf8Path) -> HostResult<()>;
}

/// What a file that is put back holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// What it holds now: only its metadata are put right.
    Present,
    /// These bytes.
    Bytes(Vec<u8>),
    /// A part of another file, which may be too large to hold; an error where that part is not what it was.
    Part {
        /// The file.
        file: Utf8PathBuf,
        /// The part's first byte.
        offset: u64,
        /// How many.
        length: u64,
        /// Of the part.
        blake3: Hash,
    },
}

/// What to look at.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Absolute, below the root of the layout.
    pub path: Utf8PathBuf,
    /// How far down.
    pub depth: Depth,
    /// Paths relative to `path` that are not looked at, nor anything below them.
    pub leave_out: Vec<Name>,
    /// What an earlier look saw there.
    pub known: Option<Arc<Tree>>,
}

impl Survey {
    /// Of what is at a path itself, without a look into it.
    pub fn at(path: impl Into<Utf8PathBuf>) -> Self {
        Self { path: path.into(), depth: Depth::Root, leave_out: Vec::new(), known: None }
    }
}

/// How far down to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// To the bottom, and into every file.
    Whole,
    /// At the path itself, and not into a file. Links above the path are followed.
    Root,
    /// As [`Depth::Root`], and into the path itself if it is a file.
    Content,
}

/// Something in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The tree's root: absolute, below the root of the layout.
    pub root: Utf8PathBuf,
    /// Relative to it; empty for the root itself.
    pub path: Name,
}

impl Place {
    /// Its whole path, for people.
    pub fn display(&self) -> Utf8PathBuf {
        if self.path.as_bytes().is_empty() {
            self.root.clone()
        } else {
            self.root.join(self.path.to_string())
        }
    }
}

/// What is being put back lies beside its place under this name until it is whole.
pub const PART: &str = ".liftlock-part";

/// A tree at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// When the look began. What changed less than two seconds before it may have changed after it without showing in
    /// its times, so it is never taken for unchanged.
    pub began: Moment,
    /// The file system that the root lies on; `None` where nothing is there.
    pub mount: Option<Mount>,
    /// The root itself; `None` where nothing is there.
    pub root: Option<Entry>,
    /// By path relative to the root, which is empty for the root itself: what is in each folder.
    pub folders: BTreeMap<Name, Arc<Listing>>,
}

/// What is in a folder, by name. Of a folder in which nothing changed, a later look has the same one as the look before.
pub type Listing = BTreeMap<Name, Entry>;

/// A mounted file system, by what a reboot leaves as it is: device numbers may be others then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Where it is mounted.
    pub point: String,
    /// Its type: `ext4`.
    pub kind: String,
    /// Where it comes from: `/dev/sda1`.
    pub source: String,
    /// Which folder of it is mounted: `/`.
    pub root: String,
}

/// One thing in a tree. Sockets are left out: they hold nothing, and come and go with their process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What it is, and what is in it.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// How many names it has, anywhere.
    pub links: u64,
    /// What tells whether it was touched.
    pub stamp: Stamp,
    /// Extended attributes of files and folders, POSIX ACLs and capabilities among them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<Name, Name>,
}

/// What a thing in a tree is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file.
    File {
        /// BLAKE3 of its content; `None` where nobody looked into it.
        blake3: Option<Hash>,
        /// It takes less room than its size: there are holes in it.
        sparse: bool,
    },
    /// A folder.
    Folder,
    /// A symbolic link, and where it leads.
    Link(Name),
    /// Something is mounted here: it is not looked at.
    MountPoint,
    /// A named pipe.
    Pipe,
    /// A character device and its number.
    CharacterDevice(u64),
    /// A block device and its number.
    BlockDevice(u64),
}

/// A thing that has the same stamp was not changed in between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// `st_dev`
    pub device: u64,
    /// `st_ino`
    pub inode: u64,
    /// In bytes.
    pub size: u64,
    /// `st_mtim`
    pub modified: Moment,
    /// `st_ctim`: nobody can set it.
    pub changed: Moment,
}

/// Seconds and nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment(pub i64, pub u32);

impl Tree {
    /// Every entry with its path relative to the root; a folder comes before what is in it.
    pub fn entries(&self) -> impl Iterator<Item = (Name, &Entry)> {
        let root = self.root.iter().map(|root| (Name::default(), root));
        root.chain(self.folders.iter().flat_map(|(folder, entries)| {
            entries.iter().map(move |(name, entry)| (folder.join(name), entry))
        }))
    }

    /// The entry at a path.
    pub fn entry(&self, path: &Name) -> Option<&Entry> {
        match path.split() {
            None => self.root.as_ref(),
            Some((folder, name)) => self.folders.get(&folder)?.get(&name),
        }
    }

    /// Bytes in all regular files.
    pub fn size(&self) -> u64 {
        let files = self.entries().filter(|(_, entry)| matches!(entry.kind, Kind::File { .. }));
        files.map(|(_, entry)| entry.stamp.size).sum()
    }
}

/// A name or a relative path, or the value of an attribute: bytes, as the kernel has them. As text every byte that is
/// not printable UTF-8, and the backslash, is `\xNN`.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path of something in this folder.
    #[must_use]
    pub fn join(&self, name: &Self) -> Self {
        if self.0.is_empty() {
            return name.clone();
        }
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.0.len());
        path.extend_from_slice(&self.0);
        path.push(b'/');
        path.extend_from_slice(&name.0);
        Self(path)
    }

    /// The folder and the name in it; `None` for a root.
    pub fn split(&self) -> Option<(Self, Self)> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (self.0.get(..at)?.into(), self.0.get(at + 1..)?.into()),
            None => (Self::default(), self.clone()),
        })
    }

    /// Whether it is this path or something below it.
    pub fn is_within(&self, path: &Self) -> bool {
        path.0.is_empty()
            || self
                .0
                .strip_prefix(path.0.as_slice())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            rest = match (first, after) {
                (b'\\', [b'x', digits @ ..]) => {
                    let (digits, after) = digits.split_at_checked(2)?;
                    let digits = std::str::from_utf8(digits).ok()?;
                    bytes.push(u8::from_str_radix(digits, 16).ok()?);
                    after
                }
                (b'\\', _) => return None,
                (byte, after) => {
                    bytes.push(byte);
                    after
                }
            };
        }
        Some(Self(bytes))
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Name {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character == '\\' || character.is_control() {
                    let mut bytes = [0; 4];
                    for byte in character.encode_utf8(&mut bytes).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                } else {
                    f.write_char(character)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("no escaped name: {text}")))
    }
}

/// A BLAKE3 digest; as text, lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl From<blake3::Hash> for Hash {
    fn from(hash: blake3::Hash) -> Self {
        Self(hash.into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        blake3::Hash::from_hex(&text).map(Self::from).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_split_where_it_was_joined() {
        let path = Name::from("net.d").join(&"10-flannel.conflist".into());
        assert_eq!(path.to_string(), "net.d/10-flannel.conflist");
        assert_eq!(path.split(), Some(("net.d".into(), "10-flannel.conflist".into())));
        assert_eq!(Name::default().join(&"net.d".into()).split(), Some((Name::default(), "net.d".into())));
        assert_eq!(Name::default().split(), None);
    }

    #[test]
    fn a_path_is_within_itself_and_folders_above_it_and_no_other_that_begins_alike() {
        let path = Name::from("pki/etcd/ca.crt");
        for above in ["", "pki", "pki/etcd", "pki/etcd/ca.crt"] {
            assert!(path.is_within(&above.into()), "{above}");
        }
        for other in ["pk", "pki/et", "pki/etcd/ca.crt/x", "etcd"] {
            assert!(!path.is_within(&other.into()), "{other}");
        }
    }

    proptest! {
        #[test]
        fn every_name_reads_back_from_its_text_and_the_text_holds_nothing_that_a_terminal_acts_on(bytes: Vec<u8>) {
            let name = Name::from(bytes.as_slice());
            let text = name.to_string();
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(Name::parse(&text), Some(name));
        }
    }
}
