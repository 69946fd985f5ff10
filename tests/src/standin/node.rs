//! A stand-in node: a folder that looks like a node's root, and beside it what the stand-ins keep for themselves.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::standin::manifest::{self, EtcdOrigin};
use crate::standin::packages::{Dpkg, Package, Repository};
use crate::standin::pki::{Authority, write_secret};
use crate::standin::release::{Release, STATIC_PODS};

/// Stands for a slash in a file's name; no image has one in its own.
const SLASH: &str = "!";

/// The programs that a stand-in node has.
pub const PROGRAMS: [&str; 12] = [
    "kubeadm",
    "kubelet",
    "apt-get",
    "apt-cache",
    "apt-mark",
    "dpkg",
    "dpkg-query",
    "dpkg-deb",
    "ctr",
    "systemctl",
    "systemd-run",
    "etcdctl",
];

/// The command that replaces a node's system.
pub const REPLACE: &str = "/usr/local/sbin/replace-system";

/// The folder that outlives a node's system.
pub const PERSISTENT: &str = "/mnt/persistent";

/// Names the node that a stand-in program acts on: its root.
pub const ROOT_VARIABLE: &str = "LIFTLOCK_ROOT";

/// What a node is, fixed when it is made. Kept beside its root, where the stand-in programs read it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The Kubernetes Node's name.
    pub name: String,
    /// Its address, somewhere in 127.0.0.0/8.
    pub address: Ipv4Addr,
    /// The address that kubeconfigs name; a load balancer in front of the API servers.
    pub load_balancer: Ipv4Addr,
    /// Runs static control-plane pods and etcd.
    pub control_plane: bool,
    /// The folder that apt-get reads its packages from.
    pub repository: Utf8PathBuf,
    /// How slow things are.
    pub tempo: Tempo,
}

/// How long things take in a stand-in cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tempo {
    /// From a changed manifest to its running container, and from a bound pod to a ready one.
    pub container_start: Duration,
    /// From an eviction to the pod's end.
    pub pod_grace: Duration,
    /// Between the stages of kubeadm and of the package manager.
    pub stage: Duration,
}

impl Default for Tempo {
    fn default() -> Self {
        Self::paced(1.0)
    }
}

impl Tempo {
    /// The usual tempo, this many times slower.
    pub fn paced(factor: f64) -> Self {
        Self {
            container_start: Duration::from_millis(60).mul_f64(factor),
            pod_grace: Duration::from_millis(60).mul_f64(factor),
            stage: Duration::from_millis(10).mul_f64(factor),
        }
    }
}

/// A stand-in node's folder.
#[derive(Debug, Clone)]
pub struct NodeTree {
    dir: Utf8PathBuf,
}

impl NodeTree {
    /// The node whose folder this is.
    pub fn new(dir: impl Into<Utf8PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The node whose root this is.
    pub fn of_root(root: &Utf8Path) -> Result<Self> {
        Ok(Self::new(root.parent().with_context(|| format!("{root} is not a stand-in node's root"))?))
    }

    /// What stands for `/`.
    pub fn root(&self) -> Utf8PathBuf {
        self.dir.join("root")
    }

    /// `path` (absolute, as on a real node) on this node.
    pub fn at(&self, path: &str) -> Utf8PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// Where armed faults lie.
    pub fn faults(&self) -> Utf8PathBuf {
        self.dir.join("faults")
    }

    /// Where the process id of its liftlock-agent lies, for whoever ends the system under it.
    pub fn agent_pid(&self) -> Utf8PathBuf {
        self.dir.join("agent.pid")
    }

    /// The folder with the node's programs.
    pub fn programs(&self) -> Utf8PathBuf {
        self.at("/usr/bin")
    }

    /// Its liftlock-agent's state.
    pub fn agent_state(&self) -> Utf8PathBuf {
        self.at("/var/lib/liftlock")
    }

    /// Where the stand-in systemd listens.
    pub fn systemd_socket(&self) -> Utf8PathBuf {
        self.at("/run/systemd/private")
    }

    /// Where the stand-in container runtime listens.
    pub fn runtime_socket(&self) -> Utf8PathBuf {
        self.at("/run/containerd/containerd.sock")
    }

    /// What it is.
    pub fn facts(&self) -> Result<NodeFacts> {
        let path = self.dir.join("node.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
        serde_json::from_slice(&text).with_context(|| format!("{path} does not read"))
    }

    /// A static pod's manifest.
    pub fn manifest(&self, component: &str) -> Utf8PathBuf {
        self.at("/etc/kubernetes/manifests").join(format!("{component}.yaml"))
    }

    /// The images that the container runtime has: a file for each, so that pulls side by side do not meet.
    pub fn images(&self) -> Vec<String> {
        let entries = fs::read_dir(self.image_folder()).into_iter().flatten().flatten();
        let mut images: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().replace(SLASH, "/")).collect();
        images.sort();
        images
    }

    /// Adds an image to those that the container runtime has.
    pub fn add_image(&self, image: &str) -> Result<()> {
        let folder = self.image_folder();
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(image.replace('/', SLASH)), "")?)
    }

    fn image_folder(&self) -> Utf8PathBuf {
        self.at("/var/lib/containerd/images")
    }

    /// Makes the node as `kubeadm init` or `kubeadm join` leaves it, or a machine with its packages that has not joined.
    pub(crate) fn create(&self, facts: &NodeFacts, plan: &Blueprint<'_>, joined: bool) -> Result<()> {
        self.lay_system(plan.program)?;
        for folder in [
            "/etc/kubernetes",
            "/run/systemd",
            "/run/containerd",
            "/var/lib/containerd",
            "/var/lib/kubelet/pki",
            "/var/lib/liftlock",
        ] {
            fs::create_dir_all(self.at(folder))?;
        }
        fs::create_dir_all(self.at(PERSISTENT).join("liftlock"))?;
        for folder in ["/var/lib/liftlock", "/var/lib/kubelet"] {
            fs::set_permissions(self.at(folder), fs::Permissions::from_mode(0o700))?;
        }
        fs::create_dir_all(self.faults())?;
        fs::write(self.dir.join("node.json"), serde_json::to_vec_pretty(facts)?)?;
        fs::write(self.at("/etc/hostname"), format!("{}\n", facts.name))?;
        fs::write(self.at("/etc/machine-id"), format!("{:032x}\n", u32::from(facts.address)))?;
        self.create_packages(facts, plan)?;
        if joined { self.join(facts, plan) } else { Ok(()) }
    }

    /// Writes down what the node is from now on.
    pub(crate) fn become_node(&self, facts: &NodeFacts) -> Result<()> {
        write_whole(&self.dir.join("node.json"), &serde_json::to_string_pretty(facts)?)
    }

    /// The folder with the cluster's authorities: what signs the requests of a kubelet that joins.
    pub(crate) fn authorities(&self) -> Result<Utf8PathBuf> {
        let nodes = self.dir.parent().and_then(Utf8Path::parent);
        Ok(nodes.with_context(|| format!("{} is in no stand-in cluster", self.dir))?.join("authorities"))
    }

    /// What a kubelet has that has joined, and on control planes what runs there.
    pub(crate) fn join(&self, facts: &NodeFacts, plan: &Blueprint<'_>) -> Result<()> {
        fs::create_dir_all(self.at("/var/lib/kubelet/pki"))?;
        if facts.control_plane {
            self.create_control_plane(facts, plan)?;
        }
        self.create_kubelet(facts, plan)
    }

    /// What the kernel shows of a machine with cgroup v2, four CPUs and 16 GiB, and without swap.
    fn create_kernel(&self) -> Result<()> {
        for (folder, file, content) in [
            ("/proc", "swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"),
            ("/proc", "meminfo", "MemTotal:       16777216 kB\nMemFree:        15728640 kB\n"),
            ("/sys/devices/system/cpu", "online", "0-3\n"),
            ("/sys/fs/cgroup", "cgroup.controllers", "cpuset cpu io memory hugetlb pids\n"),
        ] {
            fs::create_dir_all(self.at(folder))?;
            fs::write(self.at(folder).join(file), content)?;
        }
        Ok(())
    }

    /// What every system has that no node was made of yet.
    pub(crate) fn lay_system(&self, program: &Utf8Path) -> Result<()> {
        for folder in [
            "/etc",
            "/usr/bin",
            "/usr/lib/standin",
            "/usr/local/sbin",
            "/var/cache/apt/archives/partial",
            "/var/lib/dpkg",
        ] {
            fs::create_dir_all(self.at(folder))?;
        }
        for name in PROGRAMS {
            std::os::unix::fs::symlink(program, self.programs().join(name))?;
        }
        std::os::unix::fs::symlink(program, self.at(REPLACE))?;
        self.create_kernel()
    }

    fn create_packages(&self, facts: &NodeFacts, plan: &Blueprint<'_>) -> Result<()> {
        let mut dpkg = Dpkg::default();
        for name in ["kubeadm", "kubectl", "kubelet"] {
            let version = plan.release.package_version();
            dpkg.set(Package { held: true, ..Package::installed(name, &version) });
            self.unpack(name, &version)?;
        }
        dpkg.write(self)?;
        let old = Repository::read(&facts.repository)?.only(&plan.release.package_version());
        old.write_lists(self)
    }

    /// Puts a package's files in place.
    pub(crate) fn unpack(&self, package: &str, package_version: &str) -> Result<()> {
        write_whole(&self.at(&format!("/usr/lib/standin/{package}")), &format!("{package_version}\n"))
    }

    fn create_kubelet(&self, facts: &NodeFacts, plan: &Blueprint<'_>) -> Result<()> {
        let kubelet = plan.kubernetes.issue(&format!("system:node:{}", facts.name), "system:nodes", &[])?;
        let pki = self.at("/var/lib/kubelet/pki");
        let dated = "kubelet-client-2026-01-01-00-00-00.pem";
        write_secret(&pki.join(dated), &format!("{}{}", kubelet.certificate, kubelet.key))?;
        std::os::unix::fs::symlink(dated, pki.join("kubelet-client-current.pem"))?;
        // A real one names /var/lib/kubelet/pki/…; a path that is relative to the kubeconfig stays on this node.
        let current = "../../var/lib/kubelet/pki/kubelet-client-current.pem";
        let user = format!("client-certificate: {current}\n    client-key: {current}");
        // As kubeadm does it with ControlPlaneKubeletLocalMode: behind a load balancer, the kubelet of the first control
        // plane that is raised would meet older API servers.
        let server = if facts.control_plane { facts.address } else { facts.load_balancer };
        write_secret(
            &self.at("/etc/kubernetes/kubelet.conf"),
            &kubeconfig(server, plan.kubernetes, "default-auth", &user),
        )?;
        fs::create_dir_all(self.at("/etc/kubernetes/pki"))?;
        fs::write(self.at("/etc/kubernetes/pki/ca.crt"), &plan.kubernetes.certificate)?;
        fs::write(
            self.at("/var/lib/kubelet/kubeadm-flags.env"),
            "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/containerd/containerd.sock\"\n",
        )?;
        fs::write(self.at("/var/lib/kubelet/config.yaml"), kubelet_configuration(plan.release))?;
        for component in ["kube-proxy", "pause"] {
            self.add_image(&plan.release.image(component, plan.registry))?;
        }
        Ok(())
    }

    fn create_control_plane(&self, facts: &NodeFacts, plan: &Blueprint<'_>) -> Result<()> {
        let pki = self.at("/etc/kubernetes/pki");
        let copy = |from: &Utf8Path, files: &[&str], to: &Utf8Path| -> Result<()> {
            fs::create_dir_all(to)?;
            for file in files {
                fs::copy(from.join(file), to.join(file))?;
            }
            Ok(())
        };
        copy(
            plan.authorities,
            &["ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key", "sa.pub"],
            &pki,
        )?;
        copy(&plan.authorities.join("etcd"), &["ca.crt", "ca.key"], &pki.join("etcd"))?;
        for certificate in CERTIFICATES {
            self.issue_certificate(facts, certificate)?;
        }
        let manifests = self.at("/etc/kubernetes/manifests");
        fs::create_dir_all(&manifests)?;
        fs::set_permissions(&manifests, fs::Permissions::from_mode(0o700))?;
        for component in STATIC_PODS {
            let origin = plan.etcd_members.map_or(EtcdOrigin::Own, EtcdOrigin::Joined);
            let text = manifest::render(component, facts, plan.release, plan.registry, origin);
            write_secret(&self.manifest(component), &text)?;
            self.add_image(&plan.release.image(component, plan.registry))?;
        }
        let data = self.at("/var/lib/etcd/member");
        for (folder, file) in [("snap", "db"), ("wal", "0000000000000000-0000000000000000.wal")] {
            fs::create_dir_all(data.join(folder))?;
            write_secret(&data.join(folder).join(file), &"etcd".repeat(16 * 1024))?;
        }
        fs::set_permissions(self.at("/var/lib/etcd"), fs::Permissions::from_mode(0o700))?;
        Ok(())
    }

    /// Issues a control plane's certificate or kubeconfig anew, from the authorities on the node.
    pub(crate) fn issue_certificate(&self, facts: &NodeFacts, certificate: &str) -> Result<()> {
        let pki = self.at("/etc/kubernetes/pki");
        let kubernetes = || Authority::load(&pki, "ca");
        let etcd = || Authority::load(&pki.join("etcd"), "ca");
        let addresses = ["127.0.0.1".to_owned(), facts.address.to_string(), facts.load_balancer.to_string()];
        let names: Vec<String> =
            addresses.iter().cloned().chain([facts.name.clone(), "localhost".to_owned()]).collect();
        let user =
            |name: &str, group: &str| user_kubeconfig(facts.load_balancer, &kubernetes()?, name, group);
        match certificate {
            "apiserver" => kubernetes()?.issue("kube-apiserver", "", &names)?.write(&pki, certificate),
            "apiserver-kubelet-client" => kubernetes()?
                .issue("kube-apiserver-kubelet-client", "system:masters", &[])?
                .write(&pki, certificate),
            "front-proxy-client" => Authority::load(&pki, "front-proxy-ca")?
                .issue("front-proxy-client", "", &[])?
                .write(&pki, certificate),
            "apiserver-etcd-client" => {
                etcd()?.issue("kube-apiserver-etcd-client", "system:masters", &[])?.write(&pki, certificate)
            }
            "etcd-server" => etcd()?.issue(&facts.name, "", &names)?.write(&pki, "etcd/server"),
            "etcd-peer" => etcd()?.issue(&facts.name, "", &names)?.write(&pki, "etcd/peer"),
            "etcd-healthcheck-client" => etcd()?
                .issue("kube-etcd-healthcheck-client", "system:masters", &[])?
                .write(&pki, "etcd/healthcheck-client"),
            "admin.conf" => write_secret(
                &self.at("/etc/kubernetes/admin.conf"),
                &user("kubernetes-admin", "system:masters")?,
            ),
            "controller-manager.conf" => write_secret(
                &self.at("/etc/kubernetes/controller-manager.conf"),
                &user("system:kube-controller-manager", "")?,
            ),
            _ => {
                write_secret(&self.at("/etc/kubernetes/scheduler.conf"), &user("system:kube-scheduler", "")?)
            }
        }
    }
}

/// Every certificate of a control plane, as `kubeadm certs` names them.
const CERTIFICATES: [&str; 10] = [
    "apiserver",
    "apiserver-kubelet-client",
    "front-proxy-client",
    "apiserver-etcd-client",
    "etcd-server",
    "etcd-peer",
    "etcd-healthcheck-client",
    "admin.conf",
    "controller-manager.conf",
    "scheduler.conf",
];

/// What a node is made from.
pub(crate) struct Blueprint<'a> {
    /// The stand-in binary.
    pub(crate) program: &'a Utf8Path,
    /// What the cluster runs.
    pub(crate) release: Release,
    /// Where images come from.
    pub(crate) registry: &'a str,
    /// The folder with the cluster's authorities.
    pub(crate) authorities: &'a Utf8Path,
    /// The cluster's own authority.
    pub(crate) kubernetes: &'a Authority,
    /// etcd's members at the time of the join; none on the first control plane.
    pub(crate) etcd_members: Option<&'a str>,
}

/// The kubelet's configuration, which kubeadm keeps in a `ConfigMap` and writes on each node.
pub fn kubelet_configuration(release: Release) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\ncgroupDriver: systemd\nclusterDomain: cluster.local\n\
         kind: KubeletConfiguration\nstaticPodPath: /etc/kubernetes/manifests\n# written by kubeadm {}\n",
        release.0
    )
}

/// A kubeconfig with everything in it, for a user of a group.
pub(crate) fn user_kubeconfig(
    server: Ipv4Addr,
    authority: &Authority,
    name: &str,
    group: &str,
) -> Result<String> {
    let identity = authority.issue(name, group, &[])?;
    let user = format!(
        "client-certificate-data: {}\n    client-key-data: {}",
        base64(&identity.certificate),
        base64(&identity.key)
    );
    Ok(kubeconfig(server, authority, name, &user))
}

fn kubeconfig(server: Ipv4Addr, authority: &Authority, user: &str, credentials: &str) -> String {
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: https://{server}:6443\n  \
         name: kubernetes\ncontexts:\n- context:\n    cluster: kubernetes\n    user: {user}\n  name: default-context\n\
         current-context: default-context\nkind: Config\npreferences: {{}}\nusers:\n- name: {user}\n  user:\n    \
         {credentials}\n",
        base64(&authority.certificate)
    )
}

/// Base64, as Kubernetes writes bytes in JSON and YAML.
fn base64(text: &str) -> String {
    let bytes = k8s_openapi::ByteString(text.as_bytes().to_vec());
    serde_json::to_value(bytes).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Writes a file so that a reader sees the old or the new content, never a part.
pub(crate) fn write_whole(path: &Utf8Path, content: &str) -> Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let half = Utf8PathBuf::from(format!("{path}.half-{}-{number}", std::process::id()));
    fs::write(&half, content).with_context(|| format!("cannot write {half}"))?;
    fs::rename(&half, path).with_context(|| format!("cannot put {path} in place"))
}
