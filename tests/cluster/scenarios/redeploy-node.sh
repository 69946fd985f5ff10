# shellcheck shell=bash disable=SC2034
ABOUT="each node's container is removed with all that it wrote, and one of another image goes on with its lease as the same node"
POLICY=(--redeploy)
# Requests through a node that is not there are not answered.
APP_MAY_FAIL=yes

# containerd runs on while the rest is exported and may write to its database, so its folder has to outlive the system.
kept() {
  echo /var/lib/containerd
  [ "$1" != cp1 ] || echo /var/lib/etcd
}
outlives() { echo "$PERSISTENT"; kept "$1"; }

before() {
  local node
  next_image
  for node in $(nodes); do
    # shellcheck disable=SC2046 # one word a folder
    replacement_told "$node" $(kept "$node")
    on "$node" bash -euc '
      mkdir -p /mnt/persistent/liftlock /etc/liftlock/protect.d /srv/shop /data
      echo "of the old system" > /etc/old-system
      echo /srv/shop > /etc/liftlock/protect.d/shop.conf
      install --mode 4755 /bin/true /srv/shop/tool
      head --bytes 20M /dev/urandom > /data/orders
      echo "export EDITOR=vi" >> /root/.profile'
    on "$node" systemctl restart liftlock-agent
    identity "$node" > "$LOGS/identity-$node.txt"
  done
  within 60 "each agent's word of how its host is replaced" planned "${POLICY[@]}"
}

# identity NODE: what says who the node is, and what has to stay as it is
identity() {
  kubectl_ get node "$PREFIX$1" -o 'jsonpath={.metadata.uid} {.metadata.creationTimestamp}{"\n"}'
  on "$1" bash -euc '
    sha256sum /etc/machine-id /etc/kubernetes/{kubelet.conf,pki/ca.crt} /var/lib/kubelet/pki/kubelet-client-current.pem
    sha256sum /var/lib/liftlock/identity/* /etc/liftlock/agent.toml /srv/shop/tool /data/orders /root/.profile
    stat --format "%n %U %a %y" /etc/machine-id /srv/shop/tool /data/orders /root/.profile'
}

fault() {
  local node
  for node in $(nodes); do replaced "$node"; done
}

proof() {
  local node
  for node in $(nodes); do
    on "$node" test -e /etc/next-system -a ! -e /etc/old-system || echo "$node has its old system"
    diff "$LOGS/identity-$node.txt" <(identity "$node") || echo "$node is not the one that it was"
    imported_first "$node" || true
    [ -n "$(on "$node" journalctl --quiet --unit liftlock-agent)" ] || echo "an operator does not find the journal of $node"
    [ "$(leases_of "$node")" = 1 ] || echo "$node had more than its one lease"
    [ "$(lease_resumed "$node")" -ge 1 ] || echo "$node's lease was never taken up again"
    liftlock protect verify "$PREFIX$node" > "$LOGS/verify-$node.txt" || echo "a protected path of $node is not as it was"
    (within 60 "the export's removal on $node" stores_nothing "$node") || echo "$node's export is there still"
  done
  grep -qF /usr/local/sbin/replace-system "$LOGS/plan.txt" || echo "the plan did not show the command"
}

stores_nothing() { [ -z "$(on "$1" ls -A "$PERSISTENT/liftlock")" ]; }
