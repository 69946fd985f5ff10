# shellcheck shell=bash disable=SC2034
ABOUT="the only control plane fails at its drain, after kubeadm upgrade apply, and is put back: files, packages, kubeadm upgrade apply --force"
END="rolled back"

before() { unmanaged_pod cp1; }

# after: what an operator does who is asked
after() {
  liftlock rollback --node "${PREFIX}cp1"
  liftlock status --watch || true
  # kubeadm has changed it last, and the controllers need a moment.
  kubectl_ --namespace kube-system rollout status daemonset kube-proxy --timeout=120s
}

proof() {
  [ "$(undone cp1 kubeadm-upgrade-apply)" -ge 1 ] || echo "kubeadm upgrade apply was not undone"
  [ "$(leases_of cp1)" = 2 ] || echo "cp1 did not have one lease to raise it and one to roll it back"
}
