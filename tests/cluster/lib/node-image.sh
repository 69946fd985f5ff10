# shellcheck shell=bash
# The root file system of every container here: Debian 12 with systemd, containerd and what the kubelet calls, and the files under
# node/rootfs over it.

NODE_PACKAGES=(systemd systemd-sysv dbus containerd runc containernetworking-plugins iptables iproute2 ethtool socat conntrack ebtables
  kmod procps util-linux mount ca-certificates curl netbase etcd-client openssl)
NODE_KEY=$(find "$HERE/node" "${BASH_SOURCE[0]}" -type f -print0 | LC_ALL=C sort -z | xargs -0 cat | sha256sum | cut -c1-12)
NODE_IMAGE=liftlock-cluster/node:$NODE_KEY

node_image() {
  ! docker image inspect "$NODE_IMAGE" >/dev/null 2>&1 || return 0
  if [ ! -e "$CACHE/node-$NODE_KEY.tar" ]; then
    need mmdebstrap
    cached "node-$NODE_KEY.tar" node_root
  fi
  logged node-import docker import --change 'ENV container=docker' --change 'CMD ["/usr/local/sbin/node-boot"]' \
    "$CACHE/node-$NODE_KEY.tar" "$NODE_IMAGE"
}

node_root() { # INTO
  mmdebstrap --mode=root --variant=minbase --format=tar --include="$(IFS=,; echo "${NODE_PACKAGES[*]}")" \
    --customize-hook="sync-in '$HERE/node/rootfs' /" --customize-hook="$HERE/node/customize" bookworm "$1" "$(debian_mirror)"
}
