# shellcheck shell=bash disable=SC2034
ABOUT="the file system of /etc/kubernetes is full when kubeadm copies etcd's data there; the operator who is asked frees it and says retry"
ASKS_FIRST=yes

# A file system of its own, as small as the plan lets it be.
before() {
  on cp1 bash -euc '
    systemctl stop kubelet
    mkdir /mnt/kubernetes
    mount -t tmpfs -o size=2g,mode=0755 kubernetes /mnt/kubernetes
    cp -a /etc/kubernetes/. /mnt/kubernetes/
    mount --bind /mnt/kubernetes /etc/kubernetes
    umount /mnt/kubernetes
    systemctl start kubelet'
}

# Before its manifests kubeadm backs up etcd: there it finds no room, and nothing has changed yet.
fault() {
  kubeadm_upgrades cp1 kubeadm-upgrade-apply
  on cp1 sh -c 'cat /dev/zero > /etc/kubernetes/tmp/filler || true'
}

after() {
  on cp1 rm /etc/kubernetes/tmp/filler
  liftlock retry "${PREFIX}cp1"
  liftlock status --watch
}

proof() {
  jq --exit-status 'any(.[]; .kind == "lease-failed" and (.text | contains(", and 0 MiB are free")))' "$LOGS/history.json" > /dev/null ||
    echo "the lease did not fail with a word of the full disk"
  [ "$(leases_of cp1)" = 2 ] || echo "cp1 did not have one lease that failed and one after the operator had spoken"
}
