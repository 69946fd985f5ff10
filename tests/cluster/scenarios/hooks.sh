# shellcheck shell=bash disable=SC2034
ABOUT="hooks on the coordinator, on the nodes and over HTTP: one that fails holds the plan until it ends well, the others see each node before and after"
SEEN=/srv/hooks/seen

# Word for word what docs/hooks.md says.
before() {
  local node
  program coordinator gate 'test -e /srv/hooks/go || { echo "nobody has said go"; exit 1; }'
  program coordinator record "echo \"\$LIFTLOCK_MOMENT \${LIFTLOCK_NODE:-}\" >> $SEEN"
  on coordinator tee --append /etc/liftlock/coordinator.toml << CONFIG
[hooks.gate]
command = ["/usr/local/sbin/gate"]
[hooks.record]
command = ["/usr/local/sbin/record"]
CONFIG
  listener
  on coordinator install -d -o liftlock -g liftlock /srv/hooks
  on coordinator install -D -m 0644 /dev/stdin /etc/systemd/system/liftlock.service.d/hooks.conf << 'UNIT'
[Service]
ReadWritePaths=/srv/hooks
UNIT
  on coordinator systemctl daemon-reload
  on coordinator systemctl restart liftlock
  for node in $(nodes); do
    program "$node" mark 'echo "$LIFTLOCK_MOMENT $(kubelet --version)" >> /var/lib/mark.log'
    on "$node" tee --append /etc/liftlock/agent.toml << CONFIG
[hooks.mark]
command = ["/usr/local/sbin/mark"]
CONFIG
    on "$node" systemctl restart liftlock-agent
  done
  within 60 "an agent of every node with the coordinator again" agents_connected
  wanted absent | on coordinator install -m 0644 /dev/stdin /srv/plan.yaml
  ! liftlock plan -f /srv/plan.yaml > "$LOGS/unknown.txt" 2>&1 || die "a plan with a hook that no node has was not refused"
  grep -q unknown-hook "$LOGS/unknown.txt" || die "a hook that no node has is refused by another name: see $LOGS/unknown.txt"
  wanted mark | on coordinator install -m 0644 /dev/stdin /srv/plan.yaml
}

shown() { liftlock plan -f /srv/plan.yaml; }
begun() { liftlock apply -f /srv/plan.yaml --yes; }

fault() {
  within 120 "status to say which hook holds the plan" held_by_gate
  ! liftlock history -o json | jq --exit-status 'any(.[]; .kind == "lease-granted")' > /dev/null || die "a lease was granted past a hook that fails"
  on coordinator touch /srv/hooks/go
}

proof() {
  local cp1=${PREFIX}cp1 w1=${PREFIX}w1 node seen
  seen=$(on coordinator paste --serial --delimiters=, "$SEEN")
  [ "$seen" = "before-plan ,before-node $cp1,after-node $cp1,before-node $w1,after-node $w1" ] || echo "the coordinator's hook was called: $seen"
  for node in $(nodes); do
    seen=$(on "$node" paste --serial --delimiters=, /var/lib/mark.log)
    [ "$seen" = "before-node Kubernetes $FROM,after-node Kubernetes $TO" ] || echo "the hook of $node was called: $seen"
  done
  within 60 "the address to be told of the end" on coordinator test -s /srv/told
  seen=$(on coordinator cat /srv/told)
  jq --exit-status --slurp --arg to "$TO" 'length == 1 and (.[0] | .moment == "after-plan" and .outcome == "raised" and .toVersion == $to)' <<< "$seen" > /dev/null ||
    echo "the address was told: $seen"
  jq --exit-status '[.[] | select(.kind == "hook-failed")] | length == 1' "$LOGS/history.json" > /dev/null || echo "the history has not one failure of a hook"
}

held_by_gate() { liftlock status | grep "Held:.*gate.*nobody has said go"; }

# program NODE NAME LINE: as root would install it
program() { printf '#!/bin/sh\n%s\n' "$3" | on "$1" install -m 0755 /dev/stdin "/usr/local/sbin/$2"; }

# wanted NAME: a plan with this hook on the nodes
wanted() {
  cat << PLAN
apiVersion: liftlock.dev/v1
kind: UpgradePlan
metadata: {name: with-hooks}
spec:
  toVersion: $TO
  policy: {accepted: [$(consents | paste --serial --delimiters=,)]}
  hooks:
    beforePlan: [{name: gate, on: coordinator}, {name: record, on: coordinator}]
    beforeNode: [{name: record, on: coordinator}, {name: $1, on: node}]
    afterNode: [{name: $1, on: node}, {name: record, on: coordinator}]
    afterPlan: [{url: "http://127.0.0.1:8099/ended"}]
PLAN
}

# listener: keeps the body of each request in /srv/told and answers that all is well
listener() {
  program coordinator listener 'length=0
while read -r line; do
  line=$(printf %s "$line" | tr -d "\r" | tr "[:upper:]" "[:lower:]")
  case $line in content-length:*) length=${line#*:} ;; "") break ;; esac
done
head --bytes "$((length))" >> /srv/told
printf "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"'
  on coordinator install -m 0644 /dev/stdin /etc/systemd/system/listener.socket << 'UNIT'
[Socket]
ListenStream=127.0.0.1:8099
Accept=yes
UNIT
  on coordinator install -m 0644 /dev/stdin /etc/systemd/system/listener@.service << 'UNIT'
[Service]
ExecStart=/usr/local/sbin/listener
StandardInput=socket
UNIT
  on coordinator systemctl daemon-reload
  on coordinator systemctl start listener.socket
}
