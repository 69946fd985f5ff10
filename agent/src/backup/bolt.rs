//! What an etcd database holds, read out of bbolt's file itself: many nodes have neither etcdutl nor etcdctl.
//!
//! Every page that the newest valid meta page leads to is read, and nothing is believed: numbers of pages, kinds,
//! offsets and the order of keys are checked before they are used. The layout is bbolt's (go.etcd.io/bbolt, page.go,
//! db.go and bucket.go, file format version 2), what is in the buckets is etcd's (server/storage/mvcc).

use std::collections::{HashMap, HashSet};

use liftlock_proto::etcd::KeyValue;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::host::RandomAccess;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// Id (8), kind (2), number of elements (2), further pages (4).
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
/// The meta page's fields before its checksum.
const META: usize = 56;
/// Root page (8) and sequence (8).
const BUCKET_HEADER: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const IS_BUCKET: u32 = 0x01;
/// Deeper than a tree of 2^64 pages of four children.
const DEEPEST: usize = 40;
/// The longest run of pages that one value may take: etcd's requests are at most 1.5 MiB unless somebody raised that.
const LONGEST: u64 = 1 << 30;

/// What an etcd database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// etcd's revision: that of the last change.
    pub revision: u64,
    /// Keys that are there at that revision.
    pub keys: u64,
}

/// Reads the whole database. An error is why it is none, or not a whole one: a clause without a subject.
pub fn contents(file: &mut dyn RandomAccess) -> Result<Contents, String> {
    let mut store = Store::default();
    let mut database = Database::open(file)?;
    let buckets = database.buckets()?;
    let root = |name: &str| {
        buckets
            .get(name.as_bytes())
            .ok_or_else(|| format!("it has no bucket \"{name}\", so it is not etcd's"))
    };
    let (key, meta) = (root("key")?.clone(), root("meta")?.clone());
    database.walk(&key, &mut |key, value, _| store.revision(key, value))?;
    database.walk(&meta, &mut |key, value, _| store.meta(key, value))?;
    for (name, bucket) in &buckets {
        if name != b"key" && name != b"meta" {
            database.walk(bucket, &mut |_, _, _| Ok(()))?;
        }
    }
    Ok(store.contents())
}

/// The changes of keys, in the order of their revisions.
#[derive(Default)]
struct Store {
    last: u64,
    /// By the digest of each key: whether it is there.
    keys: HashMap<[u8; 16], bool>,
}

impl Store {
    /// `<main, 8 bytes>_<sub, 8 bytes>`, and a `t` where the key was deleted → the key and its value.
    fn revision(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let deleted = match key.get(17..) {
            Some([]) => false,
            Some([b't']) => true,
            _ => return Err("a revision in it has a form that etcd does not write".to_owned()),
        };
        let main = u64::from_be_bytes(array(key, 0)?);
        let change =
            KeyValue::decode(value).map_err(|error| format!("revision {main} does not read: {error}"))?;
        if !deleted && u64::try_from(change.mod_revision) != Ok(main) {
            return Err(format!("revision {main} holds a change of revision {}", change.mod_revision));
        }
        self.last = self.last.max(main);
        self.keys.insert(array(&Sha256::digest(&change.key), 0)?, !deleted);
        Ok(())
    }

    /// A compaction may have removed the last change of all.
    fn meta(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        if key == b"scheduledCompactRev" || key == b"finishedCompactRev" {
            self.last = self.last.max(u64::from_be_bytes(array(value, 0)?));
        }
        Ok(())
    }

    fn contents(&self) -> Contents {
        let there = self.keys.values().filter(|there| **there).count();
        // An etcd that nobody has written to is at revision 1.
        Contents { revision: self.last.max(1), keys: there as u64 }
    }
}

/// Where a bucket's tree begins.
#[derive(Debug, Clone)]
enum Bucket {
    Page(u64),
    /// A small bucket is a page inside of its parent's.
    Inline(Vec<u8>),
}

impl Bucket {
    fn read(value: &[u8]) -> Result<Self, String> {
        match u64::from_le_bytes(array(value, 0)?) {
            0 => Ok(Self::Inline(value.get(BUCKET_HEADER..).unwrap_or_default().to_vec())),
            root => Ok(Self::Page(root)),
        }
    }
}

/// Takes the elements of a bucket's tree in the order of their keys: key, value, flags.
type Visit<'a> = dyn FnMut(&[u8], &[u8], u32) -> Result<(), String> + 'a;

struct Database<'a> {
    file: &'a mut dyn RandomAccess,
    page_size: u64,
    root: u64,
    /// The first page that was never used.
    end: u64,
    seen: HashSet<u64>,
}

impl<'a> Database<'a> {
    fn open(file: &'a mut dyn RandomAccess) -> Result<Self, String> {
        // The page size stands in the first meta page; where that is torn, the second lies after a page of a usual size.
        let metas = [0, 4096, 8192, 16384, 65536].into_iter().filter_map(|offset| {
            let mut page = [0; PAGE_HEADER + META + 8];
            file.read_at(offset, &mut page).ok()?;
            Meta::read(page.get(PAGE_HEADER..)?)
        });
        let newest = metas.max_by_key(|meta| meta.transaction);
        let meta = newest.ok_or("neither of its meta pages is valid, so it is no database of bbolt's")?;
        let (size, needed) = (file.size(), meta.end.saturating_mul(meta.page_size));
        if size < needed {
            return Err(format!("it has {size} bytes, and its pages take {needed}: it was cut off"));
        }
        Ok(Self { file, page_size: meta.page_size, root: meta.root, end: meta.end, seen: HashSet::new() })
    }

    fn buckets(&mut self) -> Result<HashMap<Vec<u8>, Bucket>, String> {
        let mut buckets = HashMap::new();
        self.walk(&Bucket::Page(self.root), &mut |key, value, flags| {
            if flags & IS_BUCKET != 0 {
                buckets.insert(key.to_vec(), Bucket::read(value)?);
            }
            Ok(())
        })?;
        Ok(buckets)
    }

    fn walk(&mut self, bucket: &Bucket, visit: &mut Visit<'_>) -> Result<(), String> {
        let mut last = None;
        match bucket {
            Bucket::Page(root) => self.tree(*root, 0, &mut last, visit),
            Bucket::Inline(page) => leaf(&Page { id: 0, bytes: page }, &mut last, visit),
        }
    }

    fn tree(
        &mut self,
        id: u64,
        depth: usize,
        last: &mut Option<Vec<u8>>,
        visit: &mut Visit<'_>,
    ) -> Result<(), String> {
        if depth > DEEPEST {
            return Err(format!("page {id} lies deeper than any tree"));
        }
        let bytes = self.page(id)?;
        let page = Page { id, bytes: &bytes };
        match page.kind()? {
            LEAF => leaf(&page, last, visit),
            BRANCH => {
                for at in 0..page.count()? {
                    let (key, child) = page.branch(at)?;
                    if last.as_deref().is_some_and(|last| last >= key) {
                        return Err(page.flaw("its keys are out of order"));
                    }
                    self.tree(child, depth + 1, last, visit)?;
                }
                Ok(())
            }
            kind => Err(page.flaw(&format!("its kind is {kind:#x}, and a tree has branches and leaves"))),
        }
    }

    /// A page with those that go on with it.
    fn page(&mut self, id: u64) -> Result<Vec<u8>, String> {
        let flaw = |why: &str| format!("page {id}: {why}");
        if id < 2 || id >= self.end {
            return Err(flaw(&format!("there are only {} pages", self.end)));
        }
        if !self.seen.insert(id) {
            return Err(flaw("two places lead to it"));
        }
        let offset = id.saturating_mul(self.page_size);
        let read = |file: &mut dyn RandomAccess, length: u64| {
            let mut bytes = vec![0; usize::try_from(length).map_err(|error| flaw(&error.to_string()))?];
            file.read_at(offset, &mut bytes).map_err(|error| flaw(&error.to_string()))?;
            Ok::<_, String>(bytes)
        };
        let first = read(self.file, self.page_size)?;
        if u64::from_le_bytes(array(&first, 0)?) != id {
            return Err(flaw("it says that it is another"));
        }
        let further = u64::from(u32::from_le_bytes(array(&first, 12)?));
        if further == 0 {
            return Ok(first);
        }
        let length = (further + 1).saturating_mul(self.page_size);
        if id + further >= self.end || length > LONGEST {
            return Err(flaw(&format!("it goes on for {further} pages, beyond the end")));
        }
        read(self.file, length)
    }
}

fn leaf(page: &Page<'_>, last: &mut Option<Vec<u8>>, visit: &mut Visit<'_>) -> Result<(), String> {
    if page.kind()? != LEAF {
        return Err(page.flaw("it should be a leaf"));
    }
    for at in 0..page.count()? {
        let (flags, key, value) = page.leaf(at)?;
        if last.as_deref().is_some_and(|last| last >= key) {
            return Err(page.flaw("its keys are out of order"));
        }
        visit(key, value, flags).map_err(|why| page.flaw(&why))?;
        *last = Some(key.to_vec());
    }
    Ok(())
}

struct Page<'a> {
    id: u64,
    bytes: &'a [u8],
}

impl<'a> Page<'a> {
    fn kind(&self) -> Result<u16, String> {
        Ok(u16::from_le_bytes(array(self.bytes, 8)?))
    }

    fn count(&self) -> Result<usize, String> {
        Ok(u16::from_le_bytes(array(self.bytes, 10)?).into())
    }

    fn branch(&self, at: usize) -> Result<(&'a [u8], u64), String> {
        let element = PAGE_HEADER + at * ELEMENT;
        let key = self.slice(element, self.number(element)?, self.number(element + 4)?)?;
        Ok((key, u64::from_le_bytes(array(self.bytes, element + 8)?)))
    }

    fn leaf(&self, at: usize) -> Result<(u32, &'a [u8], &'a [u8]), String> {
        let element = PAGE_HEADER + at * ELEMENT;
        let (position, key, value) =
            (self.number(element + 4)?, self.number(element + 8)?, self.number(element + 12)?);
        let flags = u32::from_le_bytes(array(self.bytes, element)?);
        Ok((
            flags,
            self.slice(element, position, key)?,
            self.slice(element, position.saturating_add(key), value)?,
        ))
    }

    fn number(&self, at: usize) -> Result<usize, String> {
        usize::try_from(u32::from_le_bytes(array(self.bytes, at)?))
            .map_err(|error| self.flaw(&error.to_string()))
    }

    /// Positions count from the element that holds them.
    fn slice(&self, element: usize, position: usize, length: usize) -> Result<&'a [u8], String> {
        let start = element.saturating_add(position);
        let slice = self.bytes.get(start..start.saturating_add(length));
        slice.ok_or_else(|| self.flaw("an element lies beyond its end"))
    }

    fn flaw(&self, why: &str) -> String {
        format!("page {}: {why}", self.id)
    }
}

struct Meta {
    page_size: u64,
    root: u64,
    end: u64,
    transaction: u64,
}

impl Meta {
    /// A meta page's content, if it is one and its checksum matches.
    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at| Some(u32::from_le_bytes(array(bytes, at).ok()?));
        let long = |at| Some(u64::from_le_bytes(array(bytes, at).ok()?));
        let whole = word(0)? == MAGIC && word(4)? == VERSION && long(META)? == fnv_1a(bytes.get(..META)?);
        let page_size = u64::from(word(8)?);
        (whole && page_size.is_power_of_two() && page_size >= 1024).then_some(Self {
            page_size,
            root: long(16)?,
            end: long(40)?,
            transaction: long(48)?,
        })
    }
}

/// The checksum of a meta page: 64-bit FNV-1a.
pub(crate) fn fnv_1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], String> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or_else(|| "it ends in the middle of a number".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::twin::bolt;

    /// A real snapshot of etcd 3.4.23: 120 keys written, every third again, every seventh deleted, one of 9000 bytes,
    /// compacted at revision 100. `etcdctl snapshot status` says revision 180, the server counts 103 keys.
    const REAL: &[u8] = include_bytes!("../../../tests/fixtures/real/etcd/snapshot/snapshot.db");

    #[test]
    fn a_real_snapshot_holds_what_its_etcd_said() {
        assert_eq!(contents(&mut REAL.to_vec()), Ok(Contents { revision: 180, keys: 103 }));
    }

    #[test]
    fn an_etcd_that_nobody_has_written_to_is_at_revision_1() {
        assert_eq!(contents(&mut bolt::database(1, &[])), Ok(Contents { revision: 1, keys: 0 }));
    }

    #[test]
    fn no_cut_is_taken_for_a_whole_database() {
        // Snapshots end with a digest of 32 bytes, which is no part of the database.
        for kept in (0..REAL.len() - 32).step_by(509) {
            assert!(contents(&mut REAL[..kept].to_vec()).is_err(), "{kept} bytes were taken for all");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_in_it_ends_in_an_answer(flips in prop::collection::vec((0..REAL.len(), any::<u8>()), 1..40)) {
            let mut bytes = REAL.to_vec();
            for (at, byte) in flips {
                bytes[at] ^= byte;
            }
            let _ = contents(&mut bytes);
        }

        #[test]
        fn a_database_holds_what_was_written(keys in prop::collection::vec("[a-z/]{1,20}", 0..300)) {
            let keys: std::collections::BTreeSet<String> = keys.into_iter().collect();
            let objects: Vec<_> = keys.iter().map(|key| (key.clone(), vec![b'x'; key.len() * 7])).collect();
            let revision = 1 + objects.len() as u64;
            let found = contents(&mut bolt::database(revision, &objects));
            prop_assert_eq!(found, Ok(Contents { revision, keys: objects.len() as u64 }));
        }
    }

    #[test]
    fn a_tree_that_leads_in_a_circle_ends() {
        let mut bytes = bolt::database(5, &[("a".to_owned(), vec![1])]);
        // The bucket of keys begins at the page of buckets itself.
        let at = bytes.windows(3).position(|window| window == b"key").unwrap() + 3;
        let root = bolt::ROOT;
        bytes[at..at + 8].copy_from_slice(&root.to_le_bytes());
        assert!(contents(&mut bytes).unwrap_err().contains("two places lead to it"));
    }
}
