# shellcheck shell=bash
# etcd is lost, and comes back by what `liftlock etcd restore` prints, word for word.

etcd_runs() { [ -n "$(on "$1" crictl ps --quiet --name '^etcd$')" ]; }
no_etcd_runs() { ! etcd_runs "$1"; }

# etcd_ruined NODE COMMAND...: what the command does to the data of an etcd that does not run, which is then let start
etcd_ruined() {
  local node=$1
  shift
  on "$node" mv /etc/kubernetes/manifests/etcd.yaml /srv/etcd.yaml
  within 120 "etcd on $node to stop" no_etcd_runs "$node"
  on "$node" "$@"
  on "$node" mv /srv/etcd.yaml /etc/kubernetes/manifests/etcd.yaml
}

# etcds_tools_hidden NODE... and etcds_tools_back NODE...: most nodes have them in etcd's image alone; the checks here use the node's own
etcds_tools_hidden() { local node; for node in "$@"; do on "$node" mv /usr/bin/etcdctl /srv/etcdctl; done; }
etcds_tools_back() { local node; for node in "$@"; do on "$node" mv /srv/etcdctl /usr/bin/etcdctl; done; }

# followed FILE COMMAND...: carries out what `liftlock etcd restore -o json` printed; the command must succeed after each instruction
followed() {
  local file=$1 instruction node words
  shift
  jq --exit-status 'all(.stages[]; .node != null and all(.instructions[]; .run != null))' "$file" > /dev/null ||
    die "there is something to do that no command does"
  while IFS= read -r -u 3 instruction; do
    node=$(jq --raw-output .node <<< "$instruction")
    mapfile -t words < <(jq --raw-output '.run[]' <<< "$instruction")
    echo "$node: ${words[*]}"
    case $(jq --raw-output .until <<< "$instruction") in
      null) on "${node#"$PREFIX"}" "${words[@]}" < /dev/null ;;
      succeeds) within 300 "${words[*]} on $node" on "${node#"$PREFIX"}" "${words[@]}" ;;
      prints-nothing) within 300 "silence of ${words[*]} on $node" says_nothing "${node#"$PREFIX"}" "${words[@]}" ;;
      *) die "nobody knows this instruction: $instruction" ;;
    esac
    "$@"
  done 3< <(jq --compact-output '.stages[] | .node as $node | .instructions[] | {node: $node} + .' "$file")
}

says_nothing() { local said; said=$(on "$@" 2>&1) && [ -z "$said" ]; }
