# shellcheck shell=bash disable=SC2034
ABOUT="a machine that has not joined takes a worker's place: it joins, the worker is drained and reset, and its Node goes"
CONTROL_PLANES=1 WORKERS=2 FRESH=w2
AT=$FROM
# Requests through a node that is not there any more are not answered.
APP_MAY_FAIL=yes

shown() { replace_ w1 w2 --dry-run; }
begun() { replace_ w1 w2 --yes; }

before() { liftlock nodes | grep "^${PREFIX}w2 .*not joined"; }

after() { echo w1 > "$STATE/gone"; }

proof() {
  has_no_node w1 || echo "the Node of w1 is still there"
  on w1 test ! -e /etc/kubernetes/kubelet.conf || echo "w1 was not reset"
  [ "$(on w1 systemctl is-active kubelet)" != active ] || echo "the kubelet of w1 runs"
  # The sandboxes are left: kubeadm has them ended by a crictl that these nodes have not got.
  ! containers w1 | grep --invert-match /pause: | grep --quiet . || echo "containers of the cluster run on w1"
  [ "$(leases_of w1) $(leases_of w2) $(leases_of cp1)" = "1 1 1" ] || echo "there were more leases than one a node"
  keeps_secrets
}
