# shellcheck shell=bash disable=SC2034
ABOUT="SIGKILL to the agent while its kubeadm upgrade apply runs: systemd starts it again, and it joins the kubeadm that runs on"

fault() {
  kubeadm_upgrades cp1 kubeadm-upgrade-apply
  on cp1 systemctl kill --signal KILL liftlock-agent
}

proof() {
  [ "$(lease_resumed cp1)" -ge 1 ] || echo "the lease was never taken up again"
  [ "$(leases_of cp1)" = 1 ] || echo "cp1 had more than its one lease"
  # The step is begun again and joins what runs; each run of kubeadm leaves one such folder.
  [ "$(on cp1 sh -c 'ls -d /etc/kubernetes/tmp/kubeadm-backup-manifests-* | wc -l')" = 1 ] || echo "kubeadm ran more than once"
}
