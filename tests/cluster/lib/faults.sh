# shellcheck shell=bash
# What scenarios do to a cluster that is being raised, and how they know that it was done.

# at_step NODE STEP: whether the node is at that step under its lease
at_step() {
  liftlock status -o json 2>/dev/null |
    jq --exit-status --arg node "$PREFIX$1" --arg step "$2" 'any(.nodes[]; .name == $node and .phase == "leased" and .step == $step)' > /dev/null
}

# process_of NODE NAME: this machine's number of a process of that name on the node
process_of() { docker top "$PREFIX$1" -eo pid,comm | awk -v name="$2" '$2 == name { print $1; found = 1; exit } END { exit !found }'; }

# kubeadm_upgrades NODE STEP: returns once kubeadm runs there in that step
kubeadm_upgrades() {
  within 600 "$2 on $1" at_step "$1" "$2"
  within 60 "kubeadm on $1" process_of "$1" kubeadm
}

# kill_between_renames NODE COMPONENT: SIGKILL to the running kubeadm at the moment when it has moved the component's manifest away and
# not yet moved the new one in. The second rename fails and kills: strace stops the process at the call's entry, so nothing is left to luck.
kill_between_renames() {
  local pid
  pid=$(process_of "$1" kubeadm)
  timeout 300 strace --follow-forks --attach "$pid" --output "$LOGS/strace.txt" --trace-path "/etc/kubernetes/manifests/$2.yaml" \
    --trace rename,renameat,renameat2 --inject rename,renameat,renameat2:error=EIO:signal=SIGKILL:when=2 || true
  # The first rename came back, the second one never did. strace tells of a call in two lines where another thread had a word meanwhile.
  if ! grep -qE "\"/etc/kubernetes/manifests/$2\.yaml\"(\) += \?| <unfinished \.\.\.>)" "$LOGS/strace.txt" ||
    grep -qE 'rename[a-z0-9]* resumed>.* = -?[0-9]' "$LOGS/strace.txt"; then
    die "kubeadm on $1 was not killed between its renames of $2.yaml"
  fi
}

# lease_resumed NODE: how often the coordinator took up the node's lease again
lease_resumed() { jq --arg node "$PREFIX$1" '[.[] | select(.kind == "lease-resumed" and .node == $node)] | length' "$LOGS/history.json"; }

# leases_of NODE: how many leases it had
leases_of() { jq --arg node "$PREFIX$1" '[.[] | select(.kind == "lease-granted" and .node == $node)] | length' "$LOGS/history.json"; }

# agent_said NODE TEXT
agent_said() { grep -qF -- "$2" "$LOGS/agent-$1.log"; }

# undone NODE STEP: how often what the step did was put back
undone() {
  jq --arg node "$PREFIX$1" --arg step "$2" '[.[] | select(.kind == "step-undone" and .node == $node and (.text | contains($step)))] | length' "$LOGS/history.json"
}

# starts_of NODE STEP: how often the step was begun
starts_of() {
  jq --arg node "$PREFIX$1" --arg step "$2" '[.[] | select(.kind == "step-started" and .node == $node and (.text | contains($step)))] | length' "$LOGS/history.json"
}

# unmanaged_pod NODE: one that no controller would start again is not deleted without the operator's word, so the node's drain refuses
unmanaged_pod() {
  kubectl_ apply -f - << POD
apiVersion: v1
kind: Pod
metadata: {name: debug, namespace: default}
spec:
  nodeName: $PREFIX$1
  tolerations: [{operator: Exists}]
  containers: [{name: app, image: "liftlock.test/app:1", imagePullPolicy: Never}]
POD
  kubectl_ wait --for=condition=Ready pod/debug --timeout=60s
}
