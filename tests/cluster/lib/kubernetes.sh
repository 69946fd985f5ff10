# shellcheck shell=bash
# The Kubernetes programs, from Debian's source package.
#
# Debian 12 carries the whole tree of one version. The version that a program reports is set while linking, so the same source linked
# twice is, for kubeadm, two versions: version policy, manifests, ConfigMap names and certificates all change. It is one code base
# nevertheless, and whoever quotes a result says so.

PROGRAMS=(kubeadm kubelet kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy)
GO=/usr/lib/go-1.19/bin/go
SOURCE=kubernetes-source-$(digest "${BASH_SOURCE[0]}")

# programs VERSION: the directory of that version's programs
programs() { echo "$CACHE/programs-${SOURCE##*-}/$1"; }

kubernetes() { # VERSION...
  local version
  for version in "$@"; do
    [ -e "$(programs "$version")" ] && continue
    need golang-1.19-go golang-github-modern-go-reflect2-dev ca-certificates
    cached "$SOURCE" kubernetes_source
    cached "programs-${SOURCE##*-}/$version" kubernetes_link "$version"
  done
}

in_gopath() { # TREE COMMAND...: Go as it was before modules
  local tree=$1
  shift
  (cd "$tree/src/k8s.io/kubernetes" &&
    env GOPATH="$tree" GO111MODULE=off GOFLAGS=-trimpath GOCACHE="$CACHE/go-build" CGO_ENABLED=0 GOTOOLCHAIN=local "$@")
}

kubernetes_source() { # INTO
  local into=$1 apt tree watcher list=$1/packages
  mkdir -p "$into/lists/partial" "$into/unpack" "$into/src/k8s.io"
  # Only Debian's own sources, in lists of our own: the machine's apt configuration is left as it is.
  cat > "$into/source.sources" <<SOURCES
Types: deb-src
URIs: $(debian_mirror)
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
  apt=(apt-get -qq -o "Dir::Etc::SourceList=$into/source.sources" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$into/lists" -o APT::Sandbox::User=root)
  "${apt[@]}" update
  (cd "$into" && "${apt[@]}" source --download-only kubernetes)
  tar -xzf "$into"/kubernetes_*.orig.tar.gz -C "$into/unpack"
  tree=$into/src/k8s.io/kubernetes
  mv "$into"/unpack/kubernetes-* "$tree"
  rm -rf "$into"/{unpack,lists,source.sources} "$into"/kubernetes_*

  # The vendored reflect2 crashes under Go 1.18 and later, in kubeadm's YAML; Debian's newer one does not.
  rm -r "$tree/vendor/github.com/modern-go/reflect2"
  cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 "$tree/vendor/github.com/modern-go/"
  rm -f "$tree"/vendor/github.com/modern-go/reflect2/*_test.go

  # A watch of Services that the apiserver ends (etcd without a leader for a moment, as at every join) is never closed towards the
  # client in this version, which then learns nothing of new Services for up to ten minutes. Later versions close it; so does this one.
  watcher=$tree/staging/src/k8s.io/apiserver/pkg/registry/generic/registry/decorated_watcher.go
  sed -i '/if !ok {/,/return/s/^\(\t*\)d\.cancel()$/&\n\1close(d.resultCh)/' "$watcher"
  [ "$(grep -c 'close(d.resultCh)' "$watcher")" = 2 ] || die "the mend of decorated_watcher.go does not fit this source"

  # The apiserver's OpenAPI definitions are generated and not in the package: made here, from every package that asks for them.
  in_gopath "$into" "$GO" build -o "$into/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  (cd "$tree" && grep -rl --include='*.go' '^// +k8s:openapi-gen=' pkg cmd staging/src/k8s.io) |
    sed -e 's#/[^/]*$##' -e '/testdata/d' -e 's#^staging/src/#vendor/#' -e 's#^#k8s.io/kubernetes/#' | sort -u > "$list"
  in_gopath "$into" env "PATH=$(dirname "$GO"):$PATH" "$into/openapi-gen" --logtostderr --input-dirs "$(paste -sd, "$list")" \
    --output-package k8s.io/kubernetes/pkg/generated/openapi --output-file-base zz_generated.openapi \
    --go-header-file vendor/k8s.io/code-generator/hack/boilerplate.go.txt --report-filename "$into/violations"
}

kubernetes_link() { # INTO VERSION
  local into=$1 version=$2 flags="-s -w" package variable
  [[ $version =~ ^v1\.([0-9]+)\.[0-9]+$ ]] || die "not a version that can be linked: $version (such as v1.20.2)"
  for package in k8s.io/kubernetes/vendor/k8s.io/{component-base,client-go/pkg}/version; do
    for variable in gitVersion="$version" gitMajor=1 gitMinor="${BASH_REMATCH[1]}" gitTreeState=clean buildDate=2021-01-13T13:20:00Z; do
      flags+=" -X $package.$variable"
    done
  done
  mkdir "$into"
  in_gopath "$CACHE/$SOURCE" "$GO" build -ldflags "$flags" -o "$into/" "${PROGRAMS[@]/#/./cmd/}"
  [ "$("$into/kubeadm" version -o short)" = "$version" ] || die "the linked kubeadm does not say $version"
}
