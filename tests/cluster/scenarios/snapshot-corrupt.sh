# shellcheck shell=bash disable=SC2034
ABOUT="a byte of etcd's database was flipped on its disk, where etcd itself does not look: its snapshot does not rehearse, and nothing is begun"
END=asks

# The first of the many revisions of the node's Lease: the number of the revision in it is no longer that which it is stored under. bbolt
# leaves earlier copies of a page behind, and nothing tells them from the one that counts: the same byte is flipped in each.
before() {
  on cp1 perl -e '
    my ($file, $key) = @ARGV;
    open(my $database, "+<:raw", $file) or die "$file: $!";
    my $all = do { local $/; <$database> };
    my $number = qr/[\x80-\xff]*[\x00-\x7f]/;
    my $copies = 0;
    while ($all =~ /\Q$key\E\x10$number\x18(?=$number\x20\x01)/g) {
      seek($database, pos($all), 0) or die $!;
      print $database chr(ord(substr($all, pos($all), 1)) ^ 1);
      $copies++;
    }
    close($database) or die $!;
    die "no first revision of $key in $file\n" unless $copies;' /var/lib/etcd/member/snap/db "/registry/leases/kube-node-lease/${PREFIX}cp1"
}

proof() {
  jq --exit-status 'any(.[]; .kind == "step-failed" and (.text | contains("it cannot be restored: page")))' "$LOGS/history.json" > /dev/null ||
    echo "nobody said that the snapshot cannot be restored"
  [ "$(starts_of cp1 install-kubeadm)" = 0 ] || echo "a change was begun on cp1"
  [ "$(leases_of w1)" = 0 ] || echo "w1 was leased"
}
