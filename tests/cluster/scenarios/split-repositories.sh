# shellcheck shell=bash disable=SC2034
ABOUT="apt's sources are split by minor: they are switched under the lease, and switched back with all else as the worker fails at its drain"
END="rolled back"
ON_FAILURE=roll-back-cluster

before() {
  local node
  split_start deb
  for node in $(nodes); do
    split_used "$node"
    sources_of "$node" > "$LOGS/sources-$node.txt"
  done
  unmanaged_pod w1
  liftlock versions > "$LOGS/versions.txt"
  grep -qF "$TO" "$LOGS/versions.txt" || die "$TO is not offered though there is a repository of its minor: see $LOGS/versions.txt"
  for node in $(nodes); do
    diff "$LOGS/sources-$node.txt" <(sources_of "$node") || die "a look at later minors changed the sources of $node"
  done
}

# By then the first node's sources lead on, and the other's, which is not leased, do not.
fault() {
  kubeadm_upgrades cp1 kubeadm-upgrade-apply
  on cp1 grep -qxF "$(split_line "$TO")" "$SPLIT_LIST"
  on w1 grep -qxF "$(split_line "$FROM")" "$SPLIT_LIST"
}

# kubeadm has changed it last, and the controllers need a moment.
after() { kubectl_ --namespace kube-system rollout status daemonset kube-proxy --timeout=120s; }

proof() {
  local node
  for node in $(nodes); do
    [ "$(undone "$node" switch-repository)" -ge 1 ] || echo "the repository of $node was not switched back"
    diff "$LOGS/sources-$node.txt" <(sources_of "$node") || echo "the sources of $node are not what they were"
  done
  docker logs "${PREFIX}repository" > "$LOGS/repository.log" 2>&1
}
