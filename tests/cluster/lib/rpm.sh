# shellcheck shell=bash
# kubeadm, kubelet and kubectl as .rpm files of the new shape (version 1.20.2-150500.1.1), and Debian's own dnf on the nodes.

RPM_RELEASE=150500.1.1
RPMS_KEY=$(digest "${BASH_SOURCE[0]}" "$HERE"/packages/*)-${SOURCE##*-}
REPO_FILE=/etc/yum.repos.d/kubernetes.repo

rpms() { # VERSION...
  local version
  need rpm createrepo-c
  for version in "$@"; do cached "rpms-$RPMS_KEY/$version" rpms_build "$version"; done
  cached "dnf-$NODE_KEY" dnf_download
}

rpms_build() { # INTO VERSION
  local into=$1 version=$2 name
  mkdir "$into"
  for name in kubeadm kubelet kubectl; do
    rpm_spec "$name" "$version" > "$into/$name.spec"
    rpmbuild -bb --quiet --target x86_64 --define "_topdir $into/build" --define "_rpmdir $into" --define '_rpmfilename %{NVRA}.rpm' \
      --define '_binary_payload w1.gzdio' --define '_build_id_links none' --define 'debug_package %{nil}' \
      --define '__os_install_post %{nil}' "$into/$name.spec"
    rm -r "$into/build" "$into/$name.spec"
  done
}

rpm_spec() { # NAME VERSION
  local files=(/usr/bin/"$1") service=/usr/lib/systemd/system/kubelet.service
  printf '%s: %s\n' Name "$1" Version "${2#v}" Release "$RPM_RELEASE" License Apache-2.0 AutoReqProv no \
    Summary "$1, linked from Debian's source for a test cluster"
  [ "$1" != kubeadm ] || printf 'Requires: kubelet >= 1.13.0, kubectl >= 1.13.0\n'
  printf '%%description\n%%{summary}\n%%install\n'
  printf 'install -Dm 755 %s %%{buildroot}/usr/bin/%s\n' "$(programs "$2")/$1" "$1"
  case $1 in
    kubelet) files+=("$service") && printf 'install -Dm 644 %s %%{buildroot}%s\n' "$HERE/packages/kubelet.service" "$service" ;;
    kubeadm)
      files+=("%config(noreplace) $service.d/10-kubeadm.conf")
      printf 'install -Dm 644 %s %%{buildroot}%s\n' "$HERE/packages/10-kubeadm.conf" "$service.d/10-kubeadm.conf"
      ;;
  esac
  printf '%%files\n'
  printf '%s\n' "${files[@]}"
}

# dnf_download: the packages of Debian that a node lacks for dnf
dnf_download() { # INTO
  local apt=(apt-get -qq --yes --no-install-recommends --download-only -o "Dir::State::status=$1.status" -o "Dir::Cache::archives=$1" -o Debug::NoLocking=1)
  mkdir -p "$1/partial"
  tar -xOf "$CACHE/node-$NODE_KEY.tar" ./var/lib/dpkg/status > "$1.status"
  "${apt[@]}" install dnf rpm || { apt-get -qq update && "${apt[@]}" install dnf rpm; }
  rm -rf "$1.status" "$1/partial" "$1/lock"
}

# dnf_install NODE VERSION: dnf, and by it the packages, of which dpkg knows nothing. Debian's rpm would keep its database in root's home,
# which is protected; it lies where Red Hat's lies.
dnf_install() {
  docker cp "$CACHE/dnf-$NODE_KEY" "$PREFIX$1:/srv/dnf"
  docker cp "$CACHE/rpms-$RPMS_KEY/$2" "$PREFIX$1:/srv/rpms"
  on "$1" apt-get -qq update
  on "$1" sh -c 'DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends /srv/dnf/*.deb'
  echo '%_dbpath /var/lib/rpm' | on "$1" install -D -m 0644 /dev/stdin /etc/rpm/macros.database
  on "$1" sh -c 'mkdir -p /etc/yum.repos.d && dnf install --assumeyes /srv/rpms/*.rpm && rm -r /srv/dnf /srv/rpms'
  on "$1" systemctl enable --quiet kubelet
}

# repo_file VERSION: as Kubernetes' documentation has it
repo_file() {
  cat << REPO
# The minor is raised by hand, and then stands here: baseurl=$(split_url "$TO" rpm)
[kubernetes]
name=Kubernetes
baseurl=$(split_url "$1" rpm)
enabled=1
gpgcheck=0
exclude=kubelet kubeadm kubectl cri-tools kubernetes-cni
REPO
}

# dnf_used NODE: the node knows the repository of its own minor
dnf_used() {
  on "$1" sh -c ': > /etc/apt/sources.list'
  repo_file "$FROM" | on "$1" install -m 0640 /dev/stdin "$REPO_FILE"
  on "$1" dnf makecache
}

# repositories_of NODE: dnf's file as it is, and what dnf knows of kubeadm by it
repositories_of() {
  on "$1" sh -c 'sha256sum "$0" && stat --format "%n %U:%G %a" "$0" && dnf repoquery --quiet --cacheonly --disableexcludes=all kubeadm' "$REPO_FILE"
}
