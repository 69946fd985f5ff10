//! `kubeadm join`, `kubeadm reset` and the upload of certificates: what they do to files and to the cluster, in their order.
//! The words are those of kubeadm v1.20 (cmd/kubeadm/app/cmd/join.go, reset.go and phases/ of its source).

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use http::Request;
use liftlock_proto::etcd::cluster_client::ClusterClient;
use liftlock_proto::etcd::{MemberAddRequest, MemberListRequest, MemberRemoveRequest};
use serde_json::{Value, json};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::kubeadm::failed;
use super::kubeadm_upgrade::{Api, registry_in, runtime, version_in};
use super::{Call, err, out};
use crate::standin::api::eviction::condition;
use crate::standin::fault::{Point, point};
use crate::standin::node::{Blueprint, NodeFacts, NodeTree};
use crate::standin::objects::text;
use crate::standin::pki::Authority;
use crate::standin::release::Release;
use crate::standin::systemd::{Ask, KUBELET, ask};

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const CERTS: &str = "/api/v1/namespaces/kube-system/secrets/kubeadm-certs";
const CONFIG: &str = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config";

/// How long kubeadm waits for the kubelet and for etcd.
const LIMIT: Duration = Duration::from_mins(1);

/// `kubeadm init phase upload-certs`: what is uploaded is the key alone; the certificates are read from the folder of the
/// cluster by whoever shows it.
pub(super) fn upload_certs(call: &Call) -> Result<u8> {
    runtime()?.block_on(async {
        let api = Api::connect(call, "/etc/kubernetes/admin.conf").await?;
        let mut bytes = [0; 32];
        fs::File::open("/dev/urandom").and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))?;
        let key = bytes.iter().fold(String::new(), |key, byte| format!("{key}{byte:02x}"));
        out(
            "[upload-certs] Storing the certificates in Secret \"kubeadm-certs\" in the \"kube-system\" Namespace",
        );
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kubeadm-certs"}, "data": {"key": key},
        });
        let there = api.get(CERTS).await.is_ok();
        let request = if there { Request::put(CERTS) } else { Request::post(SECRETS) };
        api.send(request, &secret).await?;
        out("[upload-certs] Using certificate key:");
        out(key);
        Ok(0)
    })
}

/// `kubeadm join --config`
pub(super) fn join(call: &Call, own: Release) -> Result<u8> {
    if let Err(words) = point(&call.node, &Point::KubeadmStarted) {
        return Ok(failed(&words));
    }
    runtime()?.block_on(async {
        Join::new(call)?
            .run(own)
            .await
            .or_else(|error| Ok(failed(&format!("error execution phase {error:#}"))))
    })
}

struct Join<'a> {
    call: &'a Call,
    configuration: Value,
    facts: NodeFacts,
}

impl<'a> Join<'a> {
    fn new(call: &'a Call) -> Result<Self> {
        let path = call.value(&["--config"]).context("the stand-in joins with --config only")?;
        let text = fs::read(path).with_context(|| format!("unable to read config from {path}"))?;
        let configuration: Value = serde_json::from_slice(&text)?;
        let control_plane = configuration.get("controlPlane").is_some();
        let facts = NodeFacts { control_plane, ..call.node.facts()? };
        Ok(Self { call, configuration, facts })
    }

    fn said(&self, pointer: &str) -> &str {
        text(&self.configuration, pointer).unwrap_or_default()
    }

    async fn run(&self, own: Release) -> Result<u8> {
        out("[preflight] Running pre-flight checks");
        self.preflight()?;
        let (server, token) = (
            self.said("/discovery/bootstrapToken/apiServerEndpoint"),
            self.said("/discovery/bootstrapToken/token"),
        );
        let api = Api::with_token(server, token)?;
        out("[preflight] Reading configuration from the cluster...");
        let map =
            api.get(CONFIG).await.context("preflight: couldn't validate the identity of the API Server")?;
        let configuration =
            text(&map, "/data/ClusterConfiguration").context("preflight: no configuration")?;
        let release = Release(version_in(configuration)?);
        if own.0.minor != release.0.minor {
            bail!(
                "preflight: this version of kubeadm only supports deploying clusters with the control plane version >= {}",
                own.0
            );
        }
        self.refuse_taken_name(&api).await?;
        let authorities = self.call.node.authorities()?;
        let kubernetes = Authority::load(&authorities, "ca")?;
        self.judge_pin(&kubernetes)?;
        if self.facts.control_plane {
            out(
                "[download-certs] Downloading the certificates in Secret \"kubeadm-certs\" in the \"kube-system\" Namespace",
            );
            let secret = api.get(CERTS).await.context("control-plane-prepare/download-certs")?;
            if text(&secret, "/data/key") != Some(self.said("/controlPlane/certificateKey")) {
                bail!("control-plane-prepare/download-certs: error decrypting secret data with provided key");
            }
        }
        let program = camino::Utf8PathBuf::try_from(std::env::current_exe()?)?;
        self.call.node.become_node(&self.facts)?;
        let etcd =
            if self.facts.control_plane { Some(self.announce(server, &authorities).await?) } else { None };
        let blueprint = Blueprint {
            program: &program,
            release,
            registry: registry_in(configuration),
            authorities: &authorities,
            kubernetes: &kubernetes,
            etcd_members: etcd.as_deref(),
        };
        self.call.node.join(&self.facts, &blueprint)?;
        out("[kubelet-start] Starting the kubelet");
        ask(&self.call.root, &Ask::Restart(KUBELET.to_owned()))?;
        std::thread::sleep(self.facts.tempo.stage);
        point(&self.call.node, &Point::KubeadmJoining).map_err(anyhow::Error::msg)?;
        out("[kubelet-start] Waiting for the kubelet to perform the TLS Bootstrap...");
        self.wait_for_node().await?;
        if self.facts.control_plane {
            self.mark().await?;
            out("This node has joined the cluster and a new control plane instance was created:");
        } else {
            out("This node has joined the cluster:");
        }
        Ok(0)
    }

    fn preflight(&self) -> Result<()> {
        let mut wrongs = Vec::new();
        let node = &self.call.node;
        let filled =
            |path: &str| fs::read_dir(node.at(path)).is_ok_and(|mut entries| entries.next().is_some());
        for (path, name) in
            [("/etc/kubernetes/manifests", "etc-kubernetes-manifests"), ("/var/lib/etcd", "var-lib-etcd")]
        {
            if filled(path) {
                wrongs.push(format!("\t[ERROR DirAvailable--{name}]: {path} is not empty"));
            }
        }
        for (path, name) in [
            ("/etc/kubernetes/kubelet.conf", "etc-kubernetes-kubelet.conf"),
            ("/etc/kubernetes/pki/ca.crt", "etc-kubernetes-pki-ca.crt"),
        ] {
            if node.at(path).exists() {
                wrongs.push(format!("\t[ERROR FileAvailable--{name}]: {path} already exists"));
            }
        }
        if wrongs.is_empty() {
            return Ok(());
        }
        bail!(
            "preflight: [preflight] Some fatal errors occurred:\n{}\n[preflight] If you know what you are doing, you can make a \
             check non-fatal with `--ignore-preflight-errors=...`",
            wrongs.join("\n")
        )
    }

    async fn refuse_taken_name(&self, api: &Api) -> Result<()> {
        let name = &self.facts.name;
        match api.get(&format!("/api/v1/nodes/{name}")).await {
            Ok(node) if condition(&node, "Ready") => bail!(
                "kubelet-start: a Node with name \"{name}\" and status \"Ready\" already exists in the cluster. You must delete \
                 the existing Node or change the name of this new joining Node"
            ),
            _ => Ok(()),
        }
    }

    /// The CA's public key has to be the one that the configuration pins.
    fn judge_pin(&self, kubernetes: &Authority) -> Result<()> {
        use sha2::Digest as _;
        let (_, pem) = x509_parser::pem::parse_x509_pem(kubernetes.certificate.as_bytes())?;
        let key = sha2::Sha256::digest(pem.parse_x509()?.public_key().raw);
        let pin = format!("sha256:{key:x}");
        let pinned =
            self.configuration.pointer("/discovery/bootstrapToken/caCertHashes").and_then(Value::as_array);
        if pinned.is_some_and(|pins| pins.iter().any(|one| one.as_str() == Some(&pin))) {
            return Ok(());
        }
        bail!(
            "preflight: cluster CA found in cluster-info ConfigMap is invalid: none of the public keys \"{pin}\" are pinned"
        )
    }

    /// Announces the new member; all of them as `--initial-cluster` names them.
    async fn announce(&self, server: &str, authorities: &Utf8Path) -> Result<String> {
        let host = server.split(':').next().unwrap_or_default();
        let mut client = ClusterClient::new(etcd(host, authorities).await?);
        let own = format!("https://{}:2380", self.facts.address);
        let request = MemberListRequest { linearizable: true };
        let mut members = client.member_list(request).await?.into_inner().members;
        if !members.iter().any(|member| member.peer_urls.contains(&own)) {
            let added = MemberAddRequest { peer_urls: vec![own.clone()], is_learner: false };
            members = client.member_add(added).await.context("control-plane-join/etcd")?.into_inner().members;
            out("[etcd] Announced new etcd member joining to the existing etcd cluster");
        }
        let named = members.into_iter().map(|member| {
            let url = member.peer_urls.into_iter().next().unwrap_or_default();
            let name = if url == own { self.facts.name.clone() } else { member.name };
            format!("{name}={url}")
        });
        Ok(named.collect::<Vec<_>>().join(","))
    }

    async fn wait_for_node(&self) -> Result<()> {
        let kubeconfig = if self.facts.control_plane { "admin.conf" } else { "kubelet.conf" };
        let end = Instant::now() + LIMIT;
        loop {
            if let Ok(api) = Api::connect(self.call, &format!("/etc/kubernetes/{kubeconfig}")).await
                && api.get(&format!("/api/v1/nodes/{}", self.facts.name)).await.is_ok()
            {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("kubelet-start: timed out waiting for the condition");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn mark(&self) -> Result<()> {
        let role = "node-role.kubernetes.io/control-plane";
        out(format_args!("[mark-control-plane] Marking the node {} as control-plane", self.facts.name));
        let patch = json!({
            "metadata": {"labels": {role: ""}},
            "spec": {"taints": [{"key": role, "effect": "NoSchedule"}]},
        });
        let request = Request::patch(format!("/api/v1/nodes/{}", self.facts.name))
            .header(http::header::CONTENT_TYPE, "application/merge-patch+json");
        Api::connect(self.call, "/etc/kubernetes/admin.conf").await?.send(request, &patch).await?;
        Ok(())
    }
}

/// etcd at a control plane, with a certificate of its authority.
async fn etcd(host: &str, authorities: &Utf8Path) -> Result<Channel> {
    let authority = Authority::load(&authorities.join("etcd"), "ca")?;
    let identity = authority.issue("kube-etcd-healthcheck-client", "system:masters", &[])?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&authority.certificate))
        .identity(Identity::from_pem(identity.certificate, identity.key));
    let endpoint = Endpoint::from_shared(format!("https://{host}:2379"))?.tls_config(tls)?;
    Ok(endpoint.connect_timeout(Duration::from_secs(5)).connect().await?)
}

/// `kubeadm reset --force`
pub(super) fn reset(call: &Call) -> Result<u8> {
    if let Err(words) = point(&call.node, &Point::KubeadmStarted) {
        return Ok(failed(&words));
    }
    out("[preflight] Running pre-flight checks");
    let facts = call.node.facts()?;
    if call.node.at("/etc/kubernetes/admin.conf").exists()
        && let Err(error) = runtime()?.block_on(leave_etcd(&facts, &call.node.authorities()?))
    {
        err(format_args!(
            "W0101 00:00:00.000000 [reset] failed to remove etcd member: {error:#}, please manually remove this etcd member \
             using etcdctl"
        ));
    }
    out("[reset] Stopping the kubelet service");
    ask(&call.root, &Ask::Stop(KUBELET.to_owned()))?;
    clean(&call.node)?;
    call.node.become_node(&NodeFacts { control_plane: false, ..facts })?;
    out("The reset process does not clean CNI configuration. To do so, you must remove /etc/cni/net.d");
    Ok(0)
}

async fn leave_etcd(facts: &NodeFacts, authorities: &Utf8Path) -> Result<()> {
    let mut client = ClusterClient::new(etcd(&facts.address.to_string(), authorities).await?);
    let members = client.member_list(MemberListRequest { linearizable: true }).await?.into_inner().members;
    let own = format!("https://{}:2380", facts.address);
    let member = members.iter().find(|member| member.peer_urls.contains(&own)).context("member not found")?;
    client.member_remove(MemberRemoveRequest { id: member.id }).await?;
    Ok(())
}

/// As `CleanDir` and `resetConfigDir`: the folders stay.
fn clean(node: &NodeTree) -> Result<()> {
    for folder in ["/etc/kubernetes/manifests", "/etc/kubernetes/pki", "/var/lib/etcd", "/var/lib/kubelet"] {
        for entry in fs::read_dir(node.at(folder)).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
    }
    for conf in ["admin", "kubelet", "bootstrap-kubelet", "controller-manager", "scheduler"] {
        let path = node.at(&format!("/etc/kubernetes/{conf}.conf"));
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
