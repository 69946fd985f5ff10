# shellcheck shell=bash
# Writing down what real commands say: one folder a command, under $RECORD_TO (tests/fixtures/real).
#
#   argv     the command, one argument a line
#   stdout   what it printed there, secrets blanked
#   stderr   the same for the other stream
#   status   its exit status
#   about    where it ran and in which state, in a line of our own

# blank: what must not be in a public repository is replaced; everything else stays byte for byte.
blank() {
  sed -E \
    -e 's/((client-key|client-certificate|certificate-authority)-data: ).*/\1QkxBTktFRA==/' \
    -e 's/("(client-key|client-certificate|certificate-authority)-data": *")[^"]*/\1QkxBTktFRA==/' \
    -e 's/\b[a-z0-9]{6}\.[a-z0-9]{16}\b/abcdef.0123456789abcdef/g' \
    -e '/-----BEGIN [A-Z ]*-----/,/-----END [A-Z ]*-----/{/-----(BEGIN|END)/!s/[A-Za-z0-9+\/=]+/QkxBTktFRA==/}'
}

# record NAME ABOUT NODE COMMAND...: runs it on the node and writes it down; never fails itself.
record() {
  local to=$RECORD_TO/$1 about=$2 node=$3 status=0
  shift 3
  mkdir -p "$to"
  printf '%s\n' "$@" > "$to/argv"
  docker exec -i "$PREFIX$node" "$@" > "$to/stdout.raw" 2> "$to/stderr.raw" < /dev/null || status=$?
  blank < "$to/stdout.raw" > "$to/stdout"
  blank < "$to/stderr.raw" > "$to/stderr"
  rm "$to/stdout.raw" "$to/stderr.raw"
  echo "$status" > "$to/status"
  echo "on $node: $about" > "$to/about"
  echo "recorded ${to#"$RECORD_TO/"} (exit $status)"
}
