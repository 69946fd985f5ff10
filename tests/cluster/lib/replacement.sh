# shellcheck shell=bash
# A node's system is replaced as a whole, as a provider of containers does it: the container and everything that it wrote are
# removed, and one of another image takes its name, its address and the volumes that outlive it.

NEXT_IMAGE=liftlock-cluster/next:${PREFIX}$(digest "${BASH_SOURCE[0]}")
PERSISTENT=/mnt/persistent
ASKED=$PERSISTENT/replace-me

# next_image: the system that takes the place of the old one, made where no systemd runs: the packages of TO and the
# agent's, and how a host is replaced. Nothing of a cluster is in it.
next_image() {
  # shellcheck disable=SC2046 # one word a version
  container next --volume "$(repository $(versions)):/srv/packages:ro" "$NODE_IMAGE" sleep infinity
  docker cp "$(artifact AGENT_DEB 'target/debian/liftlock-agent_*.deb')" "${PREFIX}next:/srv/agent.deb"
  node_install next "$TO"
  on next apt-get install --yes /srv/agent.deb
  replacement_told next
  on next sh -c 'echo "of the image" > /etc/next-system'
  docker commit --change 'CMD ["/usr/local/sbin/node-boot"]' --change "LABEL $LABEL" "${PREFIX}next" "$NEXT_IMAGE"
  docker rm --force --volumes "${PREFIX}next"
}

# replacement_told NODE [FOLDER...]: the command, which asks outside for another system and ends with this one; the store; and
# which folders outlive the system, too
replacement_told() {
  local node=$1 folder keeps=""
  for folder in "${@:2}"; do keeps+="\"$folder\", "; done
  on "$node" install -m 0755 /dev/stdin /usr/local/sbin/replace-system << COMMAND
#!/bin/sh
touch $ASKED
exec sleep infinity
COMMAND
  on "$node" tee --append /etc/liftlock/agent.toml << TOML

[redeploy]
command = ["/usr/local/sbin/replace-system"]
store = "$PERSISTENT/liftlock"
keeps = [$keeps]
TOML
}

# replaced NODE: waits until the node asks for it; then nothing of its system is left, and another one boots
replaced() {
  within 900 "$1's command that replaces its system" on "$1" test -e "$ASKED"
  on "$1" rm "$ASKED"
  docker rm --force --volumes "$PREFIX$1"
  NODE_IMAGE=$NEXT_IMAGE node_start "$1"
}

# first_word NODE UNIT: when the journal has the first line of a unit, in microseconds since the machine was started. The
# import brings another machine-id than the journal began with.
first_word() { on "$1" sh -c 'journalctl --merge --output json --unit "$0" | head -n 1' "$2" | jq --raw-output .__MONOTONIC_TIMESTAMP; }

# imported_first NODE: whether the import had ended before anything of the node began
imported_first() {
  local ended unit
  ended=$(on "$1" systemctl show --property ExecMainExitTimestampMonotonic --value liftlock-import)
  for unit in containerd kubelet liftlock-agent; do
    (($(first_word "$1" "$unit") > ended && ended > 0)) || { echo "$unit on $1 began before the import had ended"; return 1; }
  done
}
