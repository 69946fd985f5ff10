# shellcheck shell=bash disable=SC2034
ABOUT="a PodDisruptionBudget allows no eviction for half a minute of the worker's drain"
CONTROL_PLANES=1 WORKERS=2

fault() {
  within 600 "cp1's drain to have passed" at_step cp1 install-kubelet
  budget 2
  within 600 "w1's drain" at_step w1 drain
  sleep 30
  at_step w1 drain || die "the drain did not wait for the budget"
  budget 1
}

budget() { kubectl_ patch poddisruptionbudget app --type merge --patch "{\"spec\": {\"minAvailable\": $1}}"; }

proof() { [ "$(leases_of w1)" = 1 ] || echo "w1 had more than its one lease"; }
