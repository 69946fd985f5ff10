# shellcheck shell=bash disable=SC2034
ABOUT="one of three etcd members is down: no other member is stopped, and the raise begins once it is back"
CONTROL_PLANES=3

before() {
  on cp3 mv /etc/kubernetes/manifests/etcd.yaml /srv/etcd.yaml
  within 120 "etcd on cp3 to stop" member_is_down
  # The API server beside it asks its own member first of all.
  refused "api-server-unready quorum"
  on cp3 mv /srv/etcd.yaml /etc/kubernetes/manifests/etcd.yaml
  within 120 "etcd on cp3" check_etcd
  within 120 "the API server on cp3" api_server_is_ready cp3
}

member_is_down() { ! etcdctl_ cp3 endpoint health; }
