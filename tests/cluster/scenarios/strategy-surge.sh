# shellcheck shell=bash disable=SC2034
ABOUT="a whole plan with strategy surge: the control plane is raised, a machine takes the first worker's place and that one the second's"
CONTROL_PLANES=1 WORKERS=3 FRESH=w3
POLICY=(--strategy surge --ignore-preflight-errors Swap)
# Requests through a node that is not there any more are not answered.
APP_MAY_FAIL=yes

before() {
  liftlock nodes | grep "^${PREFIX}w3 .*not joined" || die "w3 has joined already"
  planned "${POLICY[@]}" -o json > "$LOGS/path.json"
  jq --exit-status '[.plan, .onward[]] | map(.membership // .to_version) == $ARGS.positional' "$LOGS/path.json" \
    --args "$TO" "${PREFIX}w3 takes the place of ${PREFIX}w1" "${PREFIX}w1 takes the place of ${PREFIX}w2" > /dev/null ||
    die "the plan does not say who takes whose place: see $LOGS/path.json"
}

after() { echo w2 > "$STATE/gone"; }

proof() {
  has_no_node w2 || echo "the Node of w2 is still there"
  on w2 test ! -e /etc/kubernetes/kubelet.conf || echo "w2 was not reset"
  [ "$(on w2 systemctl is-active kubelet)" != active ] || echo "the kubelet of w2 runs"
  # cp1: raised, and two memberships ended; w1: left, and joined again.
  [ "$(leases_of cp1) $(leases_of w1) $(leases_of w2) $(leases_of w3)" = "3 2 1 1" ] || echo "there were other leases than one for each part"
  ! kubectl_ get nodes -o json | grep --quiet liftlock.dev/not-raised || echo "a node carries the taint of those that are not raised"
  keeps_secrets
}
