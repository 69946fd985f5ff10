//! Putting back what was sealed and changed. What was found instead is kept in the backup folder, so that nothing is
//! lost that somebody meant to write.

use std::collections::BTreeSet;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};

use super::compare::Difference;
use super::findings::{Cure, Finding, find};
use super::keep::Contents;
use super::manifest::Manifest;
use super::rules::Rules;
use crate::backup::Backup;
use crate::engine::context::Context;
use crate::engine::step::StepFailure;
use crate::host::trees::{Content, Kind, Place};
use crate::host::{ChunkSink, HostResult, NewFile};

/// Putting one name of a file back can show that another is to be linked to it.
const ROUNDS: usize = 3;

/// How many paths a failure names; the report names all.
const NAMED: usize = 20;

/// Puts back what can be, and fails naming what cannot. Nothing happens where nothing was sealed.
pub async fn restore(cx: &Context) -> Result<(), StepFailure> {
    let Some(backup) = Backup::find(cx).await? else { return Ok(()) };
    let Some(manifest) = Manifest::of(&cx.host, &backup).await? else { return Ok(()) };
    let rules = Rules::load(&cx.host).await?;
    let found = format!("found-{}", cx.host.clock.unix_ms());
    let aside = backup.folder.path().join(found);
    for _ in 0..ROUNDS {
        let findings = find(&cx.host, &cx.plan, &rules, &manifest).await?;
        if !findings.iter().any(Finding::is_curable) {
            return verdict(cx, &findings);
        }
        let repair =
            Repair { cx, manifest: &manifest, aside: &aside, contents: Contents::open(cx, &backup).await? };
        repair.all(&findings).await?;
    }
    verdict(cx, &find(&cx.host, &cx.plan, &rules, &manifest).await?)
}

/// Nothing left, or a failure that names what is.
fn verdict(cx: &Context, left: &[Finding]) -> Result<(), StepFailure> {
    if left.is_empty() {
        return Ok(());
    }
    for finding in left {
        tracing::error!(%finding, "a protected path changed and is not put back");
        cx.reporter.line(cx.step, &format!("changed under protection and not put back: {finding}"));
    }
    let named: Vec<String> = left.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match left.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more, which the agent's log names"),
    };
    Err(StepFailure::Unproven(format!(
        "protected paths of {} changed and cannot be put back: {}{more}. Put them right by hand, or, where something \
         else than the upgrade may write there, say so (`live PATH` or `except PATH` in /etc/liftlock/protect.d/*.conf on \
         {}), then `liftlock retry {}`",
        cx.node,
        named.join(", "),
        cx.node,
        cx.node
    )))
}

struct Repair<'a> {
    cx: &'a Context,
    manifest: &'a Manifest,
    /// Where goes what was found instead.
    aside: &'a Utf8Path,
    contents: Contents,
}

impl Repair<'_> {
    async fn all(&self, findings: &[Finding]) -> Result<(), StepFailure> {
        let mut folders = BTreeSet::new();
        for finding in findings.iter().filter(|finding| finding.is_curable()) {
            self.one(finding).await?;
            if let Some((folder, _)) = finding.place.path.split() {
                folders.insert((finding.place.root.clone(), folder));
            }
            if matches!(&finding.cure, Cure::Metadata(entry) if entry.kind == Kind::Folder) {
                folders.insert((finding.place.root.clone(), finding.place.path.clone()));
            }
        }
        // What was put in them has changed their times.
        for (root, path) in folders.into_iter().rev() {
            let tree =
                self.manifest.trees.iter().find(|tree| self.cx.host.layout.at(tree.path.as_str()) == root);
            if let Some(entry) = tree.and_then(|tree| tree.tree.entry(&path))
                && entry.kind == Kind::Folder
            {
                let place = Place { root, path };
                self.cx.host.trees.put_back(&self.cx.permit()?, &place, entry, Content::Present).await?;
            }
        }
        Ok(())
    }

    async fn one(&self, finding: &Finding) -> Result<(), StepFailure> {
        let (trees, place) = (&self.cx.host.trees, &finding.place);
        if finding.differences.contains(&Difference::Content) {
            self.keep_content(finding).await?;
        }
        if finding.differences.contains(&Difference::Type) {
            trees.set_aside(&self.cx.permit()?, place, &self.aside_of(finding)).await?;
        }
        match &finding.cure {
            Cure::Content(entry, hash, slice) => {
                let content = self.contents.get(*slice, *hash).ok_or_else(|| {
                    StepFailure::Unproven(format!(
                        "{} is not put back: its copy is damaged; put it back by hand",
                        finding.path
                    ))
                })?;
                trees.put_back(&self.cx.permit()?, place, entry, Content::Bytes(content)).await?;
            }
            Cure::Metadata(entry) => {
                trees.put_back(&self.cx.permit()?, place, entry, Content::Present).await?;
            }
            Cure::Link(first) => trees.link(&self.cx.permit()?, place, first).await?,
            Cure::Aside => trees.set_aside(&self.cx.permit()?, place, &self.aside_of(finding)).await?,
            Cure::Follows | Cure::None(_) => return Ok(()),
        }
        tracing::warn!(%finding, found = %self.aside, "a protected path changed and is put back");
        let line = format!("put back {finding}; what was found is kept in {}", self.aside);
        self.cx.reporter.line(self.cx.step, &line);
        Ok(())
    }

    fn aside_of(&self, finding: &Finding) -> Utf8PathBuf {
        self.aside.join(finding.path.as_str().trim_start_matches('/'))
    }

    /// Copies what is in a file now, before its place is taken.
    async fn keep_content(&self, finding: &Finding) -> HostResult<()> {
        let to = self.aside_of(finding);
        if let Some(folder) = to.parent() {
            self.cx.host.files.create_dir(&self.cx.permit()?, folder, 0o700).await?;
        }
        let mut copy = Copy { file: self.cx.host.files.create(&self.cx.permit()?, &to).await? };
        self.cx.host.trees.read(&finding.place, &mut copy).await?;
        copy.file.finish().await
    }
}

struct Copy {
    file: Box<dyn NewFile>,
}

#[async_trait]
impl ChunkSink for Copy {
    async fn chunk(&mut self, bytes: &[u8]) -> HostResult<()> {
        self.file.write(bytes).await
    }
}
