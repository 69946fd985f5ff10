# shellcheck shell=bash disable=SC2034
ABOUT="the API server's certificate for etcd has expired: the plan says so, and goes on once kubeadm has renewed it"

before() {
  local pki=/etc/kubernetes/pki
  # A certificate of the same key, subject and usage that ended yesterday; what runs has read the good one.
  on cp1 bash -euc '
    cd "$0"
    openssl req -new -key apiserver-etcd-client.key -subj "/O=system:masters/CN=kube-apiserver-etcd-client" |
      openssl x509 -req -CA etcd/ca.crt -CAkey etcd/ca.key -set_serial 1 -days -1 \
        -extfile <(echo extendedKeyUsage = clientAuth) -out apiserver-etcd-client.crt' "$pki"
  refused certificate-expired
  # Its manifest serves 1.19 and 1.20, whose names for the same command differ.
  on cp1 sh -c 'kubeadm certs renew apiserver-etcd-client || kubeadm alpha certs renew apiserver-etcd-client'
}
