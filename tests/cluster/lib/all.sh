# shellcheck shell=bash disable=SC1091
# Every part, in the order in which they lean on one another, and what a program does first.
. "$HERE/lib/host.sh"
. "$HERE/lib/engine.sh"
. "$HERE/lib/kubernetes.sh"
. "$HERE/lib/images.sh"
. "$HERE/lib/packages.sh"
. "$HERE/lib/node-image.sh"
. "$HERE/lib/nodes.sh"
. "$HERE/lib/sources.sh"
. "$HERE/lib/rpm.sh"
. "$HERE/lib/kubeadm.sh"
. "$HERE/lib/app.sh"
. "$HERE/lib/checks.sh"
. "$HERE/lib/liftlock.sh"
. "$HERE/lib/faults.sh"
. "$HERE/lib/restoration.sh"
. "$HERE/lib/replacement.sh"
. "$HERE/lib/membership.sh"

# prepare: everything that is made once and kept; seconds, when it is there
prepare() {
  host_check
  host_watches
  mkdir -p "$CACHE/locks"
  # shellcheck disable=SC2046 # one word a version
  {
    kubernetes $(versions)
    images $(versions)
    packages $(versions)
  }
  engine_start
  node_image
}

# cluster_lock: held until the program ends, so that two do not work on one cluster
cluster_lock() {
  exec {CLUSTER_LOCK}> "$STATE/lock"
  flock --nonblock "$CLUSTER_LOCK" || die "another program works on this cluster (${STATE}/lock); wait for it, or set LIFTLOCK_CLUSTER_PREFIX and LIFTLOCK_CLUSTER_SUBNET"
}
