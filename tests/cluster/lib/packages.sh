# shellcheck shell=bash
# kubeadm, kubelet and kubectl as .deb files of the old shape (version 1.20.2-00) in an apt repository in a directory, which the nodes see
# read-only. They ask for it with apt's copy: method, so that a download is one.

PACKAGES_KEY=$(digest "${BASH_SOURCE[0]}" "$HERE"/packages/*)-${SOURCE##*-}

repository() { echo "$CACHE/packages-$PACKAGES_KEY-$(tr ' ' _ <<< "$*")"; } # VERSION...

packages() { # VERSION...
  local version
  [ -e "$(repository "$@")" ] && return
  need dpkg-dev
  for version in "$@"; do cached "packages-$PACKAGES_KEY/$version" packages_build "$version"; done
  cached "$(basename "$(repository "$@")")" repository_make "$@"
}

packages_build() { # INTO VERSION
  local into=$1 version=$2 name tree
  mkdir "$into"
  for name in kubeadm kubelet kubectl; do
    tree=$into/tree
    mkdir -p "$tree/DEBIAN" "$tree/usr/bin"
    cp "$(programs "$version")/$name" "$tree/usr/bin/"
    {
      printf 'Package: %s\nVersion: %s-00\nArchitecture: amd64\nSection: misc\nPriority: optional\n' "$name" "${version#v}"
      printf 'Maintainer: Liftlock tests <nobody@liftlock.test>\n'
      [ "$name" != kubeadm ] || printf 'Depends: kubelet (>= 1.13.0), kubectl (>= 1.13.0)\n'
      printf 'Description: %s, linked from Debian'\''s source for a test cluster\n' "$name"
    } > "$tree/DEBIAN/control"
    case $name in
      kubelet) install -Dm 644 "$HERE/packages/kubelet.service" "$tree/lib/systemd/system/kubelet.service" ;;
      kubeadm)
        install -Dm 644 "$HERE/packages/10-kubeadm.conf" "$tree/etc/systemd/system/kubelet.service.d/10-kubeadm.conf"
        echo /etc/systemd/system/kubelet.service.d/10-kubeadm.conf > "$tree/DEBIAN/conffiles"
        ;;
    esac
    dpkg-deb --build --root-owner-group -Zgzip -z1 "$tree" "$into/${name}_${version#v}-00_amd64.deb"
    rm -r "$tree"
  done
}

repository_make() { # INTO VERSION...
  local into=$1 version
  mkdir "$into"
  for version in "${@:2}"; do cp "$CACHE/packages-$PACKAGES_KEY/$version"/*.deb "$into/"; done
  (cd "$into" && dpkg-scanpackages --multiversion . > Packages)
}
