# shellcheck shell=bash disable=SC2034
ABOUT="budgets let nothing go from either worker: by the plan's word w1's pod is deleted, w2 is passed over, put back and raised once its budget is mended"
CONTROL_PLANES=1 WORKERS=2
POLICY=(--drain-timeout 40s --on-blocked "${PREFIX}w1=force" --on-blocked "${PREFIX}w2=skip")
ASKS_FIRST=yes

before() {
  local worker
  for worker in w1 w2; do pinned "$worker" | kubectl_ apply -f -; done
  for worker in w1 w2; do
    kubectl_ rollout status deployment "last-$worker" --timeout=120s
    within 60 "a healthy pod in the budget of $worker" is_counted "$worker"
  done
  pod w1 > "$LOGS/pod-w1"
  pod w2 > "$LOGS/pod-w2"
  planned "${POLICY[@]}" > "$LOGS/forecast.txt"
}

after() {
  liftlock status -o json | tee "$LOGS/status-halted.json"
  kubectl_ get node "${PREFIX}w2" -o 'jsonpath={.spec.unschedulable}{.status.nodeInfo.kubeletVersion}' > "$LOGS/w2-halted"
  pod w2 > "$LOGS/pod-w2-halted"
  kubectl_ delete poddisruptionbudget last-w2
  liftlock retry "${PREFIX}w2"
  liftlock status --watch
}

proof() {
  jq --exit-status --arg w1 "${PREFIX}w1" --arg w2 "${PREFIX}w2" '.phase == "halted" and (.reason | contains("could not be drained")) and
    ([.nodes[] | select(.name == $w1 or .name == $w2) | .phase] == ["raised", "quarantined"])' "$LOGS/status-halted.json" > /dev/null ||
    echo "w1 was not raised and w2 not passed over: see $LOGS/status-halted.json"
  [ "$(cat "$LOGS/w2-halted")" = "$FROM" ] || echo "w2 was not put back as it was: $(cat "$LOGS/w2-halted")"
  [ "$(cat "$LOGS/pod-w2")" = "$(cat "$LOGS/pod-w2-halted")" ] || echo "the pod of w2 was moved though its budget lets nothing go"
  [ "$(pod w1)" != "$(cat "$LOGS/pod-w1")" ] || echo "the pod of w1 was never deleted"
  # Raised; leased, put back and leased anew.
  [ "$(leases_of w1) $(leases_of w2)" = "1 3" ] || echo "the workers had $(leases_of w1) and $(leases_of w2) leases"
  grep -q last-w1 "$LOGS/forecast.txt" && grep -q last-w2 "$LOGS/forecast.txt" || echo "the forecast did not name both: see $LOGS/forecast.txt"
}

is_counted() { [ "$(kubectl_ get poddisruptionbudget "last-$1" -o 'jsonpath={.status.currentHealthy}')" = 1 ]; }

# pod WORKER: the uid of the pod that is pinned there
pod() { kubectl_ get pods --selector "app=last-$1" -o 'jsonpath={.items[*].metadata.uid}'; }

# pinned WORKER: a pod that can run nowhere else, and a budget that lets it never go
pinned() {
  cat << END
apiVersion: apps/v1
kind: Deployment
metadata: {name: last-$1, namespace: default}
spec:
  replicas: 1
  selector: {matchLabels: {app: last-$1}}
  template:
    metadata: {labels: {app: last-$1}}
    spec:
      nodeSelector: {kubernetes.io/hostname: $PREFIX$1}
      terminationGracePeriodSeconds: 1
      containers: [{name: last, image: "liftlock.test/app:1", imagePullPolicy: Never}]
---
apiVersion: policy/v1beta1
kind: PodDisruptionBudget
metadata: {name: last-$1, namespace: default}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: last-$1}}
END
}
