# shellcheck shell=bash
# A cluster out of the nodes, with the real `kubeadm init` and `kubeadm join`.

# The nodes pass every preflight check; swap is the machine's business, not theirs, and the kubelet is told to run beside it.
PREFLIGHT=--ignore-preflight-errors=Swap
CRI_SOCKET=/run/containerd/containerd.sock

cluster_config() { # CERTIFICATE-KEY
  cat <<CONFIG
apiVersion: kubeadm.k8s.io/v1beta2
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: "$(node_address cp1)", bindPort: 6443}
nodeRegistration: {criSocket: "$CRI_SOCKET"}
certificateKey: "$1"
---
apiVersion: kubeadm.k8s.io/v1beta2
kind: ClusterConfiguration
kubernetesVersion: "$FROM"
# The first control plane is the way in, and no balancer stands before it: while it is raised, the others have no API.
controlPlaneEndpoint: "$(node_address cp1):6443"
networking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/16}
# The pod subnets belong to the nodes from the start (see node-boot).
controllerManager: {extraArgs: {allocate-node-cidrs: "false"}}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failSwapOn: false
# More may not be asked for without CAP_SYS_RESOURCE.
maxOpenFiles: 10000
# The disk is the machine's own, shared by all nodes: how full it is says nothing about one of them.
evictionHard: {nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
# Zero leaves the machine's own settings alone, which may not be written from here.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
CONFIG
}

cluster_init() { # CERTIFICATE-KEY
  cluster_config "$1" | on cp1 tee /srv/kubeadm.yaml
  on cp1 kubeadm init --config /srv/kubeadm.yaml --upload-certs "$PREFLIGHT"
}

# cluster_join NODE [ARGUMENT...]: with the command that kubeadm gave, in $JOIN
cluster_join() {
  local node=$1
  # shellcheck disable=SC2086 # a command line
  on "$node" $JOIN --cri-socket "$CRI_SOCKET" "$PREFLIGHT" "${@:2}"
}

cluster_ready() {
  kubectl_ wait --for=condition=Ready nodes --all --timeout=120s
  kubectl_ --namespace kube-system rollout status deployment coredns --timeout=120s
  kubectl_ --namespace kube-system rollout status daemonset kube-proxy --timeout=120s
}

# The shape of the cluster that stands is written down, for the programs that work on it later.
cluster_remember() {
  printf '%s=%s\n' FROM "$FROM" TO "$TO" CONTROL_PLANES "$CONTROL_PLANES" WORKERS "$WORKERS" SUBNET "$SUBNET" > "$STATE/shape"
}

cluster_shape() {
  [ -e "$STATE/shape" ] || die "no cluster stands: bring one up first (tests/cluster/up)"
  # shellcheck disable=SC1091
  . "$STATE/shape"
}

cluster_up() {
  local key node
  rm -f "$STATE/shape" "$STATE/gone"
  key=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
  nodes_remove
  network_start
  say "starting $CONTROL_PLANES control planes and $WORKERS workers at $FROM"
  # shellcheck disable=SC2046 # one word a node
  together node_prepare $(nodes)
  say "kubeadm init on cp1"
  logged kubeadm-init cluster_init "$key"
  JOIN=$(on cp1 kubeadm token create --print-join-command 2> "$LOGS/token.log")
  # One after another: each joins etcd, which takes one new member at a time.
  # shellcheck disable=SC2046
  for node in $(joined $(control_planes) | tail -n +2); do
    say "kubeadm join on $node"
    logged "kubeadm-join-$node" cluster_join "$node" --control-plane --certificate-key "$key"
  done
  say "kubeadm join on the workers"
  # shellcheck disable=SC2046
  together cluster_join $(joined $(workers))
  say "images of ${VIA[*]} $TO"
  # shellcheck disable=SC2046
  together images_target $(nodes)
  logged cluster-ready cluster_ready
  cluster_remember
}

images_target() {
  local version
  for version in "${VIA[@]}" "$TO"; do node_images "$1" "$version"; done
}
