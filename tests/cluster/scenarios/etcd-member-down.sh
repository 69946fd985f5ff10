# shellcheck shell=bash disable=SC2034
ABOUT="one of three etcd members is down: no other member is stopped, and the raise begins once it is back"
CONTROL_PLANES=3

before() {
  on cp3 mv /etc/kubernetes/manifests/etcd.yaml /srv/etcd.yaml
  within 120 "etcd on cp3 to stop" member_is_down
  refused quorum
  on cp3 mv /srv/etcd.yaml /etc/kubernetes/manifests/etcd.yaml
  within 120 "etcd on cp3" check_etcd
}

member_is_down() { ! etcdctl_ cp3 endpoint health; }
