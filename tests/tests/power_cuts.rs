//! What a power cut may leave of the agent's journal and fence, of the coordinator's store and of a node's backup: every
//! state of the disk after every prefix of their writes is opened again by what wrote it. No acknowledged record is
//! lost, no half record is believed, no half backup carries a whole one's name.
//!
//! The writes are those that the kernel saw: a child of this test makes them on a real file system.

#![expect(clippy::disallowed_methods, reason = "this test starts itself as a child")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at what it did not expect")]
#![expect(clippy::indexing_slicing, reason = "what is not there was not acknowledged")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use liftlock::store::{Batch, SledStore, Store};
use liftlock_agent::backup::Backup;
use liftlock_agent::disk::LocalDisk;
use liftlock_agent::engine::context::{Captured, Context, Reporter, TimeSpent};
use liftlock_agent::engine::fence::Fence;
use liftlock_agent::engine::journal::{Header, Journal};
use liftlock_agent::engine::lease::Lease;
use liftlock_agent::engine::recovery::{Begun, Journals};
use liftlock_agent::engine::step::Observed;
use liftlock_agent::engine::transition::{End, Event, Spent, State as LeaseState};
use liftlock_agent::host::real::RealFiles;
use liftlock_agent::host::{Host, Layout};
use liftlock_agent::steps;
use liftlock_agent::twin::{Shape, Twin};
use liftlock_proto::name::FencingToken;
use liftlock_proto::plan::{Purpose, Role};
use liftlock_proto::step::Step;
use liftlock_proto::version::KubernetesVersion;
use liftlock_tests::powercut::disk::Mixture;
use liftlock_tests::powercut::trace::{acknowledgements, wait_to_be_followed};
use liftlock_tests::powercut::{Recording, State, record};
use liftlock_tests::scratch;
use serde_json::json;

/// What the child is to do: `<kind>:<folder>`.
const ORDER: &str = "LIFTLOCK_POWER_CUT_CHILD";
const PLAN: &str = "p-0123456789ab";

/// Not a test by itself: the child that the tests below follow.
#[test]
#[ignore = "the child of the other tests"]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let (kind, folder) = order.split_once(':').unwrap();
    let folder = Path::new(folder);
    let mut acknowledgements = File::create(acknowledgements(folder)).unwrap();
    let mut acknowledge = |what: &str| acknowledgements.write_all(format!("{what}\n").as_bytes()).unwrap();
    match kind {
        "journal" => write_journals(folder, &mut acknowledge),
        "store" => write_store(folder, &mut acknowledge),
        "flush-only" => write_unsynced_store(folder, &mut acknowledge),
        "backup" => write_backup(folder, &mut acknowledge),
        other => panic!("no such child: {other}"),
    }
}

/// Records what a child writes into a folder that `prepare` has made.
fn recorded(kind: &str) -> Recording {
    let scratch = scratch::folder().unwrap();
    let folder = scratch.path().join("disk");
    std::fs::create_dir(&folder).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture"]);
    command.env(ORDER, format!("{kind}:{}", folder.display())).stdout(Stdio::null());
    let recording = record(&mut command, &folder).unwrap();
    assert!(recording.calls.len() > 20, "{:?}", recording.calls);
    recording
}

fn utf8(path: &Path) -> &Utf8Path {
    Utf8Path::from_path(path).unwrap()
}

// Journal and fence.

/// Two leases: one that fails, and the one after it.
const TOKENS: [u64; 2] = [7, 8];

fn header(token: u64) -> Header {
    let steps = vec![Step::EtcdSnapshot {}, Step::RestoreSchedulability {}];
    let (node, plan) = ("cp1".parse().unwrap(), PLAN.parse().unwrap());
    Header::new(node, plan, "0123456789ab".to_owned(), FencingToken(token), Purpose::Raise, steps)
}

fn events() -> Vec<Event> {
    let spent = Spent::default();
    let started = |index, attempt| Event::Started { index, attempt, pre: json!("as it was") };
    // Records of several blocks, of which a disk may have the later ones first.
    let ended = Event::Ended(End { failure: Some("no".repeat(900)), lease_ms: 1, spent, blocked: false });
    let failed = |index| Event::Failed { index, failure: "no room".repeat(200), spent };
    vec![
        started(0, 1),
        failed(0),
        started(0, 2),
        Event::Succeeded { index: 0, spent },
        started(1, 1),
        failed(1),
        ended,
    ]
}

fn fence(folder: &Utf8Path) -> Fence {
    Fence::open(Arc::new(LocalDisk), folder.join("fence")).unwrap()
}

fn journals(folder: &Utf8Path) -> Journals {
    Journals::new(Arc::new(LocalDisk), folder.join("journal"), "cp1".parse().unwrap()).unwrap()
}

fn begin(folder: &Utf8Path, token: u64) -> Box<Journal> {
    match journals(folder).begin(header(token)).unwrap() {
        Begun::Run(journal) => journal,
        Begun::Ended(end) => panic!("lease {token} has ended: {end:?}"),
    }
}

fn write_journals(folder: &Path, acknowledge: &mut dyn FnMut(&str)) {
    let folder = utf8(folder);
    wait_to_be_followed().unwrap();
    for token in TOKENS {
        fence(folder).admit(FencingToken(token)).unwrap();
        acknowledge(&format!("fence {token}"));
        let mut journal = begin(folder, token);
        acknowledge(&format!("begun {token}"));
        for event in events() {
            journal.append(1, &event).unwrap();
            acknowledge(&format!("event {token}"));
        }
        journals(folder).close(&PLAN.parse().unwrap(), FencingToken(token)).unwrap();
        acknowledge(&format!("closed {token}"));
    }
}

/// The lease after so many of its events.
fn lease_after(journal: &Journal, count: usize) -> Option<LeaseState> {
    let steps = journal.header().steps.iter().map(Step::name);
    let mut state = LeaseState::new(Purpose::Raise, steps, journal.header().inherited.clone()).unwrap();
    for event in events().get(..count)? {
        state = state.after(event).unwrap();
    }
    Some(state)
}

fn check_journals(state: &State) {
    let (folder, name) = (state.restored().unwrap(), state.name());
    let folder = utf8(folder.path());
    let acknowledged = |what: &str, token: u64| {
        let wanted = format!("{what} {token}");
        state.acknowledged.iter().filter(|said| **said == wanted).count()
    };
    let highest = fence(folder).highest().0;
    let admitted = TOKENS.into_iter().filter(|token| acknowledged("fence", *token) > 0).max().unwrap_or(0);
    let next = TOKENS.into_iter().find(|token| *token > admitted).unwrap_or(admitted);
    assert!(highest == admitted || highest == next, "{name}: {highest} was seen, {admitted} admitted");

    let held = journals(folder).held().unwrap_or_else(|error| panic!("{name}: {error}"));
    let Some(journal) = held else {
        let open = TOKENS.into_iter().find(|token| {
            acknowledged("begun", *token) > 0 && acknowledged("event", *token) < events().len()
        });
        return assert_eq!(open, None, "{name}: lease {open:?} is forgotten");
    };
    let token = journal.header().token.0;
    assert_eq!(acknowledged("closed", token), 0, "{name}: lease {token} was over and is open again");
    assert!(token <= highest, "{name}: lease {token} began and the fence says {highest}");
    let count = acknowledged("event", token);
    let possible: Vec<LeaseState> =
        [count, count + 1].iter().filter_map(|count| lease_after(&journal, *count)).collect();
    assert!(
        possible.contains(journal.state()),
        "{name}: {count} events were acknowledged: {:?}",
        journal.state()
    );
    if token == TOKENS[1] {
        let captured: &Captured = journal.state().captured();
        assert!(captured.contains_key("etcd-snapshot"), "{name}: what lease 7 captured is forgotten");
    }
    // And it takes the next event, or says how the lease ended.
    match journals(folder).begin(header(token)).unwrap_or_else(|error| panic!("{name}: {error}")) {
        Begun::Ended(_) => {}
        Begun::Run(mut journal) => {
            let at = possible.iter().position(|state| state == journal.state()).unwrap();
            journal.append(2, &events()[count + at]).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

#[test]
fn no_power_cut_loses_an_acknowledged_record_of_journal_and_fence_or_leaves_half_a_one_believed() {
    // `Disk::append` promises no more of a journal's file system; where bytes come in another order, the journal says that
    // it is damaged.
    let states = Recording { appended_in_order: true, ..recorded("journal") }.states(20, 4000);
    assert!(states.len() > 100, "{} states", states.len());
    states.iter().for_each(check_journals);
}

// The coordinator's store.

const COMMITS: u32 = 24;

/// Every third commit is large, so that sled goes on to other segments and takes up old ones again.
fn batch(number: u32) -> Batch {
    let mut batch = Batch::default();
    batch.put("fence".to_owned(), &number).unwrap();
    batch.put(format!("history/{number:05}"), &format!("lease {number} was granted")).unwrap();
    if number.is_multiple_of(3) {
        for key in 0..24 {
            batch.put(format!("rollout/{key}"), &format!("{number} {}", "x".repeat(5000))).unwrap();
        }
    }
    batch
}

fn write_store(folder: &Path, acknowledge: &mut dyn FnMut(&str)) {
    wait_to_be_followed().unwrap();
    let store = SledStore::open(folder).unwrap();
    acknowledge("opened");
    for number in 1..=COMMITS {
        store.commit(&batch(number)).unwrap();
        acknowledge("committed");
    }
}

/// What the store would be if sled's `flush` were believed.
fn write_unsynced_store(folder: &Path, acknowledge: &mut dyn FnMut(&str)) {
    wait_to_be_followed().unwrap();
    let db = sled::Config::new().path(folder).flush_every_ms(None).open().unwrap();
    acknowledge("opened");
    for number in 1..=COMMITS {
        let mut writes = sled::Batch::default();
        for (key, value) in batch(number).writes() {
            writes.insert(key, value);
        }
        db.apply_batch(writes).unwrap();
        db.flush().unwrap();
        acknowledge("committed");
    }
}

/// Why the store does not hold what was acknowledged, if so.
fn store_is_whole(state: &State) -> Result<(), String> {
    let folder = state.restored().unwrap();
    let acknowledged = state.acknowledged.iter().filter(|said| *said == "committed").count();
    let store = SledStore::open(folder.path()).map_err(|error| error.to_string())?;
    let entries = store.load().map_err(|error| error.to_string())?;
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u32>().ok();
    let found = entries.get("fence").and_then(|bytes| number(bytes)).unwrap_or(0);
    let acknowledged = u32::try_from(acknowledged).unwrap();
    if found != acknowledged && found != acknowledged + 1 {
        return Err(format!("{acknowledged} commits were acknowledged, and {found} are there"));
    }
    let mut expected = std::collections::BTreeMap::new();
    for number in 1..=found {
        expected.extend(batch(number).writes().map(|(key, value)| (key.to_owned(), value.to_vec())));
    }
    if entries != expected {
        return Err(format!("of {found} commits some are there in parts"));
    }
    store.commit(&batch(found + 1)).map_err(|error| format!("it takes no more: {error}"))
}

#[test]
fn no_power_cut_loses_an_acknowledged_commit_of_the_store_or_leaves_half_a_one() {
    let states = recorded("store").states(3, 200);
    assert!(states.len() > 100, "{} states", states.len());
    for state in &states {
        store_is_whole(state).unwrap_or_else(|why| panic!("{}: {why}", state.name()));
    }
}

#[test]
fn the_replay_finds_a_store_that_does_not_sync() {
    let recording = recorded("flush-only");
    let last = recording.state(recording.calls.len(), Mixture::Nothing);
    assert_eq!(last.acknowledged.len(), 1 + usize::try_from(COMMITS).unwrap());
    let folder = last.restored().unwrap();
    let found = std::fs::metadata(folder.path().join("db")).map_or(0, |status| status.len());
    assert_eq!(found, 0, "something of it was synced");
}

// Backups.

const FROM: KubernetesVersion = KubernetesVersion::new(1, 30, 4);

struct Quiet;

impl Reporter for Quiet {
    fn line(&self, _: &str, _: &str) {}

    fn spent(&self, _: TimeSpent, _: std::ops::Range<Duration>) {}
}

/// A node of the twin whose files are real ones below a folder.
fn node(root: &Utf8Path) -> Host {
    let twin = Twin::new(Shape { control_planes: 1, workers: 0, version: FROM, offered: FROM });
    let layout = Layout { root: root.to_owned(), state_dir: root.join("var/lib/liftlock") };
    Host { files: Arc::new(RealFiles::new(layout.clone())), layout, ..twin.host("cp1") }
}

fn context(host: &Host, step: &Step) -> Context {
    Context {
        host: host.clone(),
        node: "cp1".parse().unwrap(),
        plan: PLAN.parse().unwrap(),
        step: step.name(),
        lease: Arc::new(Lease::new(FencingToken(7), Duration::MAX)),
        captured: Arc::new(Captured::new()),
        reporter: Arc::new(Quiet),
    }
}

fn backup_steps() -> [Step; 2] {
    [Step::EtcdSnapshot {}, Step::BackUpNode { role: Role::FirstControlPlane }]
}

/// What the engine does of a step: look, and run it where it is not done.
fn carry(host: &Host, step: &Step) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (runner, cx) = (steps::runner(step).unwrap(), context(host, step));
        if runner.check(&cx).await.unwrap() != Observed::Done {
            let pre = runner.capture(&cx).await.unwrap();
            runner.run(&cx, &pre).await.unwrap();
            assert_eq!(runner.check(&cx).await.unwrap(), Observed::Done, "{}", step.name());
        }
    });
}

/// The files that the node has before.
fn furnish(root: &Path) {
    let twin = Twin::new(Shape { control_planes: 1, workers: 0, version: FROM, offered: FROM });
    let world = twin.world();
    for (path, file) in world.machine("cp1").unwrap().disk.files() {
        let path = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &file.content).unwrap();
    }
}

/// Beside the recorded folder: the node. The backups' folder is the recorded one.
fn node_of(folder: &Path) -> Utf8PathBuf {
    utf8(folder).with_file_name("node")
}

fn write_backup(folder: &Path, acknowledge: &mut dyn FnMut(&str)) {
    let root = node_of(folder);
    furnish(root.as_std_path());
    std::os::unix::fs::symlink(folder, root.join("etc/kubernetes/tmp")).unwrap();
    let host = node(&root);
    wait_to_be_followed().unwrap();
    for step in backup_steps() {
        carry(&host, &step);
        acknowledge(step.name());
    }
}

fn check_backup(state: &State) {
    let (scratch, name) = (scratch::folder().unwrap(), state.name());
    let root = utf8(scratch.path()).join("node");
    furnish(root.as_std_path());
    let tmp = root.join("etc/kubernetes/tmp");
    std::fs::create_dir(&tmp).unwrap();
    state.restore(tmp.as_std_path()).unwrap();
    let host = node(&root);
    let [snapshot, back_up] = backup_steps();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(async {
        let found =
            Backup::find(&context(&host, &back_up)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(found) = &found {
            found.verify(&host).await.unwrap_or_else(|error| panic!("{name}: half a backup: {error}"));
        }
        let cx = context(&host, &snapshot);
        let proven = steps::runner(&snapshot).unwrap().check(&cx).await;
        let proven = proven.unwrap_or_else(|error| panic!("{name}: {error}"));
        let acknowledged = state.acknowledged.iter().any(|said| said == snapshot.name());
        assert!(proven == Observed::Done || !acknowledged, "{name}: the snapshot is {proven:?}");
        found
    });
    let acknowledged = state.acknowledged.iter().any(|said| said == back_up.name());
    assert!(found.is_some() || !acknowledged, "{name}: the backup is lost");
    for step in backup_steps() {
        carry(&host, &step);
    }
}

#[test]
fn no_power_cut_gives_half_a_backup_a_whole_ones_name_or_loses_one_that_was_finished() {
    let states = recorded("backup").states(2, 150);
    assert!(states.len() > 100, "{} states", states.len());
    states.iter().for_each(check_backup);
}
