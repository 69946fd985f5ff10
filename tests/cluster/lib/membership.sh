# shellcheck shell=bash
# One machine takes the place of another: what must be so afterwards.

# replace_ OLD NEW ARGUMENT...
replace_() { liftlock replace "$PREFIX$1" --with "$PREFIX$2" --ignore-preflight-errors Swap "${@:3}"; }

# let_in: what machines were let in with, as the cluster still has it
let_in() {
  kubectl_ --namespace kube-system get secrets --field-selector type=bootstrap.kubernetes.io/token -o json |
    jq --raw-output '.items[] | select(.data.description // "" | @base64d | startswith("Liftlock")) | .data["token-secret"] | @base64d'
}

# keeps_secrets: prints where a secret that let a machine in is left: in the services' journals, or in a file of theirs
keeps_secrets() {
  local node secret
  secret=$(let_in)
  [ -n "$secret" ] || echo "nobody was let in by Liftlock"
  for secret in $secret; do
    ! on coordinator grep --recursive --quiet --text -- "$secret" /var/lib/liftlock-coordinator || echo "the coordinator keeps what let a machine in"
    ! on coordinator journalctl --quiet | grep --quiet -- "$secret" || echo "the coordinator's journal has what let a machine in"
    for node in $(nodes); do
      ! on "$node" grep --recursive --quiet --text -- "$secret" /var/lib/liftlock || echo "$node keeps what let it in"
      ! on "$node" journalctl --quiet | grep --quiet -- "$secret" || echo "the journal of $node has what let a machine in"
      ! grep --quiet -- "$secret" "$LOGS"/{apply,plan}.* || echo "an operator was shown what let a machine in"
    done
  done
}

# has_no_node NODE
has_no_node() { ! kubectl_ get node "$PREFIX$1" > /dev/null 2>&1; }
