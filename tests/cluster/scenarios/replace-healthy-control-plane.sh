# shellcheck shell=bash disable=SC2034
ABOUT="a healthy control plane of three is replaced, though the machine that takes its place loses its power in the middle of kubeadm join"
CONTROL_PLANES=4 WORKERS=1 FRESH=cp4
AT=$FROM
# Requests through nodes that are off or not there any more are not answered.
APP_MAY_FAIL=yes

shown() { replace_ cp2 cp4 --dry-run; }
begun() { replace_ cp2 cp4 --yes; }

before() { liftlock nodes | grep "^${PREFIX}cp4 .*not joined" || die "cp4 has joined already"; }

fault() {
  within 600 "kubeadm join on cp4" at_step cp4 kubeadm-join
  # kubeadm adds the member before it waits for it: from here on a machine that is gone counts against the quorum.
  within 120 "the fourth member of etcd" has_members 4
  docker kill "${PREFIX}cp4"
  docker start "${PREFIX}cp4"
}

has_members() { [ "$(etcdctl_ cp1 member list | wc -l)" = "$1" ]; }

after() { echo cp2 > "$STATE/gone"; }


proof() {
  [ "$(lease_resumed cp4)" -ge 1 ] || echo "the lease was never taken up again"
  [ "$(starts_of cp4 kubeadm-join)" -ge 2 ] || echo "kubeadm join was not run again"
  has_no_node cp2 || echo "the Node of cp2 is still there"
  on cp2 test ! -e /etc/kubernetes/kubelet.conf || echo "cp2 was not reset"
  on cp2 test ! -e /var/lib/etcd/member || echo "cp2 keeps etcd's data"
  ! etcdctl_ cp1 member list | grep -q "${PREFIX}cp2, " || echo "etcd still has the member of cp2"
  api_server_is_ready cp4 || echo "the API server of cp4 is not ready"
  jq --exit-status --arg old "${PREFIX}cp2" --arg new "${PREFIX}cp4" 'map(select(.kind == "lease-granted" or .kind == "lease-ended")
    | select(.node == $old or .node == $new) | [.kind, .node]) | . == [["lease-granted", $new], ["lease-ended", $new], ["lease-granted", $old], ["lease-ended", $old]]' \
    "$LOGS/history.json" > /dev/null || echo "cp2 did not leave after cp4 had joined, under one lease each"
  keeps_secrets
}
