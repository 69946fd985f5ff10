# shellcheck shell=bash
# What every script here shares: settings, messages, waiting, the cache, and work side by side.
# Sourced first by the programs beside lib/; it sources nothing itself.
set -euo pipefail
shopt -s inherit_errexit

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
CACHE=${LIFTLOCK_CLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/liftlock-cluster}
FROM=${LIFTLOCK_CLUSTER_FROM:-v1.19.7}
TO=${LIFTLOCK_CLUSTER_TO:-v1.20.2}
# Stops between the two: a scenario of a longer path says which.
VIA=()
CONTROL_PLANES=${LIFTLOCK_CLUSTER_CONTROL_PLANES:-3}
WORKERS=${LIFTLOCK_CLUSTER_WORKERS:-2}
# A second cluster beside the first needs a prefix and a /24 (its first three numbers) of its own.
PREFIX=${LIFTLOCK_CLUSTER_PREFIX:-}
SUBNET=${LIFTLOCK_CLUSTER_SUBNET:-172.30.77}
NETWORK=${PREFIX}liftlock
LABEL=liftlock-cluster=${PREFIX:-default}
STATE=$CACHE/clusters/${PREFIX:-default}
LOGS=$STATE/logs
export HERE ROOT FROM TO CONTROL_PLANES WORKERS SUBNET NETWORK LABEL STATE LOGS

say() { printf '%(%H:%M:%S)T %s\n' -1 "$*" >&2; }
die() { printf 'tests/cluster: %s\n' "$*" >&2; exit 1; }

# within SECONDS WHAT COMMAND...: repeats the command until it succeeds; the limit passed, it says what was waited for.
within() {
  local limit=$1 what=$2 end=$((SECONDS + $1))
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || die "waited ${limit} s in vain: ${what}"
    sleep 0.2
  done
}

# logged NAME COMMAND...: output into a log of its own; on failure its end is shown and the log is named.
logged() {
  local log=$LOGS/$1.log status=0
  shift
  # In a subshell of its own, and not under `||`, so that errexit holds inside functions.
  set +e
  (set -e; "$@") > "$log" 2>&1 < /dev/null
  status=$?
  set -e
  ((status == 0)) && return
  { echo "--- the end of $log:"; tail -n 20 "$log"; echo "---"; } >&2
  return "$status"
}

# together FUNCTION ITEM...: one job an item, all at once; waits for every one, fails if one did.
together() {
  local function=$1 item job failed=() jobs=()
  shift
  for item in "$@"; do
    logged "$function-$item" "$function" "$item" &
    jobs+=("$!")
  done
  for item in "$@"; do
    job=${jobs[0]}
    jobs=("${jobs[@]:1}")
    wait "$job" || failed+=("$item")
  done
  ((${#failed[@]} == 0)) || die "$function failed for: ${failed[*]}"
}

# digest FILE...: a short name for the content of these files, for cache keys.
digest() { cat "$@" | sha256sum | cut -c1-12; }

# cached NAME BUILDER [ARGUMENT...]: makes $CACHE/NAME once. The builder gets a path that it fills with a file or a directory; only a
# builder that succeeded is renamed into place, so what carries the name is whole. Two callers at once: the second waits.
cached() {
  local name=$1 lock started=$SECONDS
  shift
  [ -e "$CACHE/$name" ] && return
  mkdir -p "$CACHE/locks" "$(dirname "$CACHE/$name")"
  exec {lock}> "$CACHE/locks/${name//\//-}"
  flock --nonblock "$lock" || { say "another run is making $name: waiting for it"; flock "$lock"; }
  if [ ! -e "$CACHE/$name" ]; then
    say "making $name"
    rm -rf "$CACHE/$name.part"
    logged "make-${name//\//-}" "$1" "$CACHE/$name.part" "${@:2}" || die "could not make $name"
    mv -T "$CACHE/$name.part" "$CACHE/$name"
    say "made $name in $((SECONDS - started)) s"
  fi
  exec {lock}>&-
}

# versions: every version that the cluster comes by, the first one first
versions() { echo "$FROM" "${VIA[@]}" "$TO"; }

# close_descriptors: in a process that will outlive us: let go of every lock and pipe that we hold.
close_descriptors() {
  local fd
  for fd in /proc/"$BASHPID"/fd/*; do
    fd=${fd##*/}
    ((fd > 2)) && { exec {fd}>&-; } 2>/dev/null
  done
  return 0
}

mkdir -p "$LOGS"
