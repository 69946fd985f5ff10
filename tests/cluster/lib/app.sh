# shellcheck shell=bash
# The app that has to go on answering while its cluster is raised, and the client that asks it, from a container that is no node.

# app_manifest: with several workers the app is like most: it does not run on control planes
app_manifest() { if ((WORKERS > 1)); then sed '/^      # A cluster of one worker/,/control-plane, operator/d' "$HERE/app/app.yaml"; else cat "$HERE/app/app.yaml"; fi; }

app_start() {
  app_manifest | kubectl_ apply -f -
  kubectl_ rollout status deployment app --timeout=120s
  within 60 "two healthy pods in the app's disruption budget" app_has_budget
}

app_has_budget() { [ "$(kubectl_ get poddisruptionbudget app -o 'jsonpath={.status.disruptionsAllowed}')" = 1 ]; }

# client_start: asks through every node; returns once every one has answered
client_start() {
  local node ways=()
  # shellcheck disable=SC2046 # one word a node
  for node in $(joined $(nodes)); do ways+=("$(node_address "$node"):30080"); done
  container client --volume "$HERE/app:/srv/app:ro" --entrypoint sleep "$NODE_IMAGE" infinity
  for node in "${ways[@]}"; do
    within 60 "the app's answer through $node" on client curl --silent --fail --max-time 2 --output /dev/null "http://$node/"
  done
  docker rm --force --volumes "${PREFIX}client" > /dev/null
  container client --volume "$HERE/app:/srv/app:ro" --entrypoint /srv/app/ask "$NODE_IMAGE" "${ways[@]}"
}

# client_stop: every failed request on stderr, the sum as one JSON object on stdout
client_stop() {
  docker stop --time 10 "${PREFIX}client" > /dev/null
  docker logs "${PREFIX}client" 2>&1 | sed '$d' >&2
  docker logs "${PREFIX}client" 2>&1 | tail -n 1
  docker rm --volumes "${PREFIX}client" > /dev/null
}
