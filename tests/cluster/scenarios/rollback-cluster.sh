# shellcheck shell=bash disable=SC2034
ABOUT="the worker fails for good at its drain, and the plan's policy puts the whole cluster back, the worker first"
END="rolled back"
ON_FAILURE=roll-back-cluster

before() { unmanaged_pod w1; }

# kubeadm has changed it last, and the controllers need a moment.
after() { kubectl_ --namespace kube-system rollout status daemonset kube-proxy --timeout=120s; }

proof() {
  [ "$(undone cp1 kubeadm-upgrade-apply)" -ge 1 ] || echo "kubeadm upgrade apply was not undone"
  [ "$(leases_of cp1)" = 2 ] || echo "cp1 did not have one lease to raise it and one to roll it back"
  [ "$(leases_of w1)" = 2 ] || echo "w1 did not have one lease to raise it and one to roll it back"
}
