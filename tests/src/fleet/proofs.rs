//! What is checked at the end of a raise: each check looks at the nodes and the record, not at anyone's words, and
//! says in a sentence what it found.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use liftlock_proto::v1::HistoryEvent;
use liftlock_proto::version::KubernetesVersion;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::fleet::Fleet;
use crate::standin::cluster::Cluster;
use crate::standin::manifest::registry;
use crate::standin::packages::Dpkg;
use crate::standin::release::{Release, STATIC_PODS};

/// Every control-plane container, kubelet and package, and kubeadm-config, are at the version.
pub fn everything_runs(fleet: &Fleet, version: KubernetesVersion) -> Result<String> {
    let cluster = &fleet.cluster;
    let release = Release(version);
    let mut containers = 0;
    for machine in cluster.machines() {
        let node = &machine.facts.name;
        let kubelet = cluster.kubelet_version(node);
        ensure!(kubelet == version.to_string(), "{node}: its kubelet is at {kubelet}");
        let dpkg = Dpkg::read(&machine.tree)?;
        for package in dpkg.iter() {
            ensure!(
                package.version == release.package_version() && package.configured,
                "{node}: the package {} is at {}",
                package.name,
                package.version
            );
        }
        if !machine.facts.control_plane {
            continue;
        }
        let running = cluster.containers(node);
        for component in STATIC_PODS {
            let found: Vec<&str> = running
                .iter()
                .filter(|container| container.name == component)
                .map(|container| container.image.as_str())
                .collect();
            let [image] = found.as_slice() else {
                bail!("{node}: {} containers of {component} run", found.len());
            };
            let wanted = release.image(component, registry(image));
            ensure!(*image == wanted, "{node}: {component} runs {image}");
            containers += 1;
        }
    }
    let configured = cluster.kubeadm_config_version();
    ensure!(configured == version.to_string(), "kubeadm-config says {configured}");
    let kubelets = cluster.machines().count();
    Ok(format!(
        "{containers} control-plane containers and {kubelets} kubelets run {version}, and kubeadm-config says so"
    ))
}

/// Those nodes are cordoned and no others.
pub fn only_cordoned(fleet: &Fleet, cordoned: &[&str]) -> Result<String> {
    for node in fleet.nodes() {
        let (is, was) = (fleet.cluster.is_cordoned(&node), cordoned.contains(&node.as_str()));
        ensure!(is == was, "{node}: cordoned before: {was}, after: {is}");
        let trace = fleet.cluster.node(&node);
        let trace = trace.pointer("/metadata/annotations/liftlock.dev~1cordoned-by");
        ensure!(trace.is_none(), "{node}: still carries the mark of Liftlock's own cordon");
    }
    Ok(match cordoned {
        [] => "no node is cordoned".to_owned(),
        [node] => format!("{node}, cordoned before, is cordoned still; no other node is"),
        nodes => format!("{} were cordoned before and are still; no other node is", nodes.join(", ")),
    })
}

/// No node carries the taint of what is not raised yet, at once or shortly after: it goes when the roll-out has ended.
pub async fn nobody_is_marked(fleet: &Fleet) -> Result<()> {
    let limit = Duration::from_secs(30);
    let unmarked = |cluster: &Cluster| cluster.not_raised().is_empty();
    fleet.cluster.wait_for("the taint of what is not raised to go", limit, unmarked).await
}

/// Every package is held as it was.
pub fn holds_are_back(fleet: &Fleet) -> Result<String> {
    let mut count = 0;
    for machine in fleet.cluster.machines() {
        for package in Dpkg::read(&machine.tree)?.iter() {
            ensure!(package.held, "{}: {} is not held any more", machine.facts.name, package.name);
            count += 1;
        }
    }
    Ok(format!("{count} packages are held, as before"))
}

/// The backup folders of a node.
pub fn backups_of(fleet: &Fleet, node: &str) -> Result<Vec<Utf8PathBuf>> {
    let folder = fleet.cluster.machine(node)?.tree.at("/etc/kubernetes/tmp");
    let mut found = Vec::new();
    if !folder.exists() {
        return Ok(found);
    }
    for entry in folder.read_dir_utf8().with_context(|| format!("cannot list {folder}"))? {
        let entry = entry?;
        if entry.file_name().starts_with("liftlock-") {
            found.push(entry.into_path());
        }
    }
    found.sort();
    Ok(found)
}

/// Every node has one backup, private to root, whose index agrees with its files; and every control plane's has a
/// snapshot of etcd whose SHA-256 is the one that etcd sent.
pub fn backups_are_whole(fleet: &Fleet) -> Result<String> {
    let (mut files, mut snapshots) = (0, 0);
    for machine in fleet.cluster.machines() {
        let node = &machine.facts.name;
        // One that a rollback closed is kept beside the one of the raise that came after it.
        let mut backups = backups_of(fleet, node)?;
        backups.retain(|backup| !backup.join("closed").exists());
        let [backup] = backups.as_slice() else {
            bail!("{node} has {} backups: {backups:?}", backups.len());
        };
        files += backup_is_whole(backup, machine.facts.control_plane)?;
        snapshots += usize::from(machine.facts.control_plane);
    }
    Ok(format!(
        "{snapshots} etcd snapshots match the SHA-256 that etcd sent; {files} files of backups are root's alone"
    ))
}

/// A backup is private to root, its index agrees with its files, and its snapshot, if it has one, with itself; how
/// many files there are.
pub fn backup_is_whole(backup: &Utf8Path, has_snapshot: bool) -> Result<usize> {
    let files = private_files(backup)?;
    let index = backup.join("index.json");
    let text = fs::read(&index).with_context(|| format!("cannot read {index}"))?;
    indexed_files_are_there(backup, &serde_json::from_slice(&text)?)?;
    if has_snapshot {
        snapshot_is_true(&backup.join("etcd-snapshot.db"))?;
    }
    Ok(files)
}

/// A snapshot's last 32 bytes are the SHA-256 of all before.
pub fn snapshot_is_true(path: &Utf8Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let (content, digest) = bytes.split_last_chunk::<32>().with_context(|| format!("{path} is too short"))?;
    ensure!(content.len() % 512 == 0, "{path} is no whole number of pages");
    ensure!(Sha256::digest(content).as_slice() == digest, "{path} differs from its SHA-256");
    Ok(())
}

fn private_files(folder: &Utf8Path) -> Result<usize> {
    let mode = |path: &Utf8Path| -> Result<u32> { Ok(fs::metadata(path)?.permissions().mode() & 0o777) };
    ensure!(mode(folder)? == 0o700, "{folder} has mode {:o}", mode(folder)?);
    for file in ["index.json", "etcd-snapshot.db"].map(|file| folder.join(file)) {
        ensure!(!file.exists() || mode(&file)? == 0o600, "{file} has another mode than 0600");
    }
    let mut count = 0;
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in folder.read_dir_utf8()? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.into_path());
            } else {
                count += 1;
            }
        }
    }
    Ok(count)
}

fn indexed_files_are_there(backup: &Utf8Path, index: &Value) -> Result<()> {
    let entries =
        index.pointer("/index/entries").and_then(Value::as_array).context("the index lists no files")?;
    ensure!(!entries.is_empty(), "{backup}: the index is empty");
    for entry in entries {
        let path = backup.join(entry["path"].as_str().context("an entry without a path")?);
        let wanted =
            entry.pointer("/digest/sha256").and_then(Value::as_str).context("an entry without a digest")?;
        let content = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
        ensure!(crate::standin::packages::sha256(&content) == wanted, "{path} differs from the index");
    }
    Ok(())
}

/// How many leases were ever held at once, by the record.
pub fn most_leases_at_once(history: &[HistoryEvent]) -> usize {
    holders(history).iter().map(BTreeMap::len).max().unwrap_or_default()
}

/// Who held leases at once, each time that this changed, by the record: nodes by token.
pub fn holders(history: &[HistoryEvent]) -> Vec<BTreeMap<u64, String>> {
    let mut held = BTreeMap::new();
    let mut all = Vec::new();
    for event in history {
        match event.kind.as_str() {
            "lease-granted" => {
                held.insert(event.fencing_token, event.node.clone());
            }
            "lease-ended" | "lease-failed" => {
                held.remove(&event.fencing_token);
            }
            _ => continue,
        }
        all.push(held.clone());
    }
    all
}

/// Never two leases, and each with a higher token than all before it.
pub fn one_lease_at_a_time(history: &[HistoryEvent]) -> Result<String> {
    let tokens: Vec<u64> = history
        .iter()
        .filter(|event| event.kind == "lease-granted")
        .map(|event| event.fencing_token)
        .collect();
    ensure!(!tokens.is_empty(), "the record holds no lease");
    ensure!(tokens.is_sorted_by(|earlier, later| earlier < later), "the tokens do not rise: {tokens:?}");
    ensure!(history.is_sorted_by(|one, next| one.sequence + 1 == next.sequence), "the record has a gap");
    let most = most_leases_at_once(history);
    ensure!(most == 1, "{most} leases were held at once");
    Ok(format!("{} leases, never two at once, each with a higher token than all before it", tokens.len()))
}

/// How many leases each node had.
pub fn leases_by_node(history: &[HistoryEvent]) -> BTreeMap<String, Vec<u64>> {
    let mut leases: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in history.iter().filter(|event| event.kind == "lease-granted") {
        leases.entry(event.node.clone()).or_default().push(event.fencing_token);
    }
    leases
}
