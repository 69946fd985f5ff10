# shellcheck shell=bash disable=SC2034
ABOUT="a flag was added to kube-scheduler's manifest by hand: the plan does not start before its loss is accepted by name"
ACCEPT=(drift)

before() {
  on cp1 sed -i 's/^    - kube-scheduler$/&\n    - --profiling=false/' /etc/kubernetes/manifests/kube-scheduler.yaml
  refused drift
}

proof() {
  ! on cp1 grep -q -- --profiling=false /etc/kubernetes/manifests/kube-scheduler.yaml || echo "kubeadm kept the flag"
  on cp1 sh -c 'grep -q -- --profiling=false /etc/kubernetes/tmp/liftlock-*/files/etc/kubernetes/manifests/kube-scheduler.yaml' ||
    echo "what was lost is not in the backup"
}
