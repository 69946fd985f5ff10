//! kube-proxy, whose pods are replaced one by one once `kubeadm upgrade apply` has changed its `DaemonSet`.

/// Above so many nodes nobody waits for kube-proxies: of many, few are away at a time, and replacing them all one by one may
/// take longer than the raise. A kubelet of 1.20 was seen to need up to a minute for each.
pub const FEW_NODES: u32 = 10;
