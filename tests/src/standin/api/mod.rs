//! A stand-in kube-apiserver: the requests that Liftlock and kubeadm make, answered as the real one does.

pub mod answer;
pub mod apply;
pub mod authorizer;
pub mod custom;
pub mod eviction;
pub mod rbac;
pub mod server;
