use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::disk::memory::MemoryDisk;
use crate::engine::transition::{End, Spent};

const PATH: &str = "/journal/p-0123456789ab-7.journal";

fn header() -> Header {
    let steps = vec![Step::EtcdSnapshot {}, Step::RestoreSchedulability {}];
    let hash = "0123456789ab".to_owned();
    let (node, plan) = ("cp1".parse().unwrap(), "p-0123456789ab".parse().unwrap());
    Header::new(node, plan, hash, FencingToken(7), Purpose::Raise, steps)
}

fn events() -> Vec<Event> {
    let spent = Spent { child_ms: 3, ..Spent::default() };
    vec![
        Event::Started { index: 0, attempt: 1, pre: json!({ "unschedulable": false }) },
        Event::Failed { index: 0, failure: "the API is gone".to_owned(), spent },
        Event::Started { index: 0, attempt: 2, pre: json!({ "unschedulable": false }) },
        Event::Succeeded { index: 0, spent },
        Event::Adopted { index: 1 },
        Event::Ended(End { failure: None, lease_ms: 9, spent, blocked: false }),
    ]
}

/// A journal with these events, its bytes, and where each record ends.
fn written(disk: &MemoryDisk, events: &[Event]) -> (Vec<u8>, Vec<usize>) {
    let mut journal = Journal::create(disk, PATH.into(), header()).unwrap();
    let mut ends = vec![disk.content(PATH.into()).len()];
    for event in events {
        journal.append(1, event).unwrap();
        ends.push(disk.content(PATH.into()).len());
    }
    (disk.content(PATH.into()), ends)
}

fn open(bytes: &[u8]) -> Result<(MemoryDisk, Journal), JournalError> {
    let disk = MemoryDisk::default();
    disk.put(PATH.into(), bytes);
    Journal::open(&disk, PATH.into()).map(|journal| (disk, journal))
}

fn state_after(events: &[Event]) -> State {
    let start = State::new(Purpose::Raise, header().steps.iter().map(Step::name), Captured::new()).unwrap();
    events.iter().fold(start, |state, event| state.after(event).unwrap())
}

#[test]
fn a_journal_reads_back_what_was_written() {
    let (bytes, _) = written(&MemoryDisk::default(), &events());
    let (_, journal) = open(&bytes).unwrap();
    assert_eq!(journal.header(), &header());
    assert_eq!(journal.state(), &state_after(&events()));
}

#[test]
fn every_prefix_opens_with_exactly_the_whole_records_in_it_or_is_refused() {
    let (bytes, ends) = written(&MemoryDisk::default(), &events());
    for length in 0..bytes.len() {
        let whole = ends.iter().filter(|end| **end <= length).count();
        match open(&bytes[..length]) {
            Ok((disk, journal)) => {
                assert_eq!(journal.state(), &state_after(&events()[..whole - 1]), "prefix of {length} bytes");
                assert_eq!(
                    disk.content(PATH.into()).len(),
                    ends[whole - 1],
                    "the torn tail of {length} stayed"
                );
            }
            Err(JournalError::Damaged { offset: 0, .. }) => assert_eq!(whole, 0, "prefix of {length} bytes"),
            Err(error) => panic!("prefix of {length} bytes: {error}"),
        }
    }
}

#[test]
fn a_tail_of_zeros_is_an_append_that_never_arrived() {
    let (mut bytes, ends) = written(&MemoryDisk::default(), &events()[..1]);
    bytes.resize(bytes.len() + 513, 0);
    let (disk, journal) = open(&bytes).unwrap();
    assert_eq!(journal.state(), &state_after(&events()[..1]));
    assert_eq!(disk.content(PATH.into()).len(), ends[1]);
}

#[test]
fn an_opened_journal_goes_on_where_the_torn_tail_was_cut() {
    let (bytes, ends) = written(&MemoryDisk::default(), &events());
    let (disk, mut journal) = open(&bytes[..ends[1] + 5]).unwrap();
    for event in &events()[1..] {
        journal.append(1, event).unwrap();
    }
    assert_eq!(disk.content(PATH.into()), bytes);
}

#[test]
fn records_in_another_order_are_refused_although_each_is_whole() {
    let disk = MemoryDisk::default();
    let (bytes, ends) = written(&disk, &events());
    let (first, second) = (&bytes[ends[0]..ends[1]], &bytes[ends[1]..ends[2]]);
    let swapped = [&bytes[..ends[0]], second, first, &bytes[ends[2]..]].concat();
    assert!(matches!(open(&swapped), Err(JournalError::Damaged { offset, .. }) if offset == ends[0]));
}

#[test]
fn an_event_that_cannot_follow_is_not_written() {
    let disk = MemoryDisk::default();
    let mut journal = Journal::create(&disk, PATH.into(), header()).unwrap();
    let before = disk.content(PATH.into());
    assert!(matches!(
        journal.append(1, &Event::Undone { index: 0, spent: Spent::default() }),
        Err(JournalError::Illegal { .. })
    ));
    assert_eq!(disk.content(PATH.into()), before);
    journal.append(1, &events()[0]).unwrap();
}

#[test]
fn a_journal_of_another_step_list_or_format_is_refused_and_says_so() {
    for (field, expected) in [("stepList", "list of steps"), ("format", "format 99")] {
        let mut value = serde_json::to_value(header()).unwrap();
        value[field] = json!(99);
        let error = open(&frame::encode(0, &serde_json::to_vec(&value).unwrap())).err().unwrap();
        assert!(
            matches!(error, JournalError::Foreign { .. }) && error.to_string().contains(expected),
            "{error}"
        );
    }
}

#[test]
fn on_a_full_disk_the_append_fails_and_the_journal_opens_with_all_that_was_acknowledged() {
    let disk = MemoryDisk::default();
    let (mut bytes, ends) = written(&disk, &events()[..1]);
    for room in [0, 1, 11, 12, 40] {
        disk.limit(None);
        disk.put(PATH.into(), &bytes);
        let mut journal = Journal::open(&disk, PATH.into()).unwrap();
        disk.limit(Some(room));
        let error = journal.append(1, &events()[1]).unwrap_err();
        assert!(matches!(error, JournalError::NoRoom { .. }), "{error}");
        assert_eq!(journal.state(), &state_after(&events()[..1]));
        disk.limit(None);
        assert!(matches!(journal.append(1, &events()[1]), Err(JournalError::Unusable { .. })));
        let mut journal = Journal::open(&disk, PATH.into()).unwrap();
        assert_eq!(disk.content(PATH.into()).len(), ends[1]);
        journal.append(1, &events()[1]).unwrap();
        bytes.truncate(ends[1]);
    }
}

#[test]
fn a_disk_that_is_full_at_the_grant_leaves_no_journal() {
    let disk = MemoryDisk::default();
    disk.limit(Some(10));
    let error = Journal::create(&disk, PATH.into(), header()).err().unwrap();
    assert!(matches!(error, JournalError::NoRoom { .. }), "{error}");
    assert_eq!(disk.read(PATH.into()).unwrap(), None);
}

proptest! {
    #[test]
    fn a_flipped_byte_is_refused_with_the_offset_of_its_record(at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let (mut bytes, ends) = written(&MemoryDisk::default(), &events());
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let begins = ends.iter().rev().find(|end| **end <= at).copied().unwrap_or(0);
        match open(&bytes) {
            Err(JournalError::Damaged { offset, .. }) => prop_assert_eq!(offset, begins),
            Err(error) => prop_assert!(false, "byte {}: {}", at, error),
            Ok(_) => prop_assert!(false, "a journal with byte {at} flipped was believed"),
        }
    }

    #[test]
    fn no_bytes_at_all_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(open(&bytes).is_err());
    }
}
