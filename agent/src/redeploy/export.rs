//! Everything that the node keeps, written to the store. Nothing must write to it meanwhile: a file that changes while
//! it is read is an error.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry::Vacant;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use super::index::{self, Exported, Index, PACK};
use super::kept;
use super::replacement::Replacement;
use super::store::Export;
use crate::engine::context::Context;
use crate::engine::step::StepFailure;
use crate::host::HostError;
use crate::host::trees::{Depth, Kind, Name, Place, Survey, Tree};
use crate::protect::pack::Pack;
use crate::protect::rules::{REDEPLOY, Rules};

/// The agent's configuration with what it protects, and Jelastic's list.
const OURS: [&str; 2] = ["/etc/liftlock", REDEPLOY];

/// Room that is left beside the contents for the index, in bytes.
const MARGIN: u64 = 64 << 20;

/// Exports every protected path whatever its class, and the agent's own state and configuration.
pub async fn export(cx: &Context, replacement: &Replacement) -> Result<Export, StepFailure> {
    let store = replacement.store(&cx.host.layout);
    let export = Export::of(&store, &cx.node, cx.lease.token());
    let mut index = Index::new(cx.node.clone(), cx.plan.clone(), cx.lease.token());
    look(cx, replacement, &mut index).await?;
    require_space(cx, &store, &index).await?;
    cx.host.files.remove_tree(&cx.permit()?, &export.folder).await?;
    cx.host.files.create_dir(&cx.permit()?, &export.folder, 0o700).await?;
    let file = cx.host.files.create(&cx.permit()?, &export.folder.join(PACK)).await?;
    let mut pack = Pack::new(file);
    for exported in &index.trees {
        let root = cx.host.layout.at(exported.path.as_str());
        for (path, entry) in exported.tree.entries() {
            let Kind::File { blake3: Some(hash), .. } = entry.kind else { continue };
            if let Vacant(missing) = index.contents.entry(hash) {
                let place = Place { root: root.clone(), path };
                cx.permit()?;
                let slice = pack.add(cx, &place, hash).await?.ok_or_else(|| {
                    StepFailure::Unproven(format!(
                        "{} changes while it is being exported: stop what writes there",
                        place.display()
                    ))
                })?;
                missing.insert(slice);
            }
        }
    }
    pack.finish().await?;
    let path = export.folder.join(index::NAME);
    let json = index
        .sealed()
        .map_err(|error| HostError::Malformed { what: path.to_string(), why: error.to_string() })?;
    cx.host.files.write(&cx.permit()?, &path, &json, 0o600).await?;
    Ok(export)
}

/// Looks at everything that is to be exported.
async fn look(cx: &Context, replacement: &Replacement, index: &mut Index) -> Result<(), StepFailure> {
    let (host, layout) = (&cx.host, &cx.host.layout);
    let rules = Rules::load(host).await?;
    let kept = replacement.keeps.iter().filter(|kept| rules.iter().any(|rule| kept.starts_with(&rule.path)));
    let protected = rules.iter().map(|rule| &rule.path).chain(kept).map(Utf8PathBuf::as_path);
    let paths: BTreeSet<&Utf8Path> = protected.chain(OURS.map(Utf8Path::new)).collect();
    let mut above = BTreeSet::new();
    for path in paths {
        if replacement.outlives(host, path).await? {
            if kept::is_there(host, path).await? {
                index.kept.push(path.to_owned());
            }
            continue;
        }
        if index.trees.iter().any(|exported| holds(exported, path)) {
            continue;
        }
        let leave_out = replacement.keeps.iter().chain([&replacement.store]);
        let leave_out = leave_out.filter_map(|kept| Some(Name::from(kept.strip_prefix(path).ok()?.as_str())));
        let (at, leave_out) = (layout.at(path.as_str()), leave_out.collect());
        let survey = Survey { path: at, depth: Depth::Whole, leave_out, known: None };
        let tree = host.trees.survey(survey).await?;
        if tree.root.is_some() {
            above.extend(path.ancestors().skip(1).map(Utf8Path::to_owned));
            index.trees.push(Exported { path: path.to_owned(), tree: Arc::new(tree) });
        }
    }
    for folder in above.into_iter().filter(|folder| folder.parent().is_some()) {
        if let Some(entry) = host.trees.survey(Survey::at(layout.at(folder.as_str()))).await?.root {
            index.above.push((folder, entry));
        }
    }
    Ok(())
}

/// Whether a path was seen with a tree that it lies in. What is beyond a mount was not.
fn holds(exported: &Exported, path: &Utf8Path) -> bool {
    let seen =
        |tree: &Tree, path: &Name| tree.entry(path).is_some_and(|entry| entry.kind != Kind::MountPoint);
    path.strip_prefix(&exported.path).is_ok_and(|below| seen(&exported.tree, &below.as_str().into()))
}

async fn require_space(cx: &Context, store: &Utf8Path, index: &Index) -> Result<(), StepFailure> {
    let (need, free) = (index.size() + MARGIN, cx.host.files.space(store).await?.free);
    if free >= need {
        return Ok(());
    }
    let mut largest: Vec<(u64, &Utf8PathBuf)> =
        index.trees.iter().map(|exported| (exported.tree.size(), &exported.path)).collect();
    largest.sort_unstable_by(|a, b| b.cmp(a));
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let largest: Vec<String> =
        largest.iter().take(3).map(|(size, path)| format!("{path} {} MiB", mebibytes(*size))).collect();
    Err(StepFailure::Refused(format!(
        "the export needs {} MiB in {store}, and {} MiB are free there (the largest are {}): make room, or mount those on \
         file systems that outlive the system and name them in `keeps`, then `liftlock retry {}`",
        mebibytes(need),
        mebibytes(free),
        largest.join(", "),
        cx.node
    )))
}
