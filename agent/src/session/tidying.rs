//! Housekeeping once a roll-out has raised every node: what no raise and no way back needs any more goes.

use crate::backup::inventory::Inventory;
use crate::backup::prune::{Wish, prune};
use crate::engine::idle::Idle;
use crate::engine::recovery::Journals;
use crate::packages::surplus;
use crate::redeploy::store;
use crate::session::Workplace;

/// Backups first: what they need stays. Whatever cannot be removed is left for the next time.
pub(crate) async fn tidy(place: &Workplace, journals: &Journals, idle: &Idle) {
    let Workplace { host, node, retention, .. } = place;
    let wish = Wish { retention: *retention, kubeadm_leftovers: false, dry_run: false };
    if let Err(error) = prune(host, node, idle, wish).await {
        tracing::warn!(%error, "backups that are not kept any more could not be removed");
    }
    if let Err(error) = surplus::remove(host, node, idle).await {
        tracing::warn!(%error, "packages that nobody needs any more could not be removed");
    }
    if let Err(error) = store::tidy(host, node, idle).await {
        tracing::warn!(%error, "exports that nobody needs any more could not be removed");
    }
    match Inventory::take(host, node).await {
        Ok(Inventory { backups, .. }) => {
            let plans = backups.into_iter().map(|backup| backup.name.plan).collect();
            if let Err(error) = journals.prune(idle, &plans) {
                tracing::warn!(%error, "journals that nobody needs any more could not be removed");
            }
        }
        Err(error) => tracing::warn!(%error, "no journal is removed: nobody knows which ones backups need"),
    }
}
