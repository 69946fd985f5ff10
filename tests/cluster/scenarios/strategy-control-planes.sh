# shellcheck shell=bash disable=SC2034
ABOUT="a whole plan by which a machine takes the place of the second of three control planes, once all of them are raised"
CONTROL_PLANES=4 WORKERS=1 FRESH=cp4
POLICY=(--control-planes "${PREFIX}cp1,${PREFIX}cp3,${PREFIX}cp4" --ignore-preflight-errors Swap)
# Requests through a node that is not there any more are not answered.
APP_MAY_FAIL=yes

before() {
  liftlock nodes | grep "^${PREFIX}cp4 .*not joined" || die "cp4 has joined already"
  planned "${POLICY[@]}" -o json > "$LOGS/path.json"
  jq --exit-status '[.plan, .onward[]] | map(.membership // .to_version) == $ARGS.positional' "$LOGS/path.json" \
    --args "$TO" "${PREFIX}cp4 takes the place of ${PREFIX}cp2" > /dev/null || die "the plan does not say who takes whose place: see $LOGS/path.json"
}

after() { echo cp2 > "$STATE/gone"; }

proof() {
  has_no_node cp2 || echo "the Node of cp2 is still there"
  on cp2 test ! -e /etc/kubernetes/kubelet.conf || echo "cp2 was not reset"
  ! etcdctl_ cp1 member list | grep -q "${PREFIX}cp2, " || echo "etcd still has the member of cp2"
  api_server_is_ready cp4 || echo "the API server of cp4 is not ready"
  # cp1: raised, and a membership ended; cp2: raised, and left.
  [ "$(leases_of cp1) $(leases_of cp2) $(leases_of cp3) $(leases_of cp4) $(leases_of w1)" = "2 2 1 1 1" ] ||
    echo "there were other leases than one for each part"
  keeps_secrets
}
