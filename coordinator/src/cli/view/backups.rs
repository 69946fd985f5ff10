//! What a node keeps of itself, whether it is whole, and what was removed of it.

use std::fmt::Write as _;

use jiff::Timestamp;
use liftlock_proto::name::NodeName;
use liftlock_proto::v1;
use serde::Serialize;

use crate::cli::output::View;
use crate::cli::paint::{Paint, Tone};
use crate::cli::table::{Cell, Table};
use crate::cli::time::{clock, moment};
use crate::cli::view::said;

/// The backups of a node, oldest first, and kubeadm's folders beside them.
#[derive(Debug, Serialize)]
pub struct BackupsView {
    /// Whose.
    pub node: String,
    /// Oldest first.
    pub backups: Vec<BackupView>,
    /// What kubeadm left in the same folder.
    pub kubeadm_leftovers: Vec<LeftoverView>,
    /// In all of kubeadm's folders.
    pub kubeadm_leftovers_bytes: u64,
}

/// One backup.
#[derive(Debug, Serialize)]
pub struct BackupView {
    /// The folder's name in /etc/kubernetes/tmp.
    pub name: String,
    /// The plan before whose first change it was taken.
    pub plan: String,
    /// When it was begun.
    pub taken_at: Option<Timestamp>,
    /// In all of its files.
    pub bytes: u64,
    /// What its index names.
    pub files: u32,
    /// It holds a snapshot of etcd.
    pub etcd_snapshot: bool,
    /// It was finished and its index reads. `verify` reads the rest.
    pub whole: bool,
    /// The node was put back from it.
    pub closed: bool,
    /// What is wrong with its index.
    pub flaw: Option<String>,
}

/// A folder of kubeadm's.
#[derive(Debug, Serialize)]
pub struct LeftoverView {
    /// The folder's name.
    pub name: String,
    /// In all of its files.
    pub bytes: u64,
}

/// What reading backups anew found.
#[derive(Debug, Serialize)]
pub struct VerdictsView {
    /// Whose.
    pub node: String,
    /// Oldest first.
    pub backups: Vec<VerdictView>,
}

/// What reading one backup anew found.
#[derive(Debug, Serialize)]
pub struct VerdictView {
    /// The folder's name.
    pub name: String,
    /// When it was begun.
    pub taken_at: Option<Timestamp>,
    /// Nothing was found.
    pub whole: bool,
    /// Files that were read.
    pub files: u32,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is damaged, missing or foreign.
    pub findings: Vec<String>,
}

/// What was removed, or would be.
#[derive(Debug, Serialize)]
pub struct PrunedView {
    /// Whose.
    pub node: String,
    /// Nothing was removed.
    pub dry_run: bool,
    /// What went or would go.
    pub pruned: Vec<PrunedBackupView>,
    /// In all of it.
    pub bytes: u64,
    /// Backups that stay.
    pub kept: u32,
}

/// One folder that goes.
#[derive(Debug, Serialize)]
pub struct PrunedBackupView {
    /// The folder's name.
    pub name: String,
    /// In all of its files.
    pub bytes: u64,
    /// Which limit it exceeded.
    pub reason: String,
}

/// `4.2 MiB`
pub fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in units {
        if bytes >> shift > 0 {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

fn folders(count: usize) -> String {
    if count == 1 { "1 folder".to_owned() } else { format!("{count} folders") }
}

impl BackupsView {
    /// Of an agent's answer.
    pub fn new(node: &NodeName, message: v1::Backups) -> Self {
        let leftovers: Vec<LeftoverView> = message
            .leftovers
            .into_iter()
            .map(|leftover| LeftoverView { name: leftover.name, bytes: leftover.bytes })
            .collect();
        Self {
            node: node.to_string(),
            backups: message.backups.into_iter().map(Into::into).collect(),
            kubeadm_leftovers_bytes: leftovers.iter().map(|leftover| leftover.bytes).sum(),
            kubeadm_leftovers: leftovers,
        }
    }
}

impl From<v1::BackupEntry> for BackupView {
    fn from(entry: v1::BackupEntry) -> Self {
        Self {
            name: entry.name,
            plan: entry.plan_id,
            taken_at: moment(entry.taken_at_ms),
            bytes: entry.bytes,
            files: entry.files,
            etcd_snapshot: entry.etcd_snapshot,
            whole: entry.whole,
            closed: entry.closed,
            flaw: said(entry.flaw),
        }
    }
}

impl View for BackupsView {
    fn table(&self, paint: Paint) -> String {
        let mut text = String::new();
        if self.backups.is_empty() {
            let _ =
                writeln!(text, "{} has no backup yet: a lease takes one before its first change.", self.node);
        } else {
            let mut table = Table::new(&["BACKUP", "TAKEN", "SIZE", "FILES", "ETCD", "STATE"]);
            for backup in &self.backups {
                let state = match (&backup.flaw, backup.closed) {
                    (Some(_), _) => Cell::new(Tone::Bad, "not whole"),
                    (None, true) => Cell::new(Tone::Faint, "whole, node put back"),
                    (None, false) => Cell::new(Tone::Good, "whole"),
                };
                table.row(vec![
                    Cell::plain(&backup.name),
                    Cell::plain(clock(backup.taken_at)),
                    Cell::plain(size(backup.bytes)),
                    Cell::plain(backup.files.to_string()),
                    Cell::plain(if backup.etcd_snapshot { "snapshot" } else { "" }),
                    state,
                ]);
            }
            text += &table.render(paint);
            for (name, flaw) in
                self.backups.iter().filter_map(|backup| Some((&backup.name, backup.flaw.as_ref()?)))
            {
                let _ = writeln!(text, "{} {flaw}", paint.paint(Tone::Bad, &format!("{name}:")));
            }
        }
        if !self.kubeadm_leftovers.is_empty() {
            let _ = writeln!(
                text,
                "kubeadm left {} with {} here; `liftlock backups prune {} --kubeadm-leftovers` removes them.",
                folders(self.kubeadm_leftovers.len()),
                size(self.kubeadm_leftovers_bytes),
                self.node
            );
        }
        text
    }
}

impl VerdictsView {
    /// Of an agent's answer.
    pub fn new(node: &NodeName, message: v1::BackupVerdicts) -> Self {
        Self { node: node.to_string(), backups: message.verdicts.into_iter().map(Into::into).collect() }
    }

    /// Whether nothing was found in any.
    pub fn all_whole(&self) -> bool {
        self.backups.iter().all(|backup| backup.whole)
    }
}

impl From<v1::BackupVerdict> for VerdictView {
    fn from(verdict: v1::BackupVerdict) -> Self {
        Self {
            name: verdict.name,
            taken_at: moment(verdict.taken_at_ms),
            whole: verdict.findings.is_empty(),
            files: verdict.files,
            bytes: verdict.bytes,
            findings: verdict.findings,
        }
    }
}

impl View for VerdictsView {
    fn table(&self, paint: Paint) -> String {
        if self.backups.is_empty() {
            return format!("{} has no backup to verify.\n", self.node);
        }
        let mut text = String::new();
        for backup in &self.backups {
            let state = if backup.whole {
                paint.paint(Tone::Good, "whole")
            } else {
                paint.paint(Tone::Bad, "damaged")
            };
            let read = size(backup.bytes);
            let _ = writeln!(text, "{}: {state}, {} files with {read} read", backup.name, backup.files);
            for finding in &backup.findings {
                let _ = writeln!(text, "  {finding}");
            }
        }
        text
    }
}

impl PrunedView {
    /// Of an agent's answer.
    pub fn new(node: &NodeName, message: v1::PrunedBackups) -> Self {
        let pruned: Vec<PrunedBackupView> = message
            .pruned
            .into_iter()
            .map(|pruned| PrunedBackupView { name: pruned.name, bytes: pruned.bytes, reason: pruned.reason })
            .collect();
        Self {
            node: node.to_string(),
            dry_run: message.dry_run,
            bytes: pruned.iter().map(|pruned| pruned.bytes).sum(),
            pruned,
            kept: message.kept,
        }
    }

    /// `3 folders with 4.2 MiB`
    pub fn count(&self) -> String {
        format!("{} with {}", folders(self.pruned.len()), size(self.bytes))
    }
}

impl View for PrunedView {
    fn table(&self, paint: Paint) -> String {
        let stay = match self.kept {
            1 => "1 backup stays".to_owned(),
            kept => format!("{kept} backups stay"),
        };
        if self.pruned.is_empty() {
            return format!("Nothing to remove on {}: {stay}.\n", self.node);
        }
        let mut table = Table::new(&[if self.dry_run { "WOULD GO" } else { "REMOVED" }, "SIZE", "WHY"]);
        for pruned in &self.pruned {
            table.row(vec![
                Cell::plain(&pruned.name),
                Cell::plain(size(pruned.bytes)),
                Cell::plain(&pruned.reason),
            ]);
        }
        format!("{}{}; {stay}.\n", table.render(paint), self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_one_digit_after_the_point_and_the_largest_unit() {
        let sizes = [0, 1023, 1024, 1536, 4_404_020, 5 << 30, u64::MAX].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "4.2 MiB", "5.0 GiB", "16777215.9 TiB"]);
    }
}
