# shellcheck shell=bash
# The programs under test: the coordinator in a container of its own, an agent as a service on every node, all from the packages that the
# build made.

COORDINATOR_STATE=/var/lib/liftlock-coordinator

# artifact VARIABLE PATTERN: the file that the variable names, else the newest one that matches
artifact() {
  local file=${!1:-}
  # shellcheck disable=SC2012,SC2086 # names of our own making
  [ -n "$file" ] || file=$(cd "$ROOT" && ls -t $PWD/$2 2>/dev/null | head -n 1)
  [ -f "$file" ] || die "nothing at ${file:-$ROOT/$2}: build the packages first, or set $1"
  realpath "$file"
}

liftlock() { on coordinator liftlock "$@"; }

coordinator_start() {
  local file address
  file=$(artifact COORDINATOR_DEB 'target/debian/liftlock_*.deb')
  address=$(node_address coordinator)
  container coordinator --volume "$file:/srv/${file##*/}:ro" --volume "$COORDINATOR_STATE" --entrypoint /bin/bash "$NODE_IMAGE" -euc '
    case $0 in *.deb) dpkg --install "$0" ;; *) install "$0" /usr/bin/liftlock ;; esac
    exec liftlock serve --listen 0.0.0.0:7443 --state-dir "$1" --name coordinator --name "$2"' \
    "/srv/${file##*/}" "$COORDINATOR_STATE" "$address"
  within 60 "the coordinator (docker logs ${PREFIX}coordinator)" liftlock nodes
}

# agent_start NODE: installs, enrols and starts the service
agent_start() {
  local node=$1 file
  file=$(artifact AGENT_DEB 'target/debian/liftlock-agent_*.deb')
  docker cp "$file" "$PREFIX$node:/srv/agent.deb"
  on "$node" dpkg --install /srv/agent.deb
  on "$node" install -D -m 644 /dev/stdin /etc/liftlock/agent.toml <<< "coordinator = \"https://$(node_address coordinator):7443\""
  # The token never stands in a command line, and is gone once used.
  liftlock token create --node "$PREFIX$node" --ttl 1h | on "$node" install -m 600 /dev/stdin /run/liftlock-token
  on "$node" liftlock-agent enroll --token-file /run/liftlock-token
  on "$node" rm -f /run/liftlock-token
  on "$node" systemctl enable --now liftlock-agent
  within 30 "liftlock-agent on $node" on "$node" systemctl is-active --quiet liftlock-agent
}

liftlock_start() {
  say "starting the coordinator and an agent on every node"
  logged coordinator-start coordinator_start
  # shellcheck disable=SC2046 # one word a node
  together agent_start $(nodes)
  within 60 "an agent of every node with the coordinator" agents_connected
}

agents_connected() { [ "$(liftlock nodes -o json | grep -c '"connected": true')" = $((CONTROL_PLANES + WORKERS)) ]; }

# liftlock_logs: what the services said, into $LOGS, for whoever looks for the cause of a failure
liftlock_logs() {
  local node
  docker logs "${PREFIX}coordinator" > "$LOGS/coordinator.log" 2>&1 || true
  for node in $(nodes); do
    on "$node" journalctl --no-pager --unit liftlock-agent > "$LOGS/agent-$node.log" 2>&1 || true
    on "$node" journalctl --no-pager --unit kubelet --lines 500 > "$LOGS/kubelet-$node.log" 2>&1 || true
  done
}
