//! A database as etcd would write it, small enough for a test: bbolt's file format, etcd's buckets.

use liftlock_proto::etcd::KeyValue;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::backup::bolt::fnv_1a;

const PAGE: usize = 4096;
/// The page of the buckets.
pub const ROOT: u64 = 3;
const KEYS: u64 = 4;
const META: u16 = 0x04;
const FREE: u16 = 0x10;
const LEAF: u16 = 0x02;
const BUCKET: u32 = 1;

/// The database of an etcd at this revision that holds these keys, at most 60,000.
pub fn database(revision: u64, objects: &[(String, Vec<u8>)]) -> Vec<u8> {
    let first = (revision + 1).saturating_sub(objects.len() as u64);
    let changes: Vec<_> = (first..).zip(objects).map(|(at, (key, value))| change(at, key, value)).collect();
    let keys = page(KEYS, LEAF, &leaf(&changes), changes.len());
    let compacted = (b"scheduledCompactRev".to_vec(), revision_key(revision), 0);
    let inline = [&[0; 16], page(0, LEAF, &leaf(std::slice::from_ref(&compacted)), 1).as_slice()].concat();
    let buckets = [
        (b"key".to_vec(), [KEYS.to_le_bytes(), [0; 8]].concat(), BUCKET),
        (b"meta".to_vec(), inline.get(..128).unwrap_or(&inline).to_vec(), BUCKET),
    ];
    let root = page(ROOT, LEAF, &leaf(&buckets), buckets.len());
    let end = KEYS + (keys.len() / PAGE) as u64;
    let metas = [0, 1].map(|id: u64| page(id, META, &meta(end, id), 0));
    [metas.concat(), page(2, FREE, &[], 0), root, keys].concat()
}

/// A snapshot of a database: the file, and its SHA-256 in the last 32 bytes.
pub fn snapshot(mut database: Vec<u8>) -> Vec<u8> {
    let digest = Sha256::digest(&database);
    database.extend_from_slice(&digest);
    database
}

type Element = (Vec<u8>, Vec<u8>, u32);

fn change(revision: u64, key: &str, value: &[u8]) -> Element {
    let mod_revision = i64::try_from(revision).unwrap_or(i64::MAX);
    let change = KeyValue { key: key.as_bytes().to_vec(), mod_revision, value: value.to_vec() };
    (revision_key(revision), change.encode_to_vec(), 0)
}

fn revision_key(revision: u64) -> Vec<u8> {
    [revision.to_be_bytes().as_slice(), b"_", &[0; 8]].concat()
}

fn page(id: u64, kind: u16, content: &[u8], count: usize) -> Vec<u8> {
    let length = (16 + content.len()).next_multiple_of(PAGE);
    let further = u32::try_from(length / PAGE - 1).unwrap_or(u32::MAX);
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    let mut page = [
        id.to_le_bytes().as_slice(),
        &kind.to_le_bytes(),
        &count.to_le_bytes(),
        &further.to_le_bytes(),
        content,
    ]
    .concat();
    page.resize(length, 0);
    page
}

/// The elements' headers, then keys and values in the same order.
fn leaf(elements: &[Element]) -> Vec<u8> {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    let (mut headers, mut content) = (Vec::new(), Vec::new());
    for (at, (key, value, flags)) in elements.iter().enumerate() {
        let position = (elements.len() - at) * 16 + content.len();
        headers
            .extend([flags.to_le_bytes(), number(position), number(key.len()), number(value.len())].concat());
        content.extend([key.as_slice(), value].concat());
    }
    [headers, content].concat()
}

fn meta(end: u64, transaction: u64) -> Vec<u8> {
    let words = [0xED0C_DAED_u32, 2, 4096, 0].map(u32::to_le_bytes).concat();
    let longs = [ROOT, 0, 2, end, transaction].map(u64::to_le_bytes).concat();
    let meta = [words, longs].concat();
    [meta.clone(), fnv_1a(&meta).to_le_bytes().to_vec()].concat()
}
