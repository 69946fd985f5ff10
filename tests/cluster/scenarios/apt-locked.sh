# shellcheck shell=bash disable=SC2034
ABOUT="somebody else holds dpkg's lock for half a minute of the worker's first installation"

fault() {
  within 600 "cp1's last steps" at_step cp1 verify-node
  # F_SETLK with F_WRLCK, as dpkg itself does, until the standard input ends.
  installation_waits | on w1 perl -e '
    my $whole = pack("s s x4 q q l x4", 1, 0, 0, 0, 0);
    open(my $lock, ">>", "/var/lib/dpkg/lock-frontend") or die $!;
    fcntl($lock, 6, $whole) or die $!;
    <STDIN>;'
}

installation_waits() {
  within 600 "w1's first installation" at_step w1 install-kubeadm
  sleep 30
  at_step w1 install-kubeadm || die "the installation did not wait for the lock"
}

proof() { [ "$(leases_of w1)" = 1 ] || echo "w1 had more than its one lease"; }
