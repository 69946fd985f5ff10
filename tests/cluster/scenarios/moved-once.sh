# shellcheck shell=bash disable=SC2034
# With LIFTLOCK_CLUSTER_TAINT=no the same without the taint, for comparison.
ABOUT="twelve pods on three workers, of which the first raised is the fullest: whatever lands on a raised node stays there"
CONTROL_PLANES=1 WORKERS=3
TAINT=${LIFTLOCK_CLUSTER_TAINT:-yes}

before() {
  if [ "$TAINT" = no ]; then
    on coordinator sh -c 'echo "taint-not-raised = false" >> /etc/liftlock/coordinator.toml'
    on coordinator systemctl restart liftlock
    within 60 "an agent of every node with the coordinator" agents_connected
  fi
  kubectl_ apply -f - << END_OF_SHOP
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: default}
spec:
  replicas: 0
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - {name: shop, image: "liftlock.test/app:1", imagePullPolicy: Never, resources: {requests: {cpu: 10m, memory: 16Mi}}}
END_OF_SHOP
  four_each
  # What fills w1 and can be nowhere else: without the taint the other workers look better to the scheduler, raised or not. Of a node's two
  # processors it takes as much as half of the taint's weight makes up for: with more the two are as good as each other, and chance decides.
  kubectl_ apply -f - << END_OF_BALLAST
apiVersion: apps/v1
kind: Deployment
metadata: {name: ballast, namespace: default}
spec:
  replicas: 1
  selector: {matchLabels: {app: ballast}}
  template:
    metadata: {labels: {app: ballast}}
    spec:
      nodeSelector: {kubernetes.io/hostname: ${PREFIX}w1}
      terminationGracePeriodSeconds: 5
      containers:
        - {name: ballast, image: "liftlock.test/app:1", imagePullPolicy: Never, resources: {requests: {cpu: 750m, memory: 1Gi}}}
END_OF_BALLAST
  kubectl_ rollout status deployment ballast --timeout=120s
  of_first > "$LOGS/of-first"
  bound | wc -l > "$LOGS/bound-before"
}

# four_each: where they begin is not left to the scheduler, so that two runs can be compared
four_each() {
  local worker other pods=0
  for worker in $(workers); do
    for other in $(workers); do [ "$other" = "$worker" ] || kubectl_ cordon "$PREFIX$other"; done
    pods=$((pods + 4))
    kubectl_ scale deployment shop --replicas "$pods"
    kubectl_ rollout status deployment shop --timeout=120s
    for other in $(workers); do kubectl_ uncordon "$PREFIX$other"; done
  done
}

# of_first: how many pods of the shop the worker has that is drained first
of_first() { kubectl_ get pods -l app=shop --field-selector "spec.nodeName=${PREFIX}w1" -o name | wc -l; }

# bound: one line for each pod of the shop that was ever bound to a node: when, and where
bound() {
  kubectl_ get events --field-selector reason=Scheduled -o json |
    jq --raw-output '.items[] | select(.message | test("assigned default/shop-"))
      | "\(.eventTime // .firstTimestamp) \(.message | sub(".* to "; ""))"' | sort
}

moves() { echo $(($(bound | wc -l) - $(cat "$LOGS/bound-before"))); }

# drains: seconds of each worker's drain, by the coordinator's history
drains() {
  jq --compact-output '[group_by(.node)[] | select(any(.[]; .text | endswith(" drain")))
    | {node: .[0].node,
       at: (map(select(.kind == "step-started" and (.text | endswith(" began drain")))) | last | .time),
       end: (map(select(.kind == "step-succeeded" and (.text | endswith(" did drain")))) | last | .time)}
    | select(.at and .end)
    | {(.node): ((.end | sub("\\.[0-9]+Z$"; "Z") | fromdate) - (.at | sub("\\.[0-9]+Z$"; "Z") | fromdate))}] | add' "$LOGS/history.json"
}

figures() {
  bound > "$LOGS/bound"
  jq --null-input --compact-output --arg taint "$TAINT" --argjson moves "$(moves)" --argjson first "$(cat "$LOGS/of-first")" --argjson drains "$(drains)" \
    '{taint: $taint, pods: 12, moves: $moves, moves_per_pod: ($moves / 12 * 100 | round / 100), least_moves: (12 + $first), drain_s: $drains}'
}

marked() { kubectl_ get nodes -o 'jsonpath={.items[*].spec.taints[*].key}' | grep -F liftlock.dev/not-raised; }

proof() {
  local moves
  ! marked > /dev/null || echo "a node still carries the taint of what is not raised"
  moves=$(moves)
  # Those of the first worker have no raised node to go to, and are moved once more.
  [ "$TAINT" = no ] || ((moves <= 12 + $(cat "$LOGS/of-first"))) || echo "pods were moved $moves times, and $((12 + $(cat "$LOGS/of-first"))) would have done"
}
