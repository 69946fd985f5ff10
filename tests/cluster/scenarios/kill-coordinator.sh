# shellcheck shell=bash disable=SC2034
ABOUT="SIGKILL to the coordinator in the middle of kubeadm upgrade apply, and its start ten seconds later"
FOLLOW_ON=yes

fault() {
  kubeadm_upgrades cp1 kubeadm-upgrade-apply
  docker kill "${PREFIX}coordinator"
  # As long as an operator or systemd may take; nothing is waited for here.
  sleep 10
  docker start "${PREFIX}coordinator"
}

proof() {
  [ "$(lease_resumed cp1)" -ge 1 ] || echo "the lease was never taken up again"
  [ "$(leases_of cp1)" = 1 ] || echo "cp1 had more than its one lease"
}
