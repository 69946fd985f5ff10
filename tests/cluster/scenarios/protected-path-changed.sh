# shellcheck shell=bash disable=SC2034
ABOUT="sealed files are changed during the leases: a small one is put back; a large one, of which there is no copy, is named and the operator asked"
ASKS_FIRST=yes

# The first two are sealed because an operator said so, the others by default; 20 MiB are more than is copied. What runs as
# root for everybody and what lies in a home is put back by a service that may do so.
before() {
  on cp1 bash -euc '
    mkdir -p /srv/shop /etc/liftlock/protect.d
    echo "currency = EUR" > /srv/shop/settings
    install --mode 6755 /bin/true /srv/shop/tool
    echo /srv/shop > /etc/liftlock/protect.d/shop.conf
    mkdir -p /root/.ssh
    echo "ssh-ed25519 AAAA" > /root/.ssh/authorized_keys
    chmod --recursive go= /root/.ssh'
  on w1 bash -euc '
    mkdir /data
    head -c 20M /dev/urandom > /data/orders
    cp --preserve=all /data/orders /srv/orders'
  settings > "$LOGS/settings-before.txt"
}

settings() {
  on cp1 sh -c 'for file in /srv/shop/settings /srv/shop/tool /root/.ssh/authorized_keys; do
      stat --format "%n %U %G %a %y" "$file"
      sha256sum "$file"
    done'
}

fault() {
  kubeadm_upgrades cp1 kubeadm-upgrade-apply
  on cp1 sh -c 'echo "currency = DEM" > /srv/shop/settings
    rm /srv/shop/tool
    echo "ssh-ed25519 BBBB" > /root/.ssh/authorized_keys'
  within 600 "w1's drain" at_step w1 drain
  on w1 sh -c 'printf x | dd of=/data/orders bs=1 seek=1000000 conv=notrunc'
}

after() {
  on w1 cp --preserve=all /srv/orders /data/orders
  liftlock retry "${PREFIX}w1"
  liftlock status --watch
}

proof() {
  diff "$LOGS/settings-before.txt" <(settings) || echo "not all that was changed was put back"
  on cp1 sh -c 'grep -qx "currency = DEM" /etc/kubernetes/tmp/liftlock-*/found-*/srv/shop/settings' || echo "what was found instead was not kept"
  jq --exit-status --arg node "${PREFIX}w1" 'any(.[]; .kind == "lease-failed" and .node == $node and (.text | contains("/data/orders")))' \
    "$LOGS/history.json" > /dev/null || echo "/data/orders was not named"
  [ "$(leases_of cp1)" = 1 ] || echo "cp1 had more than its one lease"
  [ "$(leases_of w1)" = 2 ] || echo "w1 did not have one lease that failed and one after the operator had spoken"
}
