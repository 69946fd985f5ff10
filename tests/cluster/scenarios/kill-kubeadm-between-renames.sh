# shellcheck shell=bash disable=SC2034
ABOUT="SIGKILL to kubeadm upgrade apply when the API server's manifest has gone and the new one is not there yet, on the only control plane"
fault() {
  kubeadm_upgrades cp1 kubeadm-upgrade-apply
  kill_between_renames cp1 kube-apiserver
}

proof() {
  [ "$(starts_of cp1 kubeadm-upgrade-apply)" -ge 2 ] || echo "kubeadm upgrade apply was not run again"
  [ "$(leases_of cp1)" = 1 ] || echo "cp1 had more than its one lease"
}
