# shellcheck shell=bash disable=SC2034
ABOUT="no repository, no registry and no way out: packages and images come out of a folder on each node, and nothing is asked for elsewhere"

before() {
  local node
  for node in $(nodes); do offline "$node" apt; done
  within 60 "each agent's word of its folder" all_offline apt
}

proof() {
  local node
  for node in $(nodes); do
    [ "$(sent_outside "$node")" = 0 ] || echo "$node sent $(sent_outside "$node") packets to the world outside"
    [ -z "$(on "$node" sh -c 'ls /var/cache/apt/archives/*.deb 2>/dev/null')" ] || echo "apt fetched packages to $node"
    [ -z "$(on "$node" sh -c 'grep -h . /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null')" ] || echo "$node has sources of packages"
    ! on "$node" journalctl --unit containerd | grep -F 'PullImage' | grep -F ":$TO" || echo "$node pulled images"
    on "$node" sh -c "cd $OFFLINE && sha256sum --quiet --check SHA256SUMS" || echo "the folder of $node is not as it was"
  done
}
