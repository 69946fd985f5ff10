# shellcheck shell=bash disable=SC2034
ABOUT="a budget that lets nothing go lies on the last worker: the plan names it before anything is touched, and there the drain waits"
CONTROL_PLANES=1 WORKERS=2

before() {
  kubectl_ apply -f - << END
apiVersion: apps/v1
kind: Deployment
metadata: {name: last, namespace: default}
spec:
  replicas: 1
  selector: {matchLabels: {app: last}}
  template:
    metadata: {labels: {app: last}}
    spec:
      nodeSelector: {kubernetes.io/hostname: ${PREFIX}w2}
      containers: [{name: last, image: "liftlock.test/app:1", imagePullPolicy: Never}]
---
apiVersion: policy/v1beta1
kind: PodDisruptionBudget
metadata: {name: last, namespace: default}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: last}}
END
  kubectl_ rollout status deployment last --timeout=120s
  within 60 "a healthy pod in the planted budget" is_counted
  forecast > "$LOGS/forecast.json"
  jq --exit-status --arg node "${PREFIX}w2" '
    [.findings[] | select(.kind == "blocked" or .kind == "refused")]
    | length == 1 and .[0].kind == "blocked" and .[0].node == $node and .[0].workload == "Deployment default/last"
      and .[0].budgets == [{namespace: "default", name: "last", rule: "minAvailable: 1",
                            disruptions_allowed: 0, current_healthy: 1, desired_healthy: 1}]' "$LOGS/forecast.json" > /dev/null ||
    die "the plan does not forecast the planted budget, and that alone: see $LOGS/forecast.json"
  [ -z "$(kubectl_ get nodes -o 'jsonpath={.items[?(@.spec.unschedulable==true)].metadata.name}')" ] ||
    die "a node was cordoned by a plan"
}

fault() {
  within 900 "w2's drain to wait for the planted budget" waits_for_it
  kubectl_ patch poddisruptionbudget last --type merge --patch '{"spec": {"minAvailable": 0}}'
}

proof() { [ "$(leases_of w1)" = 1 ] && [ "$(leases_of w2)" = 1 ] || echo "a worker had more than its one lease"; }

is_counted() { [ "$(kubectl_ get poddisruptionbudget last -o 'jsonpath={.status.currentHealthy}')" = 1 ]; }

forecast() { planned -o json | jq .forecast; }

waits_for_it() {
  at_step w2 drain &&
    liftlock status -o json | jq --exit-status 'any(.nodes[]; .last_output // "" | contains("The disruption budget last needs 1 healthy pods"))'
}
