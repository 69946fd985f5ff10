//! Hosts that are replaced as a whole.

use std::sync::Arc;

use camino::Utf8Path;
use liftlock_proto::name::FencingToken;
use liftlock_proto::plan::Role;

use super::harness::{End, Leased, TO, shape};
use crate::engine::step::{Observed, StepFailure};
use crate::host::Space;
use crate::redeploy::import::{ImportError, Imported, import};
use crate::redeploy::replacement::Replacement;
use crate::twin::redeploy::{PERSISTENT, Replacing};
use crate::twin::{Fault, Meanwhile, Twin};

const CNI: &str = "/etc/cni/net.d/10-flannel.conflist";
const LOG: &str = "/var/log/kubeadm-join.log";
const SETTINGS: &str = "/srv/shop/settings/main.conf";
const NEW: &str = "/etc/os-release";

/// Nodes whose hosts are replaced, before their leases: a worker of a cluster whose control plane is raised, and the only
/// control plane of another.
fn kinds() -> Vec<(&'static str, Leased)> {
    let twin = Twin::new(shape(1, 2));
    Leased::new(&twin, "cp1", Role::FirstControlPlane).carry_all();
    let worker = Leased::redeploying(&twin, "w1", Role::Worker);
    let alone = Leased::redeploying(&Twin::new(shape(1, 1)), "cp1", Role::FirstControlPlane);
    for leased in [&worker, &alone] {
        leased.meddle(|machine| {
            machine.disk.put(CNI, "{\"name\": \"cbr0\"}", 0o644);
            machine.disk.put(LOG, "[preflight] Running\n", 0o600);
            machine.disk.put("/root/.ssh/authorized_keys", "ssh-ed25519 AAAA", 0o600);
            machine.disk.put(SETTINGS, "currency = EUR\n", 0o640);
            machine.disk.put("/etc/liftlock/protect.d/shop.conf", "/srv/shop/settings\n", 0o600);
            machine.disk.put("/etc/motd", "of the old system", 0o644);
        });
    }
    vec![("a worker", worker), ("the only control plane", alone)]
}

fn worker() -> Leased {
    kinds().remove(0).1
}

fn read(leased: &Leased, path: &str) -> Option<String> {
    let content = leased.meddle(|machine| machine.disk.read(path.into()).map(<[u8]>::to_vec));
    content.map(|content| String::from_utf8_lossy(&content).into_owned())
}

/// The step that replaces the host, failing; its words.
fn fails(leased: &mut Leased) -> String {
    leased.carry_until("redeploy");
    leased.fail("redeploy")
}

fn kubelet_runs(leased: &Leased) -> bool {
    leased.meddle(|machine| machine.kubelet.is_some())
}

#[test]
fn a_node_whose_system_is_replaced_is_raised_and_has_what_it_had() {
    for (kind, mut leased) in kinds() {
        let manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml";
        leased.carry_until("redeploy");
        let before =
            [CNI, LOG, SETTINGS, manifest, "/var/lib/kubelet/config.yaml", "/var/lib/etcd/member/snap/db"]
                .map(|path| (path, read(&leased, path)));
        leased.carry_all();
        leased.picture();
        for (path, content) in before {
            assert_eq!(read(&leased, path), content, "{kind}: {path}");
        }
        assert_eq!(read(&leased, NEW).as_deref(), Some("the new system"), "{kind}");
        assert_eq!(read(&leased, "/etc/motd"), None, "{kind}: only what is protected comes back");
        let world = leased.twin.world();
        let node = &world.cluster.nodes[leased.node];
        assert!(node.ready && !node.unschedulable && node.kubelet_version == TO, "{kind}: {node:?}");
        let disk = &world.machine(leased.node).unwrap().disk;
        let store = Utf8Path::new("/mnt/persistent/liftlock").join(format!("{}-7", leased.node));
        assert_eq!(
            disk.list(&store),
            ["content.pack", "index.json"],
            "{kind}: nobody removes it before the end"
        );
    }
}

#[test]
fn a_host_that_was_replaced_is_not_replaced_again() {
    for (kind, mut leased) in kinds() {
        leased.carry_until("restart-kubelet");
        let (once, step) = (leased.picture(), leased.step("redeploy"));
        leased.run_again(&step).unwrap();
        assert_eq!(leased.check(&step).unwrap(), Observed::Done, "{kind}");
        leased.lease_again(8);
        assert_eq!(leased.carry(&step), End::Done, "{kind}: under a retry");
        assert_eq!(leased.picture().differences(&once), [""; 0], "{kind}");
    }
}

#[test]
fn whatever_strikes_a_redeploy_or_its_import_it_ends_raised_and_where_it_asks_a_retry_raises_it() {
    let faults = [
        (Fault::Fails, Meanwhile::StillRunning),
        (Fault::AgentDies, Meanwhile::StillRunning),
        (Fault::AgentDies, Meanwhile::Ended),
        (Fault::PowerFails, Meanwhile::StillRunning),
    ];
    for (kind, mut leased) in kinds() {
        leased.carry_until("redeploy");
        let (step, index) =
            (leased.step("redeploy"), leased.steps.iter().position(|step| step.name() == "redeploy"));
        let mut undisturbed = leased.fork();
        undisturbed.carry_all();
        let raised = undisturbed.picture();
        let (mut strikes, mut imports, mut asked) = (0, 0, 0);
        for (fault, meanwhile) in faults {
            for nth in 1.. {
                let mut struck = leased.fork();
                struck.twin.inject(struck.node, nth, fault);
                let end = struck.carry(&step);
                let Some(change) = struck.twin.struck() else { break };
                let when = format!("{kind}: {fault:?}, {meanwhile:?}, before \"{change}\"");
                strikes += 1;
                imports += usize::from(struck.is_bare());
                match end {
                    End::Died => struck.restart(meanwhile),
                    End::Failed(why) => {
                        assert_eq!(fault, Fault::Fails, "{when}: {why}");
                        assert!(kubelet_runs(&struck) || change.contains("kubelet"), "{when}: {why}");
                        struck.lease_again(8);
                    }
                    End::Done => assert_eq!(fault, Fault::Fails, "{when}"),
                }
                if let Err((_, End::Failed(why))) = struck.carry_from(index.unwrap()) {
                    assert!(why.contains("`liftlock retry ") && fault == Fault::PowerFails, "{when}: {why}");
                    asked += 1;
                    struck.lease_again(9);
                    assert_eq!(struck.carry_from(index.unwrap()), Ok(()), "{when}");
                }
                assert_eq!(struck.picture().differences(&raised), [""; 0], "{when}");
            }
        }
        assert!(
            strikes > 100 && imports > 30,
            "{kind}: only {strikes} faults struck, {imports} of them the import"
        );
        assert!(
            asked <= 2,
            "{kind}: it asked {asked} times; only a power cut while the command runs is unclear"
        );
    }
}

#[test]
fn a_command_that_fails_leaves_a_node_that_works_and_an_export_that_is_whole() {
    let mut leased = worker();
    leased.twin.world().replacing = Replacing::Fails;
    let why = fails(&mut leased);
    assert!(why.contains("replace-system") && why.contains("no such image"), "{why}");
    leased.picture();
    assert!(kubelet_runs(&leased) && leased.twin.world().cluster.nodes["w1"].ready);
    assert_eq!(leased.undo(&leased.step("redeploy")), End::Done);
    leased.twin.world().replacing = Replacing::Works;
    leased.lease_again(8);
    leased.carry_all();
}

#[test]
fn a_command_that_changes_nothing_is_told_of_and_is_run_again_only_by_a_retry() {
    let mut leased = worker();
    leased.twin.world().replacing = Replacing::DoesNothing;
    let why = fails(&mut leased);
    assert!(why.contains("the one that it was") && why.contains("`liftlock retry w1`"), "{why}");
    let starts = |leased: &Leased| {
        leased.changes().iter().filter(|change| change.contains("start `/usr/local")).count()
    };
    assert_eq!(starts(&leased), 1);
    let why = leased.fail("redeploy");
    assert!(why.contains("it ended well") && starts(&leased) == 1, "{why}");
    assert!(kubelet_runs(&leased));
    leased.twin.world().replacing = Replacing::Works;
    leased.lease_again(8);
    leased.carry_all();
}

#[test]
fn a_host_is_put_back_before_its_system_is_replaced_and_never_after() {
    for (kind, leased) in kinds() {
        let before = leased.picture();
        let mut leased = leased.fork();
        let redeploy = leased.steps.iter().position(|step| step.name() == "redeploy").unwrap();
        for index in 0..redeploy {
            let step = leased.steps[index].clone();
            assert_eq!(leased.carry(&step), End::Done);
        }
        let mut failed = leased.fork();
        failed.twin.world().replacing = Replacing::Fails;
        failed.fail("redeploy");
        assert_eq!(failed.unwind_from(redeploy), Ok(()), "{kind}");
        assert_eq!(failed.picture().differences(&before), [""; 0], "{kind}");

        leased.carry_all();
        let (at, end) = leased.unwind_from(leased.steps.len() - 1).unwrap_err();
        let End::Failed(why) = end else { panic!("{kind}: {end:?}") };
        assert_eq!(at, redeploy, "{kind}");
        assert!(why.contains("was replaced as a whole") && why.contains("`liftlock retry"), "{kind}: {why}");
    }
}

#[test]
fn what_the_plan_shows_is_what_the_nodes_own_configuration_says_or_nothing_is_stopped() {
    let configured = |leased: &Leased, change: fn(&mut Replacement)| {
        let mut replacement = leased.twin.world().redeploy.as_deref().cloned().unwrap();
        change(&mut replacement);
        leased.twin.world().redeploy = Some(Arc::new(replacement));
    };
    for (change, word) in [
        ((|it| it.command.push("--now".to_owned())) as fn(&mut Replacement), "--now"),
        (|it| it.store = "/mnt/elsewhere".into(), "/mnt/elsewhere is not there"),
        (|it| it.keeps.clear(), "lies on the file system of /"),
        (
            |it| it.keeps.push("/var/lib".into()),
            "the agent's state /var/lib/liftlock would outlive the system",
        ),
        (|it| it.command[0] = "/opt/none".to_owned(), "/opt/none"),
    ] {
        let mut leased = worker();
        configured(&leased, change);
        let why = fails(&mut leased);
        assert!(why.contains(word) && why.contains("nothing was replaced"), "{why}");
        assert!(
            kubelet_runs(&leased)
                && !leased.changes().iter().any(|change| change.contains("stop the kubelet"))
        );
    }
}

#[test]
fn a_store_that_is_too_small_is_refused_before_anything_is_written_there_and_the_node_goes_on() {
    let mut leased = worker();
    leased.carry_until("redeploy");
    let small = Space { free: 1 << 20, total: 1 << 30, device: 7 };
    leased.meddle(|machine| machine.mounts.insert(PERSISTENT.into(), small));
    let why = leased.fail("redeploy");
    assert!(why.contains("/mnt/persistent/liftlock") && why.contains("1 MiB are free"), "{why}");
    assert_eq!(leased.meddle(|machine| machine.disk.list("/mnt/persistent/liftlock".into())), [""; 0]);
    assert!(kubelet_runs(&leased));
    leased.meddle(|machine| machine.mounts.clear());
    leased.lease_again(8);
    leased.carry_all();
}

#[test]
fn what_outlives_the_system_is_not_exported_and_has_to_be_there_before_anything_is_brought_back() {
    let mut leased = worker();
    let mut replacement = leased.twin.world().redeploy.as_deref().cloned().unwrap();
    replacement.keeps.push("/srv/shop/settings".into());
    leased.twin.world().redeploy = Some(Arc::new(replacement.clone()));
    leased.carry_until("redeploy");
    leased.twin.inject("w1", 1, Fault::Fails);
    // The twin's command keeps the store alone: what was to outlive the system is gone.
    let step = leased.step("redeploy");
    let (host, node) = (leased.twin.host("w1"), "w1".parse().unwrap());
    while leased.twin.struck().is_none() {
        leased.carry(&step);
    }
    leased.lease_again(8);
    let cx = leased.context(&step);
    let run = async { crate::steps::runner(&step).unwrap().run(&cx, &serde_json::Value::Null).await };
    assert!(leased.twin.drive(run).done().is_none(), "the system was replaced under it");
    leased.twin.restart("w1", Meanwhile::StillRunning);
    let import = || leased.twin.drive(import(&host, &node, &replacement.store)).done().unwrap();
    let error = import().unwrap_err();
    assert!(matches!(&error, ImportError::NotKept { path } if path == "/srv/shop/settings"), "{error}");
    assert_eq!(read(&leased, CNI), None, "nothing was touched");
    leased.meddle(|machine| machine.disk.put(SETTINGS, "currency = EUR\n", 0o640));
    assert!(matches!(import().unwrap(), Imported::Back { .. }));
    leased.carry_all();
}

/// The host in its new system, before anything was brought back.
fn bare() -> Leased {
    let mut leased = worker();
    leased.carry_until("redeploy");
    let step = leased.step("redeploy");
    let cx = leased.context(&step);
    let run = async { crate::steps::runner(&step).unwrap().run(&cx, &serde_json::Value::Null).await };
    assert!(leased.twin.drive(run).done().is_none());
    leased.twin.restart("w1", Meanwhile::StillRunning);
    leased
}

fn bring_back(leased: &Leased, node: &str) -> Result<Imported, ImportError> {
    let (host, node) = (leased.twin.host("w1"), node.parse().unwrap());
    leased.twin.drive(import(&host, &node, "/mnt/persistent/liftlock".into())).done().unwrap()
}

#[test]
fn an_export_is_brought_back_once_and_never_over_what_is_as_new_or_newer() {
    let mut leased = bare();
    assert!(matches!(bring_back(&leased, "w1"), Ok(Imported::Back { token: FencingToken(7), .. })));
    leased.meddle(|machine| machine.disk.put(CNI, "changed since", 0o644));
    for token in [7, 8] {
        leased.lease_again(token);
        assert!(
            matches!(bring_back(&leased, "w1"), Ok(Imported::Nothing(why)) if why.contains("has seen lease"))
        );
        assert_eq!(read(&leased, CNI).as_deref(), Some("changed since"));
    }
    leased.meddle(|machine| machine.disk.put("/var/lib/liftlock/fence", "6 00000000\n", 0o600));
    assert!(matches!(bring_back(&leased, "w1"), Err(ImportError::Fence { .. })));
}

#[test]
fn an_export_of_another_node_or_a_damaged_one_is_refused_and_nothing_is_touched() {
    let leased = bare();
    let (host, node) = (leased.twin.host("w1"), "w1".parse().unwrap());
    let elsewhere = leased.twin.drive(import(&host, &node, "/mnt/elsewhere".into())).done().unwrap();
    assert!(
        matches!(elsewhere, Err(ImportError::NoStore { .. })),
        "a store that is not mounted holds nothing"
    );
    let error = bring_back(&leased, "w2").unwrap_err();
    assert!(matches!(&error, ImportError::OtherNodes { others, .. } if others == "w1"), "{error}");
    let index = Utf8Path::new("/mnt/persistent/liftlock/w1-7/index.json");
    let whole = read(&leased, index.as_str()).unwrap();
    leased.meddle(|machine| machine.disk.put(index, whole.replacen("w1", "w2", 1), 0o600));
    let error = bring_back(&leased, "w1").unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
    assert!(leased.is_bare() && read(&leased, CNI).is_none());
    leased.meddle(|machine| machine.disk.put(index, whole, 0o600));

    let pack = index.with_file_name("content.pack");
    let mut bytes = leased.meddle(|machine| machine.disk.read(&pack).map(<[u8]>::to_vec)).unwrap();
    bytes[0] ^= 1;
    leased.meddle(|machine| machine.disk.put(&pack, &bytes, 0o600));
    assert!(matches!(bring_back(&leased, "w1"), Err(ImportError::Damaged { .. })));
    assert!(leased.is_bare(), "without its fence the agent's state is not taken for whole");
    bytes[0] ^= 1;
    leased.meddle(|machine| machine.disk.put(&pack, &bytes, 0o600));
    assert!(matches!(bring_back(&leased, "w1"), Ok(Imported::Back { .. })));
}

#[test]
fn a_new_system_without_the_versions_programs_is_named_and_goes_on_once_they_are_there() {
    let leased = bare();
    bring_back(&leased, "w1").unwrap();
    let mut leased = leased;
    let old = leased.meddle(|machine| {
        let kubelet = machine.packages.get_mut("kubelet").unwrap();
        std::mem::replace(&mut kubelet.version, "1.30.4-1.1".to_owned())
    });
    let step = leased.step("redeploy");
    let cx = leased.context(&step);
    let run = crate::steps::runner(&step).unwrap();
    let failed = leased.twin.drive(run.run(&cx, &serde_json::Value::Null)).done().unwrap();
    assert!(
        matches!(&failed, Err(StepFailure::Refused(why)) if why.contains("kubelet is v1.30.4")),
        "{failed:?}"
    );
    leased.meddle(|machine| machine.packages.get_mut("kubelet").unwrap().version = old);
    leased.carry_all();
}
