# shellcheck shell=bash disable=SC2034
ABOUT="one of three control planes is gone for good: its member of etcd goes, then a machine that has not joined takes its place"
CONTROL_PLANES=4 WORKERS=1 FRESH=cp4
AT=$FROM
APP_MAY_FAIL=yes

shown() { replace_ cp3 cp4 --accept node-is-gone --dry-run; }
begun() { replace_ cp3 cp4 --accept node-is-gone --yes; }

before() {
  docker rm --force --volumes "${PREFIX}cp3"
  echo cp3 > "$STATE/gone"
  within 180 "the cluster to miss cp3" is_missed cp3
  # Nobody but an operator can say that it is not only out of reach.
  [ "$(replace_ cp3 cp4 --dry-run -o json | jq --raw-output '[.refusals[].rule] | join(" ")')" = node-is-gone ]
}

is_missed() { [ "$(kubectl_ get node "$PREFIX$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = Unknown ]; }

proof() {
  has_no_node cp3 || echo "the Node of cp3 is still there"
  ! etcdctl_ cp1 member list | grep -q "${PREFIX}cp3" || echo "etcd still has the member of cp3"
  etcdctl_ cp1 member list | grep -q "${PREFIX}cp4, .*" || echo "etcd has no member of cp4"
  api_server_is_ready cp4 || echo "the API server of cp4 is not ready"
  # cp1 kept a snapshot before etcd's members changed.
  on cp1 sh -c 'ls /etc/kubernetes/tmp/liftlock-*/*.db' > /dev/null || echo "there is no snapshot of before"
  [ "$(leases_of cp1) $(leases_of cp4)" = "1 1" ] || echo "there were more leases than one a node"
  keeps_secrets
}
