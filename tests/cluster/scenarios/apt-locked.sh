# shellcheck shell=bash disable=SC2034
ABOUT="somebody else holds dpkg's lock for forty seconds when the worker's lease begins"

fault() {
  within 600 "cp1's last steps" at_step cp1 verify-node
  # F_SETLK with F_WRLCK, as dpkg itself does.
  on w1 perl -e 'open(my $lock, ">>", "/var/lib/dpkg/lock-frontend") or die; fcntl($lock, 6, pack("s s x4 q q l x4", 1, 0, 0, 0, 0)) or die $!; sleep 40'
}

proof() { [ "$(leases_of w1)" = 1 ] || echo "w1 had more than its one lease"; }
