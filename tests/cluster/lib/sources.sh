# shellcheck shell=bash
# Where the nodes' packages come from, other than the one directory that all of them see.

SPLIT_LIST=/etc/apt/sources.list.d/kubernetes.list
OFFLINE=/srv/offline

minor_of() { cut -d. -f1-2 <<< "$1"; } # VERSION

# split_url VERSION deb|rpm: the repository of its minor
split_url() { echo "http://$(node_address repository)/core:/stable:/$(minor_of "$1")/$2/"; }

# split_line VERSION: what leads apt there
split_line() { echo "deb [trusted=yes] $(split_url "$1" deb) /"; }

# split_start deb|rpm: a repository for each minor on a machine of its own, over HTTP, as pkgs.k8s.io is; there is none of a later minor
split_start() {
  local version folder tree=$STATE/split
  rm -rf "$tree"
  for version in $(versions); do
    folder="$tree/core:/stable:/$(minor_of "$version")/$1"
    mkdir -p "$folder"
    case $1 in
      deb) cp "$CACHE/packages-$PACKAGES_KEY/$version"/*.deb "$folder" && (cd "$folder" && dpkg-scanpackages --multiversion . > Packages) ;;
      rpm) cp "$CACHE/rpms-$RPMS_KEY/$version"/*.rpm "$folder" && createrepo_c --quiet "$folder" ;;
    esac
  done
  need busybox-static
  container repository --volume /bin/busybox:/bin/busybox:ro --volume "$tree:/srv/www:ro" --entrypoint /bin/busybox \
    "$NODE_IMAGE" httpd -f -vv -p 80 -h /srv/www
  within 60 "the repositories" split_answers "$1"
}

split_answers() {
  local index=Packages
  [ "$1" = deb ] || index=repodata/repomd.xml
  on cp1 curl --silent --fail --output /dev/null "$(split_url "$FROM" "$1")$index"
}

# split_used NODE: the node knows the repository of its own minor, and no other place that has the packages
split_used() {
  on "$1" sh -c ': > /etc/apt/sources.list'
  {
    echo "# The minor is raised by hand: $(split_line "$TO")"
    split_line "$FROM"
  } | on "$1" install -m 0640 /dev/stdin "$SPLIT_LIST"
  on "$1" apt-get -qq update
}

# sources_of NODE: apt's files of sources as they are, and what apt knows of kubeadm by them
sources_of() {
  on "$1" sh -c 'sha256sum /etc/apt/sources.list /etc/apt/sources.list.d/*; stat --format "%n %U:%G %a" /etc/apt/sources.list.d/*; apt-cache madison kubeadm'
}

# offline NODE MANAGER: all that a raise needs is in a folder on the node, and nothing else has it: no repository, no registry, no images
offline() {
  local node=$1 version program image
  on "$node" mkdir -m 0755 "$OFFLINE"
  for version in $(versions); do
    case $2 in
      apt) docker cp "$CACHE/packages-$PACKAGES_KEY/$version/." "$PREFIX$node:$OFFLINE" ;;
      files)
        on "$node" mkdir -m 0755 "$OFFLINE/$version"
        for program in kubeadm kubelet kubectl; do docker cp "$(programs "$version")/$program" "$PREFIX$node:$OFFLINE/$version/"; done
        ;;
    esac
  done
  on "$node" cp "/srv/images/$TO.tar" "$OFFLINE/images-$TO.tar"
  on "$node" bash -euc '
    chown --recursive root:root "$0" && chmod --recursive go-w "$0"
    cd "$0" && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum > SHA256SUMS
    : > /etc/apt/sources.list
    apt-get -qq update
    rm -f /var/cache/apt/archives/*.deb' "$OFFLINE"
  for image in $(on "$node" ctr --namespace k8s.io images list --quiet | grep ":$TO\$"); do
    on "$node" ctr --namespace k8s.io images remove --sync "$image"
  done
  on "$node" tee --append /etc/liftlock/agent.toml << TOML

[packages]
directory = "$OFFLINE"
TOML
  cut_off "$node"
  on "$node" systemctl restart liftlock-agent
}

# cut_off NODE: whatever it sends to the world outside is refused and counted, but for a kubelet's look for a cloud that it runs in
cut_off() {
  on "$1" bash -euc '
    iptables --new-chain OUTSIDE
    iptables --append OUTSIDE --destination "$0.0/24" --jump RETURN
    iptables --append OUTSIDE --destination 10.0.0.0/8 --jump RETURN
    iptables --append OUTSIDE --destination 169.254.169.254 --jump REJECT
    iptables --append OUTSIDE --jump REJECT
    iptables --insert OUTPUT --out-interface eth0 --jump OUTSIDE' "$SUBNET"
}

# sent_outside NODE: how many packets were refused
sent_outside() { on "$1" iptables --list OUTSIDE --numeric --verbose --exact | awk '$3 == "REJECT" { refused = $1 } END { print refused }'; }

# all_offline MANAGER: whether every node's agent says that its packages come out of the folder
all_offline() { liftlock nodes -o json | jq --exit-status --arg words "$1 in $OFFLINE" '[.[].packages] | unique == [$words]'; }
