//! `liftlock.v1`, the messages between coordinator, agents and operators, and the few types that both
//! sides share: versions, names, fencing tokens, steps, the exact commands that a step runs, and enrollment.
//!
//! Also the parts of etcd's API and of the container runtime interface (CRI) that agents speak.

pub mod address;
pub mod argv;
pub mod blocked;
pub mod causes;
pub mod control_planes;
pub mod enrollment;
pub mod hooks;
pub mod join_token;
pub mod kube_proxy;
pub mod machine;
pub mod name;
pub mod not_raised;
pub mod packages;
pub mod pinned;
pub mod plan;
pub mod retention;
pub mod step;
pub mod strategy;
pub mod version;
pub mod workers;

#[allow(missing_docs, clippy::large_enum_variant, clippy::pedantic, unreachable_pub)]
/// Generated from `liftlock/v1/*.proto`; the documentation stands in those files.
pub mod v1 {
    tonic::include_proto!("liftlock.v1");

    /// The descriptors of `liftlock.v1`, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/liftlock.v1.bin"));

    /// What lets a machine in is printed nowhere.
    impl std::fmt::Debug for Invitation {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Invitation").field("api_server", &self.api_server).finish_non_exhaustive()
        }
    }
}

#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
/// Generated from `etcd/rpc.proto`.
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}

/// Generated from `cri/runtime.proto`.
#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
pub mod cri {
    /// Kubernetes 1.23 and later.
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
    }
    /// Runtimes before CRI v1, such as containerd before 1.6.
    pub mod v1alpha2 {
        tonic::include_proto!("runtime.v1alpha2");
    }
}
