//! The cluster's controllers: they start elsewhere what is evicted here, and keep Services pointing at what runs.

use std::time::Duration;

use liftlock_proto::kube_proxy::FEW_NODES;

use super::static_pods;
use crate::engine::context::{Context, TimeSpent};
use crate::engine::step::StepFailure;
use crate::host::PodState;

/// How long a controller-manager that leads takes to show it: it renews its Lease every 2 s (`--leader-elect-retry-period`).
const AT_ONCE: Duration = Duration::from_secs(5);

/// How long the controllers may be without a leader: 15 s until the Lease of one that was stopped runs out
/// (`--leader-elect-lease-duration`), then its successor's start.
const LIMIT: Duration = Duration::from_mins(2);

/// Waits until a controller-manager leads. A pod that goes while none does is still what its Service points at. Only a
/// control plane may ask, and only there may the leader have been stopped; a worker's lease begins after that wait.
pub(super) async fn wait_until_led(cx: &Context) -> Result<(), StepFailure> {
    if static_pods::are_here(cx).await? {
        let led = cx.host.kube.wait_for_controllers(LIMIT);
        cx.timed(TimeSpent::Wait, led).await?;
    }
    Ok(())
}

/// What [`FEW_NODES`] is where only pods of kube-system go, as on most control planes: there is another one of each that matters,
/// and a client of the cluster's DNS asks again.
const FEW_NODES_WITHOUT_APPS: u32 = 3;

/// A kubelet of 1.20 may need a minute for each kube-proxy, until its next garbage collection of sandboxes.
const KUBE_PROXY: Duration = Duration::from_mins(1);

/// Up to how many nodes kube-proxies are waited for before these pods go, and how long.
fn patience(going: &[PodState]) -> (u32, Duration) {
    let apps = going.iter().any(|pod| pod.namespace != "kube-system");
    let few = if apps { FEW_NODES } else { FEW_NODES_WITHOUT_APPS };
    (few, KUBE_PROXY * (few + 1))
}

/// Waits until Services follow pods that go: a controller-manager leads, and `kubeadm upgrade apply`'s new kube-proxies,
/// which the controllers put in the place of the old ones, are there. A node without one keeps leading to pods that have gone.
/// Only a control plane may ask; no worker is begun before (gate `kube-proxy-rolling`).
pub(super) async fn wait_until_services_follow(cx: &Context, going: &[PodState]) -> Result<(), StepFailure> {
    wait_until_led(cx).await?;
    if static_pods::are_here(cx).await? {
        let (few, limit) = patience(going);
        let there = cx.host.kube.wait_for_kube_proxies(few, limit);
        if !cx.timed(TimeSpent::Wait, there).await? {
            cx.reporter
                .line(cx.step, "the new kube-proxies are not all there yet; pods are evicted all the same");
        }
    }
    Ok(())
}

/// Whether a controller-manager leads, as far as this node may ask.
pub(super) async fn are_led(cx: &Context) -> Result<bool, StepFailure> {
    if static_pods::are_here(cx).await? {
        let led = cx.host.kube.wait_for_controllers(AT_ONCE);
        return Ok(cx.timed(TimeSpent::Wait, led).await.is_ok());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_go_only_once_every_node_leads_to_where_they_are_then_in_clusters_of_up_to_ten_nodes() {
        let pod = |namespace: &str| PodState { namespace: namespace.to_owned(), ..PodState::default() };
        assert_eq!(patience(&[pod("kube-system")]), (3, Duration::from_mins(4)));
        assert_eq!(patience(&[pod("kube-system"), pod("shop")]), (10, Duration::from_mins(11)));
    }
}
