# shellcheck shell=bash disable=SC2034
# Run again by hand, kubeadm upgrade node takes such a node for a worker, exits 0 and leaves it without an API server.
ABOUT="the same to kubeadm upgrade node on the second of three control planes, where the API is still there to be asked"
CONTROL_PLANES=3
# The drain comes while kube-proxy is being replaced, node by node; without it a node keeps leading to pods that have gone.
APP_MAY_FAIL=yes

fault() {
  kubeadm_upgrades cp2 kubeadm-upgrade-node
  kill_between_renames cp2 kube-apiserver
}

proof() {
  [ "$(starts_of cp2 kubeadm-upgrade-node)" -ge 2 ] || echo "kubeadm upgrade node was not run again"
  [ "$(leases_of cp2)" = 1 ] || echo "cp2 had more than its one lease"
}
