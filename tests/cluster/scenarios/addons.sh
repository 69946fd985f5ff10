# shellcheck shell=bash disable=SC2034
ABOUT="the new version's add-ons change a Deployment, bring a ConfigMap and lack another: the plan shows it, and so it is after the raise"

# lay VERSION RELEASE MAP: a Deployment and a ConfigMap of this name, as root would put them there
lay() {
  local folder=/etc/liftlock/addons/$1
  on cp1 mkdir -p "$folder"
  docker exec -i "${PREFIX}cp1" sh -c "umask 022; cat > $folder/metrics.yaml" << MANIFESTS
apiVersion: v1
kind: Namespace
metadata: {name: metrics}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: metrics, namespace: metrics}
spec:
  replicas: 1
  selector: {matchLabels: {app: metrics}}
  template:
    metadata: {labels: {app: metrics}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: app
        image: liftlock.test/app:1
        imagePullPolicy: Never
        env: [{name: RELEASE, value: "$2"}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: $3, namespace: metrics}
data: {of: "$1"}
MANIFESTS
}

# What a raise to the earlier version would have left: applied server-side as the same manager, with its record.
before() {
  local digest
  lay "$FROM" first old
  kubectl_ create namespace metrics
  on cp1 sh -c "sed 's/^metadata: {/&labels: {liftlock.dev\/addons: \"true\"}, /' /etc/liftlock/addons/$FROM/metrics.yaml" |
    kubectl_ apply --server-side --force-conflicts --field-manager liftlock -f -
  digest=$(printf '0%.0s' {1..64})
  kubectl_ apply --server-side --field-manager liftlock -f - << RECORD
apiVersion: v1
kind: ConfigMap
metadata: {name: liftlock-addons, namespace: kube-system, labels: {liftlock.dev/addons: "true"}}
data:
  applied.json: '{"set":"$FROM","digest":"$digest","plan":"p-0123456789ab","complete":true,"objects":[{"apiVersion":"v1","kind":"Namespace","name":"metrics"},{"apiVersion":"apps/v1","kind":"Deployment","namespace":"metrics","name":"metrics"},{"apiVersion":"v1","kind":"ConfigMap","namespace":"metrics","name":"old"}]}'
RECORD
  kubectl_ rollout status deployment metrics --namespace metrics --timeout=120s
  # Nobody applied this one.
  kubectl_ create configmap theirs --namespace metrics
  lay "$TO" second new
}

proof() {
  local said
  grep -qF "1 created, 1 changed, 1 pruned, 1 unchanged" "$LOGS/plan.txt" || echo "the plan did not show what the add-ons change"
  grep -qF "Deployment metrics/metrics: spec.template.spec.containers[0].env[0].value" "$LOGS/plan.txt" || echo "the plan did not name the field"
  said=$(kubectl_ get deployment metrics --namespace metrics -o 'jsonpath={.spec.template.spec.containers[0].env[0].value} {.status.updatedReplicas}')
  [ "$said" = "second 1" ] || echo "the Deployment is not the new one, rolled out: $said"
  kubectl_ get configmap new theirs --namespace metrics > /dev/null || echo "what should be there is not"
  ! kubectl_ get configmap old --namespace metrics > /dev/null 2>&1 || echo "what is no longer in the manifests is there still"
  said=$(kubectl_ get configmap liftlock-addons --namespace kube-system -o 'jsonpath={.data.applied\.json}' | jq --raw-output '"\(.set) \(.complete) \(.objects | length)"')
  [ "$said" = "$TO true 3" ] || echo "the record says $said"
}
