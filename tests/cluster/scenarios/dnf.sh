# shellcheck shell=bash disable=SC2034
ABOUT="nodes of dnf and rpm whose repositories are split by minor: raised by the real dnf, and put back as the worker fails at its drain"
END="rolled back"
ON_FAILURE=roll-back-cluster

made() {
  # shellcheck disable=SC2046 # one word a version
  rpms $(versions)
}

node_install() { dnf_install "$@"; } # NODE VERSION

check_packages() { # VERSION: installed once, with the files that came with it, and unknown to dpkg
  local faults=0 node says name
  for node in $(nodes); do
    says=$(on "$node" rpm --query --queryformat '%{NAME} %{VERSION}-%{RELEASE} ' kubeadm kubectl kubelet)
    [ "$says" = "kubeadm ${1#v}-$RPM_RELEASE kubectl ${1#v}-$RPM_RELEASE kubelet ${1#v}-$RPM_RELEASE " ] || wrong "$node: packages are $says"
    on "$node" rpm --verify --nodeps --nomtime kubeadm kubectl kubelet || wrong "$node: files of packages are not those that came with them"
    ! on "$node" dpkg-query --show 'kube*' 2>/dev/null || wrong "$node: dpkg knows packages"
  done
  ((faults == 0))
}

before() {
  local node
  split_start rpm
  for node in $(nodes); do
    dnf_used "$node"
    repositories_of "$node" > "$LOGS/sources-$node.txt"
  done
  unmanaged_pod w1
  liftlock versions > "$LOGS/versions.txt"
  liftlock nodes -o json > "$LOGS/nodes.json"
  jq --exit-status '[.[].packages] | unique == ["dnf, split by minor"]' "$LOGS/nodes.json" ||
    die "not every agent says that its packages are dnf's: see $LOGS/nodes.json"
  grep -qF "$TO" "$LOGS/versions.txt" || die "$TO is not offered though there is a repository of its minor: see $LOGS/versions.txt"
  for node in $(nodes); do
    diff "$LOGS/sources-$node.txt" <(repositories_of "$node") || die "a look at later minors changed the repositories of $node"
  done
}

# By then the first node's file leads on, and the other's, which is not leased, does not.
fault() {
  kubeadm_upgrades cp1 kubeadm-upgrade-apply
  on cp1 grep -qxF "baseurl=$(split_url "$TO" rpm)" "$REPO_FILE"
  on w1 grep -qxF "baseurl=$(split_url "$FROM" rpm)" "$REPO_FILE"
}

# kubeadm has changed it last, and the controllers need a moment.
after() { kubectl_ --namespace kube-system rollout status daemonset kube-proxy --timeout=120s; }

proof() {
  local node
  for node in $(nodes); do
    [ "$(undone "$node" switch-repository)" -ge 1 ] || echo "the repository of $node was not switched back"
    diff "$LOGS/sources-$node.txt" <(repositories_of "$node") || echo "the repositories of $node are not what they were"
  done
  [ "$(undone cp1 install-kubelet)" -ge 1 ] || echo "the kubelet of cp1 was not put back"
  docker logs "${PREFIX}repository" > "$LOGS/repository.log" 2>&1
}
