# shellcheck shell=bash
# Container images, written by hand as an archive that `ctr images import` reads: no registry can be reached from the nodes, and nothing
# needs an image builder. One archive a version, with all that `kubeadm config images list` names, and the app's image.
#
# Every image is two layers: the base (a static busybox) and its own. Debian's etcd serves as etcd. CoreDNS is a stand-in: it answers its
# health and readiness ports and leaves on SIGTERM; names are not resolved in this cluster.

APP_IMAGE=liftlock.test/app:1
IMAGES_KEY=$(digest "${BASH_SOURCE[0]}" "$HERE"/images/*)-${SOURCE##*-}
SOMETIME=2021-01-13T13:20:00Z

image_archive() { echo "$CACHE/images-$IMAGES_KEY/$1.tar"; } # VERSION

images() { # VERSION...
  local version
  for version in "$@"; do
    [ -e "$(image_archive "$version")" ] && continue
    need busybox-static iptables conntrack gcc libc6-dev
    cached "images-$IMAGES_KEY/$version.tar" image_archive_make "$version"
  done
}

image_archive_make() { # INTO VERSION
  local into=$1 version=$2 work=$1.work ref name
  rm -rf "$work"
  mkdir -p "$work/archive"
  layer "$work/base" base_files
  for ref in $("$(programs "$version")/kubeadm" config images list --kubernetes-version "$version" 2>/dev/null) "$APP_IMAGE"; do
    name=${ref##*/}
    name=${name%:*}
    case $name in
      pause) image "$ref" pause_files /usr/local/bin/pause ;;
      coredns) image "$ref" coredns_files /usr/local/bin/coredns ;;
      app) image "$ref" app_files /usr/local/bin/app ;;
      etcd) image "$ref" etcd_files ;;
      kube-proxy) image "$ref" kube_proxy_files ;;
      kube-*) image "$ref" program_files ;;
      *) die "no idea how to build the image $ref" ;;
    esac
  done
  printf '[%s]\n' "$(paste -sd, "$work/manifest")" > "$work/archive/manifest.json"
  tar -cf "$into" -C "$work/archive" .
  rm -rf "$work"
}

# image REF FILES [ENTRYPOINT]: one image into $work/archive, with what the function FILES puts into a tree
image() {
  local ref=$1 files=$2 entry=${3:-} tree=$work/tree config base=$work/base.tar own
  own=$work/own.tar
  layer "$tree" "$files"
  mv "$tree.tar" "$own"
  add_layer "$base"
  base=$added
  add_layer "$own"
  own=$added
  config=$(printf '{"architecture":"amd64","os":"linux","created":"%s","config":{"Env":["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s","sha256:%s"]},"history":[{"created":"%s"},{"created":"%s"}]}' \
    "$SOMETIME" "${entry:+,\"Entrypoint\":[\"$entry\"]}" "$base" "$own" "$SOMETIME" "$SOMETIME")
  added=$(printf %s "$config" | sha256sum | cut -d' ' -f1)
  printf %s "$config" > "$work/archive/$added.json"
  printf '{"Config":"%s.json","RepoTags":["%s"],"Layers":["%s.tar","%s.tar"]}\n' "$added" "$ref" "$base" "$own" >> "$work/manifest"
}

# layer TREE FILES: TREE.tar, with the same bytes for the same content
layer() {
  rm -rf "$1"
  mkdir -p "$1/usr/local/bin"
  "$2" "$1"
  tar -cf "$1.tar" --sort=name --mtime="$SOMETIME" --owner=0 --group=0 --numeric-owner -C "$1" .
}

add_layer() { # TAR: into the archive under its digest, which is left in $added
  added=$(sha256sum "$1" | cut -d' ' -f1)
  cp "$1" "$work/archive/$added.tar"
}

base_files() {
  local applet
  mkdir -p "$1"/{bin,etc,run,tmp,var,www}
  cp /bin/busybox "$1/bin/"
  for applet in sh ls cat sleep httpd mkdir touch hostname wget; do ln -s busybox "$1/bin/$applet"; done
  echo root:x:0:0:root:/:/bin/sh > "$1/etc/passwd"
}

program_files() { cp "$(programs "$version")/$name" "$1/usr/local/bin/"; }

# The packages are unpacked, not installed: that would start an etcd on this machine.
etcd_files() {
  local package
  mkdir "$work/etcd"
  (cd "$work/etcd" && { apt-get -qq download etcd-server etcd-client || { apt-get -qq update && apt-get -qq download etcd-server etcd-client; }; })
  for package in "$work"/etcd/*.deb; do dpkg-deb --extract "$package" "$work/etcd"; done
  install -Dt "$1/usr/local/bin" "$work/etcd/usr/bin/etcd" "$work/etcd/usr/bin/etcdctl"
  with_libraries "$1" "$work/etcd/usr/bin/etcd" "$work/etcd/usr/bin/etcdctl"
}

pause_files() { gcc -Os -static -o "$1/usr/local/bin/pause" "$HERE/images/pause.c"; }
coredns_files() { install -m 755 "$HERE/images/coredns" "$1/usr/local/bin/"; mkdir "$1/www"; echo OK | tee "$1/www/health" > "$1/www/ready"; }
app_files() { install -m 755 "$HERE/images/app" "$1/usr/local/bin/"; }

kube_proxy_files() {
  local applet file plugins=/usr/lib/x86_64-linux-gnu/xtables
  program_files "$1"
  # The plugins ask for libraries of their own (statistic, which spreads a Service over its pods, for libm).
  for file in /usr/sbin/xtables-legacy-multi /usr/sbin/conntrack "$plugins"/*; do install -D "$file" "$1$file"; done
  with_libraries "$1" /usr/sbin/xtables-legacy-multi /usr/sbin/conntrack "$plugins"/*
  for applet in iptables ip6tables; do
    ln -s xtables-legacy-multi "$1/usr/sbin/$applet"
    ln -s xtables-legacy-multi "$1/usr/sbin/$applet-save"
    ln -s xtables-legacy-multi "$1/usr/sbin/$applet-restore"
  done
}

with_libraries() { # TREE PROGRAM...: the shared libraries that these programs of this machine ask for
  local tree=$1 library
  shift
  for library in $(ldd "$@" | grep -o '/[^ ]*\.so[^ ]*' | grep -v ':$' | sort -u); do install -D "$library" "$tree$library"; done
}
