//! What runs in kube-system.

use liftlock_proto::kube_proxy::FEW_NODES;

use super::{Consent, Finding, Gate, Look, When};
use crate::core::view::{Replicas, Workload};

/// kubeadm waits for the Deployment until its time limit, without a word (seen on a real cluster).
pub(super) static COREDNS_UNREADY: Gate = Gate {
    name: "coredns-unready",
    about: "a pod of CoreDNS is ready: kubeadm would wait for one without a word",
    consent: Consent::Never,
    when: When::Between,
    look: Look::Cluster(|_, cluster| {
        let dns = match &cluster.dns {
            Err(why) => return vec![Finding::unknown("whether a pod of CoreDNS is ready", why)],
            Ok(dns) => dns.filter(|dns| dns.ready == 0),
        };
        let found = dns.map(|dns| missing(dns, "kubeadm upgrade apply waits for one and does not say so"));
        found.into_iter().collect()
    }),
};

/// The Deployment may be down to its last pod.
pub(super) static COREDNS_DEGRADED: Gate = Gate {
    name: "coredns-degraded",
    about: "all of CoreDNS's pods are ready",
    consent: Consent::Always,
    when: When::Before,
    look: Look::Cluster(|_, cluster| {
        // Where nobody knows, the gate before this one is closed.
        let dns = cluster.dns.as_ref().ok().copied().flatten();
        let some_ready = dns.filter(|dns| dns.ready > 0 && dns.ready < dns.wanted);
        let found = some_ready.map(|dns| missing(dns, "a drain may take the last one away for a moment"));
        found.into_iter().collect()
    }),
};

fn missing(Replicas { wanted, ready }: Replicas, consequence: &str) -> Finding {
    Finding::closed(format!(
        "{ready} of {wanted} CoreDNS pods are ready: {consequence}; `kubectl -n kube-system get pods -l k8s-app=kube-dns` \
         says why"
    ))
}

/// What is not well before an upgrade is not better after it, and somebody would look for the cause in the upgrade.
pub(super) static PODS: Gate = Gate {
    name: "system-pods",
    about: "the Deployments and DaemonSets of kube-system have all their pods, ready and of the present template",
    consent: Consent::Always,
    when: When::Before,
    look: Look::Cluster(|_, cluster| match &cluster.findings.unready_workloads {
        Err(why) => vec![Finding::unknown("whether the pods of kube-system are ready", why)],
        Ok(unready) if unready.is_empty() => Vec::new(),
        Ok(unready) => {
            let told = |Workload { name, pods: Replicas { wanted, ready } }: &Workload| {
                format!("{name} ({ready} of {wanted})")
            };
            let told: Vec<String> = unready.iter().map(told).collect();
            vec![Finding::closed(format!(
                "pods of kube-system are not ready: {}; mend them first, `kubectl -n kube-system get pods -o wide` says \
                 which",
                told.join(", ")
            ))]
        }
    }),
};

/// `kubeadm upgrade apply` changes the `DaemonSet`'s template on the first control plane, and the controllers replace its
/// pods one by one. On a node that stands between two of them, Services lead to where pods were before, and a worker's
/// drain is what moves pods.
pub(super) static KUBE_PROXIES: Gate = Gate {
    name: "kube-proxy-rolling",
    about: "in a cluster of at most 10 nodes each has the kube-proxy that its DaemonSet asks for",
    consent: Consent::Always,
    when: When::BeforeWorkers,
    look: Look::Cluster(|situation, cluster| {
        let why = "whether every node has its kube-proxy";
        let unready = match &cluster.findings.unready_workloads {
            Err(unsaid) => return vec![Finding::unknown(why, unsaid)],
            Ok(unready) => unready,
        };
        let proxies = unready.iter().filter(|workload| workload.name == "DaemonSet kube-proxy");
        // Nodes that are away run no pods to which a Service could lead, nor for which it could lead anywhere.
        let away = u32::try_from(situation.nodes().filter(|node| node.excused).count()).unwrap_or(u32::MAX);
        let elsewhere = |pods: Replicas| pods.wanted.saturating_sub(pods.ready) > away;
        let few = proxies.filter(|workload| workload.pods.wanted <= FEW_NODES && elsewhere(workload.pods));
        few.map(|Workload { pods: Replicas { wanted, ready }, .. }| {
            Finding::closed(format!(
                "{ready} of {wanted} nodes have the kube-proxy that its DaemonSet asks for: on the others Services may lead to \
                 pods that a drain has moved; `kubectl -n kube-system rollout status daemonset kube-proxy` waits for them"
            ))
        })
        .collect()
    }),
};
