# shellcheck shell=bash disable=SC2034
ABOUT="for a minute, twice as long as a lease lasts, nothing passes between the agent and the coordinator while kubeadm upgrade apply runs"

wall() { on cp1 iptables "$1" OUTPUT --protocol tcp --dport 7443 --jump DROP; }

fault() {
  kubeadm_upgrades cp1 kubeadm-upgrade-apply
  wall --insert
  sleep 60
  wall --delete
}

proof() {
  [ "$(lease_resumed cp1)" -ge 1 ] || echo "the lease was never taken up again"
  [ "$(leases_of cp1)" = 1 ] || echo "cp1 had more than its one lease"
}
