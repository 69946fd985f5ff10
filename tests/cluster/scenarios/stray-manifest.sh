# shellcheck shell=bash disable=SC2034
ABOUT="somebody left a copy of kube-scheduler's manifest beside it: the plan does not start before it is moved out"

before() {
  on cp1 cp /etc/kubernetes/manifests/kube-scheduler.yaml /etc/kubernetes/manifests/kube-scheduler.yaml.orig
  refused stray-manifest
  on cp1 rm /etc/kubernetes/manifests/kube-scheduler.yaml.orig
}
