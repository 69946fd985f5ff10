# shellcheck shell=bash
# The machine these scripts run on: what must hold there, and packages from its own Debian mirror.

# host_check: says what is missing before anything is begun.
host_check() {
  local codename
  [ "$(id -u)" = 0 ] || die "a real cluster needs root (containers with capabilities, packages by apt); run it as root"
  [ "$(uname -m)" = x86_64 ] || die "built for x86_64 only; this machine is $(uname -m)"
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-unknown}")
  [ "$codename" = bookworm ] || die "needs Debian 12 (bookworm), whose source package and Go are used; this is $codename"
}

# need PACKAGE...: installs those that are missing.
need() {
  local package missing=() apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  logged apt-update "${apt[@]}" update || die "apt-get update failed"
  logged "apt-install-${missing[0]}" "${apt[@]}" install -y --no-install-recommends "${missing[@]}" ||
    die "could not install ${missing[*]}"
}

# debian_mirror: where this machine gets Debian from.
debian_mirror() {
  local found
  found=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1)
  [ -n "$found" ] || found=$(sed -nE 's/^deb (\[[^]]*\] *)?([^ ]*).*/\2/p' /etc/apt/sources.list 2>/dev/null | head -n 1)
  echo "${found:-http://deb.debian.org/debian}"
}

# host_watches: all nodes of all clusters here are one user to the kernel, which gives a user 128 instances of inotify unless it is told
# otherwise; systemd, containerd and the kubelet of three clusters need more. Machines of their own have them each.
host_watches() {
  local setting=/proc/sys/fs/inotify/max_user_instances
  (($(< "$setting") >= 2048)) || echo 2048 > "$setting"
}
