# shellcheck shell=bash disable=SC2034
ABOUT="the plan is an UpgradePlan in the cluster: kubectl creates it, waits for its condition, and shows what is refused and why"
MANIFESTS=/usr/share/doc/liftlock/kubernetes

# Word for word what docs/cli.md says, but for where kubectl is.
before() {
  local manifest
  for manifest in upgradeplans rbac; do on coordinator cat "$MANIFESTS/$manifest.yaml" | kubectl_ apply -f -; done
  kubectl_ wait --for=condition=Established --timeout=60s crd/upgradeplans.liftlock.dev
  within 30 "the token of the coordinator's account" has_token
  kubeconfig | on coordinator install -o liftlock -g liftlock -m 0600 /dev/stdin /etc/liftlock/plans.kubeconfig
  on coordinator sed -i 's|^#plans-kubeconfig = .*|plans-kubeconfig = "/etc/liftlock/plans.kubeconfig"|' /etc/liftlock/coordinator.toml
  on coordinator systemctl restart liftlock
  within 60 "an agent of every node with the coordinator again" agents_connected

  # The key opens nothing else.
  [ "$(may list upgradeplans)" = yes ] || die "the coordinator's account may not list upgradeplans"
  [ "$(may update upgradeplans --subresource=status)" = yes ] || die "the coordinator's account may not write their status"
  [ "$(may update upgradeplans)$(may get nodes)$(may create pods --subresource=eviction)$(may list secrets)" = nononono ] ||
    die "the coordinator's account may do more than it needs"

  ! wanted banana latest | kubectl_ apply -f - || die "the API server took a version that is none"
  wanted back v1.18.0 | kubectl_ apply -f -
  wanted misspelt "$TO" acepted | kubectl_ apply -f -
  within 60 "a downgrade to be refused" is back Accepted False Downgrade
  within 60 "an unknown field to be refused" is misspelt Accepted False Unreadable
  kubectl_ get upgradeplan misspelt -o 'jsonpath={.status.conditions[?(@.type=="Accepted")].message}' |
    grep -q '^spec.policy.acepted: there is no such field' || die "the unknown field is not named"
}

begun() {
  wanted autumn "$TO" | kubectl_ apply -f - || return
  # While the only API server is raised nobody answers kubectl.
  within 900 "upgradeplan autumn to have succeeded" kubectl_ wait --for=condition=Succeeded --timeout=60s upgradeplan/autumn
  kubectl_ get upgradeplans -o wide
}

fault() {
  within 300 "the object to tell of its roll-out" is autumn Progressing True Running
  kubectl_ get upgradeplan autumn -o yaml
}

proof() {
  local plan
  kubectl_ get upgradeplans -o json > "$LOGS/upgradeplans.json"
  is autumn Accepted True Begun || echo "autumn is not accepted"
  is autumn Progressing False Raised || echo "autumn goes on"
  is autumn Degraded False Raised || echo "autumn is degraded"
  is back Accepted False Downgrade || echo "the downgrade is not refused any more"
  plan=$(jq --raw-output .plan "$LOGS/status.json")
  jq --exit-status --arg plan "$plan" 'any(.items[]; .metadata.name == "autumn" and .status.planId == $plan
    and .status.nodes.raised == .status.nodes.total and .status.endedAt)' "$LOGS/upgradeplans.json" > /dev/null ||
    echo "autumn's status is not that of plan $plan"
  [ "$(jq --raw-output '[.[] | select(.kind == "plan-applied") | .operator] | join(" ")' "$LOGS/history.json")" = upgradeplan:autumn ] ||
    echo "not one plan was applied, or not by autumn"
  kubectl_ get events --field-selector involvedObject.kind=UpgradePlan,involvedObject.name=autumn -o json > "$LOGS/events.json"
  jq --exit-status '[.items[] | "\(.type) \(.reason)"] | contains(["Normal Running", "Normal Raised"])' "$LOGS/events.json" > /dev/null ||
    echo "no events tell how autumn went on and ended"
}

# wanted NAME VERSION [FIELD]: an object; FIELD is what it calls its consents
wanted() {
  printf 'apiVersion: liftlock.dev/v1\nkind: UpgradePlan\nmetadata: {name: %s}\nspec:\n  toVersion: %s\n  policy: {%s: [%s]}\n' \
    "$1" "$2" "${3:-accepted}" "$(consents | paste --serial --delimiters=,)"
}

# is NAME CONDITION STATUS REASON
is() {
  [ "$(kubectl_ get upgradeplan "$1" -o "jsonpath={.status.conditions[?(@.type==\"$2\")].status} {.status.conditions[?(@.type==\"$2\")].reason}")" = "$3 $4" ]
}

may() { kubectl_ auth can-i "$@" --as system:serviceaccount:kube-system:liftlock-plans 2> /dev/null || true; }

secret() { kubectl_ --namespace kube-system get secret liftlock-plans -o "jsonpath={.data.$1}"; }
has_token() { [ -n "$(secret token)" ]; }

kubeconfig() {
  cat << END
apiVersion: v1
kind: Config
current-context: plans
clusters: [{name: kubernetes, cluster: {server: "https://$(node_address cp1):6443", certificate-authority-data: $(secret 'ca\.crt')}}]
contexts: [{name: plans, context: {cluster: kubernetes, user: liftlock-plans}}]
users: [{name: liftlock-plans, user: {token: $(secret token | base64 --decode)}}]
END
}
