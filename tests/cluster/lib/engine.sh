# shellcheck shell=bash
# The container engine. One that answers is used as it is; where none does, Docker is installed by apt and started, and the pid of what
# was started is written down, so that `down --engine` and the end of a run stop that one and no other.

ENGINE_PID=$CACHE/engine.pid

engine_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

engine_start() {
  local lock
  exec {lock}> "$CACHE/locks/engine"
  flock "$lock"
  if ! engine_answers; then
    need docker.io iptables
    # On a machine with systemd the package has started it by now, or is about to.
    [ ! -d /run/systemd/system ] || systemctl start docker.service || true
    if ! engine_answers; then
      say "starting a Docker engine"
      rm -f "$ENGINE_PID"
      engine_launch
      within 60 "the Docker engine (see $CACHE/engine.log)" engine_answers
      cp /var/run/docker.pid "$ENGINE_PID"
    fi
  fi
  exec {lock}>&-
}

# The engine lives on after us: a session of its own, none of our descriptors, so that nobody who reads our output waits for it.
engine_launch() {
  (
    close_descriptors
    exec setsid --fork dockerd
  ) < /dev/null > "$CACHE/engine.log" 2>&1
}

# engine_is_ours: the pid that we wrote down is still that of a dockerd
engine_is_ours() {
  local pid
  pid=$(cat "$ENGINE_PID" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]
}

engine_stop() {
  local pid
  if ! engine_is_ours; then
    rm -f "$ENGINE_PID"
    return 0
  fi
  # Somebody else's containers, a second cluster's among them, may have come to depend on it since.
  if [ -n "$(docker ps --quiet)" ]; then
    say "the Docker engine goes on: containers of others run in it"
    return 0
  fi
  pid=$(cat "$ENGINE_PID")
  say "stopping the Docker engine that was started here"
  kill -TERM "$pid"
  within 60 "the end of the Docker engine (pid $pid)" test ! -d "/proc/$pid"
  rm -f "$ENGINE_PID"
}
