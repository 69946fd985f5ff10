//! A stand-in for a kubeadm cluster: as any user, without root, on the loopback network only.
//!
//! A node is a folder ([`node::NodeTree`]) that looks like a real node's root: manifests, pki, kubeconfigs, dpkg's
//! status, programs. The programs (kubeadm, apt-get, systemctl, …) are one binary that acts on the node named by
//! `LIFTLOCK_ROOT` ([`programs`]). What runs on a real node all the time (kubelet, API server, etcd, container
//! runtime, systemd) and the cluster's controllers are tasks of the process that holds the [`cluster::Cluster`].
//!
//! What the stand-ins claim about the real programs comes from transcripts in `tests/fixtures/real/`;
//! `tests/standin_is_true.rs` compares.

pub mod api;
pub mod cluster;
pub mod controllers;
pub mod cri;
pub mod etcd;
pub mod fault;
pub mod kubelet;
pub mod manifest;
pub mod node;
pub mod objects;
pub mod packages;
pub mod pki;
pub mod programs;
pub mod prometheus;
pub mod release;
pub mod rpm;
pub mod serve;
pub mod systemd;
pub mod webhook;
