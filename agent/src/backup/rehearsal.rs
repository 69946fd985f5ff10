//! Whether a snapshot of etcd could be restored: it is read as a database and, where the node has the tool for it,
//! restored into a scratch folder inside of its backup (0700), which is removed again.
//!
//! The tools come with etcd and are not on every node; in etcd's image they see nothing of the node's files but etcd's own.
//! Without one, the snapshot is read by [`bolt`] alone: its pages, trees and revisions are proven, and its counts,
//! but not that this etcd's own code restores it.

use std::time::Duration;

use camino::Utf8Path;
use liftlock_proto::argv;

use super::bolt::{self, Contents};
use super::{Folder, snapshot};
use crate::host::{Clearance, Host, HostError, HostResult, Limits, Lines, inspected};

/// The scratch folder in a backup.
pub const SCRATCH: &str = "rehearsal";
/// What the tool is asked for before it is trusted with anything.
const VERSION: Duration = Duration::from_secs(10);
/// A database of 8 GB, the most that etcd is made for, on a slow disk.
const RESTORE: Limits = Limits { time: Duration::from_mins(15), silence: Duration::from_mins(15) };

/// A snapshot that can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsal {
    /// What is in it.
    pub contents: Contents,
    /// `etcdctl 3.4.23`, or `liftlock`.
    pub with: String,
}

/// Rehearses the restore of a folder's snapshot. `etcd` is the version of the member that it was taken of, if that is
/// known: an older tool is not trusted with it. `unit` is what the tool runs as; `clear` is asked before the scratch
/// folder is removed.
pub async fn rehearse<C: Clearance>(
    host: &Host,
    folder: &Folder,
    etcd: Option<&str>,
    unit: &str,
    clear: impl Fn() -> HostResult<C>,
    lines: &dyn Lines,
) -> HostResult<Rehearsal> {
    let path = snapshot::path(folder);
    let contents = read(host, &path).await?;
    let Some(tool) = Tool::find(host, etcd).await else {
        return Ok(Rehearsal { contents, with: "liftlock".to_owned() });
    };
    let scratch = folder.path().join(SCRATCH);
    let restore = argv::etcd_rehearse(tool.program, path.as_str(), scratch.as_str());
    if host.files.exists(&scratch).await? {
        // One that an earlier agent left may still be at it: it is joined. A new one ends at once, because its folder
        // is there.
        if let Err(error) = host.commands.run_undisturbing(unit, &restore, RESTORE, lines).await {
            tracing::debug!(%error, "a rehearsal that was interrupted has ended");
        }
    }
    host.files.remove_tree(&clear()?, &scratch).await?;
    let restored = host.commands.run_undisturbing(unit, &restore, RESTORE, lines).await;
    let found = match restored {
        Ok(()) => read(host, &scratch.join("member/snap/db")).await,
        Err(error) => Err(error),
    };
    host.files.remove_tree(&clear()?, &scratch).await?;
    let found = found?;
    if found != contents {
        return Err(malformed(
            &path,
            &format!(
                "{} restores revision {} with {} keys out of it, and it holds revision {} with {}",
                tool.name(),
                found.revision,
                found.keys,
                contents.revision,
                contents.keys
            ),
        ));
    }
    Ok(Rehearsal { contents, with: tool.name() })
}

/// The program of this node that would restore a snapshot of this etcd, with its version.
pub async fn tool(host: &Host, etcd: Option<&str>) -> Option<String> {
    Tool::find(host, etcd).await.map(|tool| tool.name())
}

/// What a database holds, if it is a whole one.
async fn read(host: &Host, path: &Utf8Path) -> HostResult<Contents> {
    match inspected(host.files.as_ref(), path, bolt::contents).await? {
        None => Err(malformed(path, "it is not there")),
        Some(Err(why)) => Err(malformed(path, &format!("it cannot be restored: {why}"))),
        Some(Ok(contents)) => Ok(contents),
    }
}

fn malformed(path: &Utf8Path, why: &str) -> HostError {
    HostError::Malformed { what: format!("the snapshot of etcd {path}"), why: why.to_owned() }
}

/// A program of etcd's that restores snapshots.
struct Tool {
    program: &'static str,
    version: String,
}

impl Tool {
    /// etcdctl restores no snapshots from 3.6 on, and speaks another API before 3.4.
    async fn find(host: &Host, etcd: Option<&str>) -> Option<Self> {
        for (program, from, to) in [("etcdutl", 5, u32::MAX), ("etcdctl", 4, 5)] {
            let Ok(said) = host.commands.read(&argv::etcd_tool_version(program), VERSION).await else {
                continue;
            };
            let version =
                said.lines().find_map(|line| line.strip_prefix(program)?.strip_prefix(" version: "));
            let Some(version) = version.map(str::trim) else {
                continue;
            };
            let new_enough = |minor: u32| etcd.and_then(minor_of_3).is_none_or(|member| minor >= member);
            if minor_of_3(version).is_some_and(|minor| (from..=to).contains(&minor) && new_enough(minor)) {
                return Some(Self { program, version: version.to_owned() });
            }
            tracing::info!(program, version, ?etcd, "not the tool to restore a snapshot of this etcd with");
        }
        None
    }

    fn name(&self) -> String {
        format!("{} {}", self.program, self.version)
    }
}

/// 5 of `3.5.15`.
fn minor_of_3(version: &str) -> Option<u32> {
    let mut parts = version.split('.');
    (parts.next()? == "3").then(|| parts.next()?.parse().ok())?
}
