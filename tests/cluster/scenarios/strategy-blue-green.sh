# shellcheck shell=bash disable=SC2034
ABOUT="a whole plan with strategy blue-green: a machine joins and takes the worker's pods, is looked at, and then the worker leaves"
CONTROL_PLANES=1 WORKERS=2 FRESH=w2
POLICY=(--strategy blue-green --soak 30s --ignore-preflight-errors Swap)
# Requests through a node that is not there any more are not answered.
APP_MAY_FAIL=yes

before() { liftlock nodes | grep "^${PREFIX}w2 .*not joined" || die "w2 has joined already"; }

fault() {
  within 900 "the new node to be looked at" status_says "the new nodes are looked at"
  # The old one is still there then, closed and empty.
  kubectl_ get node "${PREFIX}w1" -o json | jq --exit-status .spec.unschedulable
}

status_says() { liftlock status -o json | jq --raw-output .reason | grep "$1"; }

after() { echo w1 > "$STATE/gone"; }

proof() {
  has_no_node w1 || echo "the Node of w1 is still there"
  on w1 test ! -e /etc/kubernetes/kubelet.conf || echo "w1 was not reset"
  [ "$(leases_of cp1) $(leases_of w1) $(leases_of w2)" = "3 2 1" ] || echo "there were other leases than one for each part"
  ! kubectl_ get nodes -o json | grep --quiet liftlock.dev/not-raised || echo "a node carries the taint of those that are not raised"
  keeps_secrets
}
