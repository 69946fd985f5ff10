# shellcheck shell=bash
# The programs under test: the coordinator in a container of its own, an agent as a service on every node, all from the packages that the
# build made.

# artifact VARIABLE PATTERN: the file that the variable names, else the newest one that matches
artifact() {
  local file=${!1:-}
  # shellcheck disable=SC2012,SC2086 # names of our own making
  [ -n "$file" ] || file=$(cd "$ROOT" && ls -t $PWD/$2 2>/dev/null | head -n 1)
  [ -f "$file" ] || die "nothing at ${file:-$ROOT/$2}: build the packages first, or set $1"
  realpath "$file"
}

liftlock() { on coordinator liftlock "$@"; }

# What follows is what the README tells an operator, word for word where a script can.

# coordinator_start: on a machine of its own
coordinator_start() {
  local file
  file=$(artifact COORDINATOR_DEB 'target/debian/liftlock_*.deb')
  machine coordinator
  docker cp "$file" "${PREFIX}coordinator:/srv/liftlock.deb"
  on coordinator apt-get install --yes /srv/liftlock.deb
  # `editor`
  on coordinator sed -i "s/^#names = .*/names = [\"coordinator\", \"$(node_address coordinator)\"]/" /etc/liftlock/coordinator.toml
  # Its end is awaited: the service says when it serves.
  on coordinator systemctl enable --now liftlock
  liftlock nodes
}

# agent_start NODE: installs, leaves the token and starts the service, which enrols by itself
agent_start() {
  local node=$1 file
  file=$(artifact AGENT_DEB 'target/debian/liftlock-agent_*.deb')
  docker cp "$file" "$PREFIX$node:/srv/agent.deb"
  on "$node" apt-get install --yes /srv/agent.deb
  on "$node" sed -i "s|^#coordinator = .*|coordinator = \"https://$(node_address coordinator):7443\"|" /etc/liftlock/agent.toml
  liftlock token create --node "$PREFIX$node" | on "$node" install -m 0600 /dev/stdin /etc/liftlock/join-token
  on "$node" systemctl restart liftlock-agent
  on "$node" systemctl is-active liftlock-agent
  # It serves before it is enrolled: a node may boot before its coordinator.
  within 60 "$node's agent to have traded its token" on "$node" test ! -e /etc/liftlock/join-token
}

# operator_logs_in: from a machine that is neither a node nor the coordinator's, as an ordinary user
operator_logs_in() {
  local file
  file=$(artifact COORDINATOR_DEB 'target/debian/liftlock_*.deb')
  machine operator
  docker cp "$file" "${PREFIX}operator:/srv/liftlock.deb"
  on operator apt-get install --yes /srv/liftlock.deb
  on operator useradd --create-home alice
  liftlock token create --operator alice |
    as_alice liftlock login --coordinator "https://$(node_address coordinator):7443" --token-file -
  as_alice liftlock nodes
}

as_alice() { on operator setpriv --reuid alice --regid alice --init-groups env HOME=/home/alice "$@"; }

liftlock_start() {
  say "starting the coordinator and an agent on every node"
  logged coordinator-start coordinator_start
  logged operator-logs-in operator_logs_in
  # shellcheck disable=SC2046 # one word a node
  together agent_start $(nodes)
  within 60 "an agent of every node with the coordinator" agents_connected
}

agents_connected() { [ "$(liftlock nodes -o json | grep -c '"connected": true')" = $((CONTROL_PLANES + WORKERS)) ]; }

# consents: what an operator of a cluster of this shape consents to
consents() {
  ((CONTROL_PLANES > 2)) || echo api-outage
  # The control planes' taint keeps ordinary pods away: the only worker is the only node that takes them.
  ((WORKERS != 1)) || echo drain-only-node
}

# planned ARGUMENT...: the plan, with what such an operator consents to
planned() {
  local name policy=()
  for name in $(consents); do policy+=(--accept "$name"); done
  liftlock plan "$TO" "${policy[@]}" "$@"
}

# refused RULES: whether the plan is refused by these rules (by name, a blank between), and by no other
refused() {
  local status=0 rules
  rules=$(planned -o json | jq --raw-output '[.refusals[].rule] | unique | join(" ")') || status=$?
  [ "$rules" = "$1" ] || die "liftlock plan was refused by \"$rules\" (exit status $status), not by \"$1\""
}

# liftlock_logs: what the services said, into $LOGS, for whoever looks for the cause of a failure
liftlock_logs() {
  local node
  on coordinator journalctl --no-pager --unit liftlock > "$LOGS/coordinator.log" 2>&1 || true
  for node in $(nodes); do
    on "$node" journalctl --no-pager --unit liftlock-agent > "$LOGS/agent-$node.log" 2>&1 || true
    on "$node" journalctl --no-pager --unit kubelet --lines 500 > "$LOGS/kubelet-$node.log" 2>&1 || true
  done
}
