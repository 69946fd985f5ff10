//! What a control plane tells of its add-ons.

use liftlock_proto::v1::{AddonFacts, AddonSet};

use super::set::{Set, names};
use crate::host::{Host, HostResult};

/// So many sets are told of: nobody goes that many versions at once.
const MOST: usize = 32;

/// The sets that lie here; `None` where there are none.
pub async fn facts(host: &Host) -> Option<AddonFacts> {
    match sets(host).await {
        Ok(sets) if sets.is_empty() => None,
        Ok(sets) => Some(AddonFacts { unread: String::new(), sets }),
        Err(error) => Some(AddonFacts { unread: error.to_string(), sets: Vec::new() }),
    }
}

async fn sets(host: &Host) -> HostResult<Vec<AddonSet>> {
    let mut sets = Vec::new();
    for name in names(host).await?.into_iter().rev().take(MOST) {
        let told = match Set::read(host, &name).await? {
            Ok(set) => AddonSet {
                name,
                digest: set.digest,
                objects: u32::try_from(set.manifests.len()).unwrap_or(u32::MAX),
                refusal: String::new(),
            },
            Err(refusal) => AddonSet { name, refusal, ..AddonSet::default() },
        };
        sets.push(told);
    }
    Ok(sets)
}
