# shellcheck shell=bash disable=SC2034
ABOUT="one of three etcd members has lost its data: what liftlock etcd restore prints replaces it, the others are a quorum all the time"
CONTROL_PLANES=3

before() {
  # shellcheck disable=SC2046 # one word a node
  etcds_tools_hidden $(control_planes)
  etcd_ruined cp3 rm -rf /var/lib/etcd/member
  liftlock etcd restore --node "${PREFIX}cp3" -o json > "$LOGS/restoration.json"
  etcds_tools_back cp1
  followed "$LOGS/restoration.json" etcdctl_ cp1 endpoint health
  etcds_tools_back cp2 cp3
  check_etcd
  within 120 "the API server on cp3" api_server_is_ready cp3
  # Its kubelet had nobody to report to meanwhile.
  kubectl_ wait --for=condition=Ready "node/${PREFIX}cp3" --timeout=120s
  # It has taken all that the others have.
  kubectl_ create configmap replaced --from-literal=member=cp3
  within 60 "what was written on cp3" etcdctl_ cp3 get --consistency=s /registry/configmaps/default/replaced --keys-only
}

proof() { kubectl_ get configmap replaced > /dev/null || echo "what was written before the raise is not there"; }
