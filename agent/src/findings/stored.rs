//! Kinds that some minor takes away for good, as far as objects of them are stored.

use liftlock_proto::v1::{StoredFacts, StoredKind};

use super::told;
use crate::host::{Host, HostResult};

/// Every such kind, and where its objects are while they can be reached: under the versions that were served last. The
/// coordinator's table of minors says which minor takes each away, and why.
pub const VANISHING: [(&str, &[&str]); 8] = [
    ("podpresets.settings.k8s.io", &["/apis/settings.k8s.io/v1alpha1/podpresets"]),
    ("podsecuritypolicies.policy", &["/apis/policy/v1beta1/podsecuritypolicies"]),
    ("podschedulings.resource.k8s.io", &["/apis/resource.k8s.io/v1alpha1/podschedulings"]),
    ("clustercidrs.networking.k8s.io", &["/apis/networking.k8s.io/v1alpha1/clustercidrs"]),
    ("resourceclaimparameters.resource.k8s.io", &["/apis/resource.k8s.io/v1alpha2/resourceclaimparameters"]),
    ("resourceclasses.resource.k8s.io", &["/apis/resource.k8s.io/v1alpha2/resourceclasses"]),
    ("resourceclassparameters.resource.k8s.io", &["/apis/resource.k8s.io/v1alpha2/resourceclassparameters"]),
    (
        "podschedulingcontexts.resource.k8s.io",
        &[
            "/apis/resource.k8s.io/v1alpha2/podschedulingcontexts",
            "/apis/resource.k8s.io/v1alpha3/podschedulingcontexts",
        ],
    ),
];

/// Those of which objects are stored.
pub async fn stored(host: &Host) -> StoredFacts {
    told(
        count(host).await,
        |kinds| StoredFacts { unread: String::new(), kinds },
        |unread| StoredFacts { unread, ..StoredFacts::default() },
    )
}

async fn count(host: &Host) -> HostResult<Vec<StoredKind>> {
    let mut kinds = Vec::new();
    for (kind, collections) in VANISHING {
        // One object has one version stored and is listed under every one that is served.
        let mut objects = 0;
        for collection in collections {
            objects = host.kube.stored_objects(collection).await?.max(objects);
        }
        if objects > 0 {
            kinds.push(StoredKind { kind: kind.to_owned(), objects });
        }
    }
    Ok(kinds)
}
