# shellcheck shell=bash disable=SC2034
ABOUT="no CoreDNS becomes ready: the plan does not start; later, in the middle of kubeadm upgrade apply, kubeadm's silence is ended and explained"

# No pod that is not there yet finds a place; those that run stay.
no_place() { kubectl_ taint nodes --all --overwrite broken=yes:NoSchedule; }
place_again() { kubectl_ taint nodes --all broken-; }
dns_gone() { kubectl_ --namespace kube-system delete pods --selector k8s-app=kube-dns --wait=false; }
dns_ready() { kubectl_ --namespace kube-system rollout status deployment coredns --timeout=120s; }
dns_unready() { [ -z "$(kubectl_ --namespace kube-system get deployment coredns -o 'jsonpath={.status.readyReplicas}')" ]; }

before() {
  no_place
  dns_gone
  within 60 "CoreDNS to be gone" dns_unready
  refused coredns-unready
  place_again
  dns_ready
}

fault() {
  kubeadm_upgrades cp1 kubeadm-upgrade-apply
  # Its own checks want a place for a pod of theirs; once it makes manifests they have passed.
  within 120 "kubeadm's manifests" on cp1 sh -c 'ls -d /etc/kubernetes/tmp/kubeadm-upgraded-manifests*'
  within 300 "the API, while kubeadm replaces it" no_place
  within 300 "the API, while kubeadm replaces it" dns_gone
  # kubeadm may say nothing for six minutes before it is ended.
  within 900 "kubeadm's silence to be ended" was_said "CoreDNS (0 of"
  within 60 "the API" place_again
}

was_said() { liftlock history -o json | jq --exit-status --arg text "$1" 'any(.[]; .kind == "step-failed" and (.text | contains($text)))'; }

proof() { [ "$(starts_of cp1 kubeadm-upgrade-apply)" -ge 2 ] || echo "kubeadm upgrade apply was not run again"; }
