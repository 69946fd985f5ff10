# shellcheck shell=bash disable=SC2034
ABOUT="the only etcd's database is ruined after the raise: what liftlock etcd restore prints brings the cluster back, with what it had before"
# The pods of the snapshot are started anew.
APP_MAY_FAIL=yes

before() { kubectl_ create configmap kept --from-literal=written=before; }

after() {
  local status=0
  kubectl_ create configmap lost --from-literal=written=after
  etcds_tools_hidden cp1
  etcd_ruined cp1 dd if=/dev/urandom of=/var/lib/etcd/member/snap/db bs=64k count=4 conv=notrunc
  # Nothing is shown before the loss is accepted, and how much that is is said.
  liftlock etcd restore --cluster -o json > "$LOGS/refused.json" 2> "$LOGS/refused.txt" || status=$?
  cat "$LOGS/refused.txt"
  if [ "$status" != 3 ] || [ -s "$LOGS/refused.json" ]; then die "the loss was not refused (exit status $status)"; fi
  grep -E 'after revision [0-9]+, at [-0-9]+T[0-9:]+Z, is lost' "$LOGS/refused.txt"
  liftlock etcd restore --cluster --accept data-loss -o json > "$LOGS/restoration.json"
  followed "$LOGS/restoration.json" true
  etcds_tools_back cp1
  within 120 "Ready nodes" kubectl_ wait --for=condition=Ready nodes --all --timeout=60s
  kubectl_ --namespace kube-system rollout status daemonset kube-proxy --timeout=120s
  kubectl_ --namespace kube-system rollout status deployment coredns --timeout=120s
  kubectl_ rollout status deployment app --timeout=120s
}

proof() {
  kubectl_ get configmap kept > /dev/null || echo "what was written before the snapshot is not there"
  ! kubectl_ get configmap lost > /dev/null 2>&1 || echo "what was written after the snapshot is there: it is not what was restored"
  (refused nothing-to-do) || echo "a plan to $TO finds something to do"
}
