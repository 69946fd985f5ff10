# shellcheck shell=bash disable=SC2034
ABOUT="SIGKILL to dpkg while it unpacks the worker's kubelet"

fault() {
  within 600 "w1's drain" at_step w1 drain
  on w1 timeout 120 bash -c 'until pkill -KILL --full -- "^/usr/bin/dpkg .*--unpack"; do :; done'
}

proof() { [ "$(starts_of w1 install-kubelet)" -ge 2 ] || echo "the packages were not installed again"; }
