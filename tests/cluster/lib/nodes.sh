# shellcheck shell=bash
# The machines: one container a node, each with systemd, containerd, the packages at FROM and every image.

# Where a name lives on the network: control planes from .11, workers from .21. The last number names its pod subnet, too.
node_number() {
  case $1 in
    cp*) echo $((10 + ${1#cp})) ;;
    w*) echo $((20 + ${1#w})) ;;
    coordinator) echo 2 ;;
    client) echo 3 ;;
    operator) echo 4 ;;
    next) echo 5 ;;
    repository) echo 6 ;;
    *) die "no node is called $1" ;;
  esac
}
node_address() { echo "$SUBNET.$(node_number "$1")"; }
node_pods() { echo "10.244.$(node_number "$1").0/24"; }

control_planes() { seq -f 'cp%g' "$CONTROL_PLANES" | staying; }
workers() { ((WORKERS == 0)) || seq -f 'w%g' "$WORKERS" | staying; }
# Without those that have left for good, which a scenario writes down.
staying() { grep --invert-match --line-regexp --fixed-strings --file <(cat "$STATE/gone" 2>/dev/null) || true; }
# joined NODE...: without the machine that has its packages and has not joined, if there is one
joined() { printf '%s\n' "$@" | grep --invert-match --line-regexp --fixed-strings -- "${FRESH:-none}" || true; }
nodes() { control_planes; workers; }

# on NODE COMMAND...: there, with our stdin
on() {
  local node=$1
  shift
  docker exec -i "$PREFIX$node" "$@"
}

# kubectl_ ARGUMENT...: as the administrator, on the first control plane
kubectl_() { on cp1 kubectl --kubeconfig /etc/kubernetes/admin.conf "$@"; }

network_start() {
  docker network inspect "$NETWORK" >/dev/null 2>&1 ||
    docker network create --label "$LABEL" --subnet "$SUBNET.0/24" "$NETWORK" > /dev/null ||
    die "no network $SUBNET.0/24: set LIFTLOCK_CLUSTER_SUBNET to three numbers that are free here"
}

# container NAME [DOCKER ARGUMENT...]: a container of this cluster, from the node image
container() {
  local name=$1
  shift
  docker run --detach --label "$LABEL" --name "$PREFIX$name" --hostname "$PREFIX$name" --network "$NETWORK" \
    --ip "$(node_address "$name")" "$@"
}

# machine NAME [DOCKER ARGUMENT...]: a container in which systemd runs, until it does. All capabilities but CAP_SYS_RESOURCE, which the
# root of a machine inside a machine often has not got itself (then `--privileged` fails). /var is a volume, since containerd's overlays do
# not stack on the container's own.
machine() {
  local name=$1
  shift
  container "$name" --cap-add ALL --cap-drop SYS_RESOURCE \
    --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined \
    --device-cgroup-rule 'a *:* rwm' --cgroupns private --stop-signal SIGRTMIN+3 \
    --tmpfs /run:exec --tmpfs /tmp:exec --volume /var --env "NODE_PODS=$(node_pods "$name")" "$@" "$NODE_IMAGE"
  within 60 "systemd on $name" on "$name" systemctl is-active --quiet dbus.socket
}

# outlives NODE: its folders that outlive its container, one a line; a scenario may have some
outlives() { :; }

# volume NODE FOLDER: the volume of a folder that outlives the container
volume() { echo "$PREFIX$1${2//\//-}"; }

node_start() {
  local node=$1 other routes="" folder version volumes=()
  for other in $(nodes); do
    [ "$other" = "$node" ] || routes+=" $(node_pods "$other")=$(node_address "$other")"
  done
  for folder in $(outlives "$node"); do
    docker volume create --label "$LABEL" "$(volume "$node" "$folder")"
    volumes+=(--volume "$(volume "$node" "$folder"):$folder")
  done
  for version in $(versions); do volumes+=(--volume "$(image_archive "$version"):/srv/images/$version.tar:ro"); done
  # shellcheck disable=SC2046 # one word a version
  machine "$node" --env "NODE_ROUTES=$routes" "${volumes[@]}" --volume "$(repository $(versions)):/srv/packages:ro"
  within 60 "containerd on $node" on "$node" ctr version
}

node_install() { # NODE VERSION
  local release=${2#v}-00
  on "$1" apt-get -qq update
  on "$1" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "kubeadm=$release" "kubelet=$release" "kubectl=$release"
  on "$1" apt-mark hold kubeadm kubelet kubectl
  on "$1" systemctl enable --quiet kubelet
}

node_images() { on "$1" ctr --namespace k8s.io images import "/srv/images/$2.tar"; } # NODE VERSION

# node_prepare NODE: from nothing to where kubeadm can begin
node_prepare() {
  node_start "$1"
  node_install "$1" "$FROM"
  node_images "$1" "$FROM"
}

# The containers of this cluster and their volumes and images, then its network.
nodes_remove() {
  local ids
  ids=$(docker ps --all --quiet --filter "label=$LABEL")
  # shellcheck disable=SC2086 # one word an id
  [ -z "$ids" ] || docker rm --force --volumes $ids > /dev/null
  ids=$(docker volume ls --quiet --filter "label=$LABEL")
  # shellcheck disable=SC2086
  [ -z "$ids" ] || docker volume rm $ids > /dev/null
  ids=$(docker image ls --quiet --filter "label=$LABEL")
  # shellcheck disable=SC2086
  [ -z "$ids" ] || docker image rm --force $ids > /dev/null
  ! docker network inspect "$NETWORK" >/dev/null 2>&1 || docker network rm "$NETWORK" > /dev/null
}
