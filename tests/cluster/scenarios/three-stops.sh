# shellcheck shell=bash disable=SC2034
ABOUT="two minors further: one plan, one word of the operator, and every node is raised at each stop of the path"
VIA=(v1.20.2) TO=v1.21.1

before() {
  planned -o json > "$LOGS/path.json"
  [ "$(jq --raw-output '[.plan.to_version, .onward[].to_version] | join(" ")' "$LOGS/path.json")" = "${VIA[*]} $TO" ] ||
    die "the plan does not stop at ${VIA[*]} on its way to $TO: see $LOGS/path.json"
}

proof() {
  local node version
  for node in $(nodes); do
    [ "$(leases_of "$node")" = 2 ] || echo "$node had $(leases_of "$node") leases, not one a stop"
  done
  for node in $(control_planes); do
    # What each stop began with is in its backup, word for word.
    for version in "$FROM" "${VIA[@]}"; do
      on "$node" sh -c "grep -q 'image: .*/kube-apiserver:$version\$' /etc/kubernetes/tmp/liftlock-*/files/etc/kubernetes/manifests/kube-apiserver.yaml" ||
        echo "no backup of $node says that it ran $version"
    done
  done
}
