# shellcheck shell=bash disable=SC2034
ABOUT="the only control plane fails at its drain, after kubeadm upgrade apply, and is put back: files, packages, kubeadm upgrade apply --force"
END="rolled back"

# A pod that no controller would start again is not deleted without the operator's word: the drain refuses.
before() {
  kubectl_ apply -f - << POD
apiVersion: v1
kind: Pod
metadata: {name: debug, namespace: default}
spec:
  nodeName: ${PREFIX}cp1
  tolerations: [{operator: Exists}]
  containers: [{name: app, image: "liftlock.test/app:1", imagePullPolicy: Never}]
POD
  kubectl_ wait --for=condition=Ready pod/debug --timeout=60s
}

# after: what an operator does who is asked
after() {
  liftlock rollback --node "${PREFIX}cp1"
  liftlock status --watch || true
  # kubeadm has changed it last, and the controllers need a moment.
  kubectl_ --namespace kube-system rollout status daemonset kube-proxy --timeout=120s
}

proof() {
  [ "$(undone cp1 kubeadm-upgrade-apply)" -ge 1 ] || echo "kubeadm upgrade apply was not undone"
  [ "$(leases_of cp1)" = 2 ] || echo "cp1 did not have one lease to raise it and one to roll it back"
}
