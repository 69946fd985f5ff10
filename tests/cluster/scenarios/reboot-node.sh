# shellcheck shell=bash disable=SC2034
ABOUT="the only control plane loses its power in the middle of kubeadm upgrade apply, and starts again"
# Requests through a node that is off are not answered.
APP_MAY_FAIL=yes

fault() {
  kubeadm_upgrades cp1 kubeadm-upgrade-apply
  docker kill "${PREFIX}cp1"
  docker start "${PREFIX}cp1"
}

proof() {
  [ "$(lease_resumed cp1)" -ge 1 ] || echo "the lease was never taken up again"
  [ "$(starts_of cp1 kubeadm-upgrade-apply)" -ge 2 ] || echo "kubeadm upgrade apply was not run again"
}
