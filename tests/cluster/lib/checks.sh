# shellcheck shell=bash
# What must be true of a cluster that was raised. Each check prints one line for each thing that is wrong, on stdout, and fails then.
# They ask what runs (container runtimes, etcd, the API), never what a tool said it did.

CONTROL_PLANE_COMPONENTS=(kube-apiserver kube-controller-manager kube-scheduler)

wrong() { echo "$*"; faults=$((faults + 1)); }

# api_server_is_ready NODE: its own, whatever stands before it
api_server_is_ready() {
  on "$1" kubectl --kubeconfig /etc/kubernetes/admin.conf --server "https://$(node_address "$1"):6443" get --raw /readyz > /dev/null
}

# containers NODE: "name image" of each container that runs there, by its runtime
containers() {
  on "$1" bash -euc '
    running=$(ctr --namespace k8s.io tasks list | while read -r id _ state; do [ "$state" != RUNNING ] || echo "$id"; done)
    for id in $running; do
      ctr --namespace k8s.io containers info "$id" |
        sed -nE "s/^ *\"(io.kubernetes.container.name|Image)\": \"(.*)\",?\$/\2/p" | sort -u | paste -sd" "
    done' 2>/dev/null
}

check_containers() { # VERSION
  local faults=0 node name running
  for node in $(nodes); do
    running=$(containers "$node")
    if [[ $node == cp* ]]; then
      for name in "${CONTROL_PLANE_COMPONENTS[@]}"; do
        grep -q "/$name:$1\b" <<< "$running" || wrong "$node: no container of $name:$1 runs"
        ! grep "/$name:" <<< "$running" | grep -qv ":$1\b" || wrong "$node: another version of $name runs beside"
      done
      grep -q "/etcd:" <<< "$running" || wrong "$node: no etcd runs"
    fi
    grep -q "/kube-proxy:$1\b" <<< "$running" || wrong "$node: no container of kube-proxy:$1 runs"
  done
  ((faults == 0))
}

check_kubelets() { # VERSION
  local faults=0 node says
  for node in $(nodes); do
    says=$(kubectl_ get node "$PREFIX$node" -o 'jsonpath={.status.nodeInfo.kubeletVersion} {.status.conditions[?(@.type=="Ready")].status}')
    [ "$says" = "$1 True" ] || wrong "$node: kubelet and Ready are \"$says\", not \"$1 True\""
    says=$(on "$node" sh -c '/proc/$(systemctl show --property MainPID --value kubelet)/exe --version') || says=nothing
    [ "$says" = "Kubernetes $1" ] || wrong "$node: the kubelet that runs says \"$says\""
  done
  ((faults == 0))
}

check_packages() { # VERSION: installed, and held as before
  local faults=0 node says
  for node in $(nodes); do
    says=$(on "$node" dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n' kubeadm kubectl kubelet | tr -s ' \n' ' ')
    [ "$says" = "kubeadm ${1#v}-00 hi kubectl ${1#v}-00 hi kubelet ${1#v}-00 hi " ] || wrong "$node: packages are $says"
  done
  ((faults == 0))
}

check_schedulable() {
  local faults=0 node
  for node in $(kubectl_ get nodes -o 'jsonpath={range .items[?(@.spec.unschedulable==true)]}{.metadata.name}{"\n"}{end}'); do
    wrong "$node is still cordoned"
  done
  ((faults == 0))
}

# etcdctl_ NODE ARGUMENT...
etcdctl_() {
  local pki=/etc/kubernetes/pki/etcd
  on "$1" env ETCDCTL_API=3 etcdctl --endpoints https://127.0.0.1:2379 --cacert "$pki/ca.crt" --cert "$pki/healthcheck-client.crt" \
    --key "$pki/healthcheck-client.key" "${@:2}"
}

check_etcd() {
  local faults=0 node members
  for node in $(control_planes); do
    etcdctl_ "$node" endpoint health >/dev/null 2>&1 || wrong "$node: etcd is not healthy"
  done
  members=$(etcdctl_ cp1 member list | grep -c ', started, .*, false$') || members=0
  [ "$members" = "$(control_planes | wc -l)" ] || wrong "etcd has $members started members, not $(control_planes | wc -l)"
  [ -z "$(etcdctl_ cp1 alarm list)" ] || wrong "etcd has raised an alarm"
  ((faults == 0))
}

check_cluster_version() { # VERSION
  local faults=0 says
  says=$(kubectl_ --namespace kube-system get configmap kubeadm-config -o 'jsonpath={.data.ClusterConfiguration}' |
    sed -n 's/^kubernetesVersion: //p')
  [ "$says" = "$1" ] || wrong "kubeadm-config names $says"
  ((faults == 0))
}

# check_backups: on every control plane that was there before a snapshot that etcd itself can restore, and the manifests of before
check_backups() {
  local faults=0 node folder
  for node in $(control_planes); do
    [ "$node" != "${FRESH:-}" ] || continue
    folder=$(on "$node" sh -c 'ls -d /etc/kubernetes/tmp/liftlock-*/ 2>/dev/null | tail -n 1')
    [ -n "$folder" ] || { wrong "$node: no backup under /etc/kubernetes/tmp"; continue; }
    on "$node" bash -euc '
      [ "$(stat -c %a "$0")" = 700 ]
      snapshot=$(find "$0" -name "*.db" | head -n 1)
      [ "$(stat -c %a "$snapshot")" = 600 ]
      ETCDCTL_API=3 etcdctl snapshot restore "$snapshot" --data-dir "$(mktemp -d)/restored"
      find "$0" -name kube-apiserver.yaml | grep -q .
      find "$0" -name "*.part" | { ! grep -q .; }' "$folder" >/dev/null 2>&1 || wrong "$node: $folder is not a whole backup"
  done
  ((faults == 0))
}

# check_raised VERSION: all of these but the backups (a naive upgrade makes none)
check_raised() {
  local status=0
  check_containers "$1" || status=1
  check_kubelets "$1" || status=1
  check_packages "$1" || status=1
  check_cluster_version "$1" || status=1
  check_schedulable || status=1
  check_etcd || status=1
  return "$status"
}
