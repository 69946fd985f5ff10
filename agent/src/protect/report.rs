//! What is protected on this node, and what is not as it was sealed, for an operator who asks. Changes nothing.

use liftlock_proto::name::NodeName;
use liftlock_proto::v1;

use super::class::Class;
use super::findings::{Cure, Finding, find};
use super::manifest::{Manifest, Protected};
use super::rules::{Rule, Rules};
use crate::backup::inventory::{Inventory, Stored};
use crate::backup::name::BackupName;
use crate::host::trees::Kind;
use crate::host::{Host, HostResult};

/// The newest manifest on this node, and the backup that it lies in.
struct Seal {
    backup: BackupName,
    manifest: Manifest,
}

impl Seal {
    /// `None` where no lease has sealed anything here. A manifest that does not read any more is an error: an older one
    /// would tell of changes that a later lease has seen already.
    async fn newest(host: &Host, node: &NodeName) -> HostResult<Option<Self>> {
        for Stored { name, folder, index, .. } in Inventory::take(host, node).await?.backups.into_iter().rev()
        {
            let Ok(index) = index else { continue };
            if let Some(manifest) = Manifest::read(host, &folder, &index).await? {
                return Ok(Some(Self { backup: name, manifest }));
            }
        }
        Ok(None)
    }

    fn message(&self) -> v1::Seal {
        v1::Seal {
            taken_at_ms: self.backup.taken_at_ms(),
            backup: self.backup.to_string(),
            plan_id: self.backup.plan.clone().into(),
        }
    }
}

/// Every protected path.
pub async fn show(host: &Host, node: &NodeName) -> HostResult<v1::ProtectedPaths> {
    let seal = Seal::newest(host, node).await?;
    let mut paths = Vec::new();
    for rule in Rules::load(host).await?.iter() {
        let exists = host.files.exists(&host.layout.at(rule.path.as_str())).await?;
        let sealed = seal.as_ref().and_then(|seal| seal.manifest.tree(&rule.path));
        paths.push(path(rule, exists, sealed));
    }
    Ok(v1::ProtectedPaths { paths, seal: seal.map(|seal| seal.message()) })
}

fn path(rule: &Rule, exists: bool, sealed: Option<&Protected>) -> v1::ProtectedPath {
    let content = sealed.filter(|sealed| {
        sealed.class.is_compared() && rule.class.is_compared() && sealed.tree.root.is_some()
    });
    let sizes = content.map(|sealed| {
        let entries = sealed.tree.entries();
        let files = entries.filter(|(_, entry)| matches!(entry.kind, Kind::File { .. }));
        files.fold((0, 0), |(files, bytes), (_, entry)| (files + 1, bytes + entry.stamp.size))
    });
    v1::ProtectedPath {
        path: rule.path.to_string(),
        class: rule.class.to_string(),
        source: rule.source.clone(),
        exists,
        files: sizes.map(|(files, _)| files),
        bytes: sizes.map(|(_, bytes)| bytes),
        copied: content.is_some_and(|sealed| sealed.kept),
    }
}

/// What is not as it was sealed last; `None` where nothing was.
pub async fn verify(host: &Host, node: &NodeName) -> HostResult<Option<v1::ProtectedPathsVerdict>> {
    let Some(seal) = Seal::newest(host, node).await? else {
        return Ok(None);
    };
    let rules = Rules::load(host).await?;
    let findings = find(host, &seal.backup.plan, &rules, &seal.manifest).await?;
    let compared =
        seal.manifest.trees.iter().filter(|tree| rules.class_of(&tree.path) != Some(Class::Except));
    Ok(Some(v1::ProtectedPathsVerdict {
        seal: Some(seal.message()),
        paths: u32::try_from(compared.count()).unwrap_or(u32::MAX),
        findings: findings.into_iter().map(Into::into).collect(),
    }))
}

impl From<Finding> for v1::ProtectedPathFinding {
    fn from(finding: Finding) -> Self {
        Self {
            differences: finding.differences.iter().map(ToString::to_string).collect(),
            curable: !matches!(finding.cure, Cure::None(_)),
            why_not: match finding.cure {
                Cure::None(why) => why.to_owned(),
                _ => String::new(),
            },
            path: finding.path.into_string(),
        }
    }
}
