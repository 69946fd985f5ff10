# shellcheck shell=bash disable=SC2034
ABOUT="no package owns kubeadm, kubelet and kubectl: they are replaced where they lie, out of a folder on each node"

# Unpacked, so that neither dpkg nor apt knows of them. /lib is a link, and stays one.
node_install() { # NODE VERSION
  on "$1" bash -euc '
    for package in kubeadm kubelet kubectl; do
      dpkg-deb --fsys-tarfile "/srv/packages/${package}_$0-00_amd64.deb" | tar -x --keep-directory-symlink --no-overwrite-dir -C /
    done' "${2#v}"
  on "$1" systemctl enable --quiet kubelet
}

check_packages() { # VERSION: each program is what was linked for it, and no package is there
  local faults=0 node name
  for node in $(nodes); do
    for name in kubeadm kubelet kubectl; do
      on "$node" cat "/usr/bin/$name" | cmp --quiet - "$(programs "$1")/$name" || wrong "$node: /usr/bin/$name is not that of $1"
      [ "$(on "$node" stat --format '%U:%G %a' "/usr/bin/$name")" = "root:root 755" ] || wrong "$node: not everybody may run /usr/bin/$name"
    done
    ! on "$node" dpkg-query --show kubeadm kubelet kubectl 2>/dev/null || wrong "$node: dpkg knows packages"
  done
  ((faults == 0))
}

before() {
  local node
  for node in $(nodes); do offline "$node" files; done
  within 60 "each agent's word of its folder" all_offline files
}

proof() {
  local node
  for node in $(nodes); do
    [ "$(sent_outside "$node")" = 0 ] || echo "$node sent $(sent_outside "$node") packets to the world outside"
    on "$node" sh -c "/var/lib/liftlock/programs/kubelet-$FROM --version" | grep -qxF "Kubernetes $FROM" ||
      echo "the kubelet of before is not kept on $node"
  done
}
