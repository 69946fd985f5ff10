//! `kubeadm upgrade apply` and `kubeadm upgrade node`: what they do to files, in their order, and what they print.
//!
//! The lines are those of kubeadm v1.20.2 (`tests/fixtures/real/upgrade/`) whatever the version, because those
//! are recorded; later releases word some of them differently. Nothing may rely on them.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use liftlock_proto::version::KubernetesVersion;
use serde_json::{Value, json};

use super::kubeadm::failed;
use super::kubeadm_policy::{judge, refusal};
use super::{Call, err, out};
use crate::standin::fault::{Point, point};
use crate::standin::manifest::{self, EtcdOrigin, StaticPod};
use crate::standin::node::{NodeFacts, kubelet_configuration, write_whole};
use crate::standin::objects::text;
use crate::standin::pki::write_secret;
use crate::standin::release::{Release, STATIC_PODS};

const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";
const PODS: &str = "/api/v1/namespaces/kube-system/pods";
/// How long kubeadm waits for the kubelet to restart a static pod.
const RESTART_LIMIT: Duration = Duration::from_mins(5);

/// A run of kubeadm upgrade.
struct Upgrade<'a> {
    call: &'a Call,
    facts: NodeFacts,
    api: Api,
}

/// The API, with one of the node's kubeconfigs.
pub(super) struct Api {
    client: Client,
}

impl Api {
    pub(super) async fn connect(call: &Call, kubeconfig: &str) -> Result<Self> {
        let path = call.node.at(kubeconfig);
        let config = Kubeconfig::read_from(&path)?;
        let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(Duration::from_secs(10));
        Ok(Self { client: Client::try_from(config)? })
    }

    /// With a bootstrap token, at an API server whose certificate somebody else has looked at.
    pub(super) fn with_token(server: &str, token: &str) -> Result<Self> {
        let mut config = Config::new(format!("https://{server}").parse()?);
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(token.to_owned().into());
        config.default_retry = false;
        Ok(Self { client: Client::try_from(config)? })
    }

    /// Any other request.
    pub(super) async fn send(&self, request: http::request::Builder, body: &Value) -> Result<Value> {
        Ok(self.client.request(request.body(serde_json::to_vec(body)?)?).await?)
    }

    pub(super) async fn get(&self, path: &str) -> kube::Result<Value> {
        self.client.request(Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?).await
    }

    /// Creates a `ConfigMap`, or replaces its data.
    async fn put_config_map(&self, name: &str, data: Value) -> Result<()> {
        let path = format!("{CONFIG_MAPS}/{name}");
        let (request, map) = match self.get(&path).await {
            Ok(mut map) => {
                map["data"] = data;
                (Request::put(path), map)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
                (Request::post(CONFIG_MAPS), map)
            }
            Err(error) => return Err(error.into()),
        };
        self.client.request::<Value>(request.body(serde_json::to_vec(&map)?)?).await?;
        Ok(())
    }
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    _ = rustls::crypto::ring::default_provider().install_default();
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// `kubeadm upgrade apply`
pub(super) fn apply(call: &Call, own: Release, target: &str) -> Result<u8> {
    if !call.node.at("/etc/kubernetes/admin.conf").exists() {
        return Ok(failed(
            "couldn't create a Kubernetes client from file \"/etc/kubernetes/admin.conf\": failed to load admin \
             kubeconfig: open /etc/kubernetes/admin.conf: no such file or directory",
        ));
    }
    if let Err(words) = point(&call.node, &Point::KubeadmStarted) {
        return Ok(failed(&words));
    }
    runtime()?.block_on(async {
        let api = Api::connect(call, "/etc/kubernetes/admin.conf").await?;
        let upgrade = Upgrade { call, facts: call.node.facts()?, api };
        upgrade.apply(own, target).await.or_else(|error| Ok(failed(&format!("{error:#}"))))
    })
}

/// `kubeadm upgrade node`
pub(super) fn node(call: &Call, own: Release) -> Result<u8> {
    if let Err(words) = point(&call.node, &Point::KubeadmStarted) {
        return Ok(failed(&words));
    }
    let control_plane = call.node.manifest("kube-apiserver").exists();
    let admin = call.node.at("/etc/kubernetes/admin.conf").exists();
    let kubeconfig = if admin { "admin.conf" } else { "kubelet.conf" };
    runtime()?.block_on(async {
        let api = Api::connect(call, &format!("/etc/kubernetes/{kubeconfig}")).await?;
        let upgrade = Upgrade { call, facts: call.node.facts()?, api };
        upgrade.node(own, control_plane).await.or_else(|error| Ok(failed(&format!("{error:#}"))))
    })
}

/// `kubeadm upgrade diff`
pub(super) fn diff(call: &Call, target: &str) -> Result<u8> {
    runtime()?.block_on(async {
        let api = Api::connect(call, "/etc/kubernetes/admin.conf").await?;
        let upgrade = Upgrade { call, facts: call.node.facts()?, api };
        upgrade.diff(target.parse()?).await.or_else(|error| Ok(failed(&format!("{error:#}"))))
    })
}

impl Upgrade<'_> {
    /// Of a unified diff, what readers of it go by: the files' names and the changed lines.
    async fn diff(&self, target: KubernetesVersion) -> Result<u8> {
        out("[upgrade/diff] Reading configuration from the cluster...");
        out(
            "[upgrade/diff] FYI: You can look at this config file with 'kubectl -n kube-system get cm kubeadm-config -o yaml'",
        );
        let configuration = self.configuration().await?;
        for component in STATIC_PODS.into_iter().filter(|component| *component != "etcd") {
            let registry = registry_in(&configuration);
            let new = manifest::render(component, &self.facts, Release(target), registry, EtcdOrigin::Own);
            let live = fs::read_to_string(self.call.node.manifest(component))?;
            if live == new {
                continue;
            }
            out(format_args!(
                "--- /etc/kubernetes/manifests/{component}.yaml\n+++ new manifest\n@@ -1 +1 @@"
            ));
            for line in live.lines().filter(|line| !new.lines().any(|other| other == *line)) {
                out(format_args!("-{line}"));
            }
            for line in new.lines().filter(|line| !live.lines().any(|other| other == *line)) {
                out(format_args!("+{line}"));
            }
        }
        Ok(0)
    }

    async fn apply(&self, own: Release, target: &str) -> Result<u8> {
        out("[upgrade/config] Making sure the configuration is correct:");
        out("[upgrade/config] Reading configuration from the cluster...");
        out(
            "[upgrade/config] FYI: You can look at this config file with 'kubectl -n kube-system get cm kubeadm-config -o yaml'",
        );
        let configuration =
            self.configuration().await.context("[upgrade/config] FATAL: failed to get config map")?;
        out("[preflight] Running pre-flight checks.");
        out("[upgrade] Running cluster health checks");
        self.health().await?;
        let Ok(target) = target.parse::<KubernetesVersion>() else {
            return Ok(failed(&format!(
                "version \"{target}\" doesn't match patterns for neither semantic version nor labels (stable, latest, ...)"
            )));
        };
        let cluster = version_in(&configuration)?;
        out(format_args!("[upgrade/version] You have chosen to change the cluster version to \"{target}\""));
        out(format_args!("[upgrade/versions] Cluster version: {cluster}"));
        out(format_args!("[upgrade/versions] kubeadm version: {}", own.0));
        let objections = judge(cluster, own.0, target);
        if let Some(words) = refusal(&objections, self.call.has(&["-f", "--force"])) {
            return Ok(failed(&words));
        }
        out("[upgrade/prepull] Pulling images required for setting up a Kubernetes cluster");
        out(
            "[upgrade/prepull] This might take a minute or two, depending on the speed of your internet connection",
        );
        out(
            "[upgrade/prepull] You can also perform this action in beforehand using 'kubeadm config images pull'",
        );
        let release = Release(target);
        self.pull(release, &configuration)?;
        out(format_args!(
            "[upgrade/apply] Upgrading your Static Pod-hosted control plane to version \"{target}\"..."
        ));
        self.static_pods(release, &configuration).await.context("[upgrade/apply] FATAL")?;
        self.point(&Point::KubeadmBeforeUpload)?;
        out(
            "[upgrade/postupgrade] Applying label node-role.kubernetes.io/control-plane='' to Nodes with label node-role.kubernetes.io/master='' (deprecated)",
        );
        out(
            "[upload-config] Storing the configuration used in ConfigMap \"kubeadm-config\" in the \"kube-system\" Namespace",
        );
        let raised = configuration
            .replace(&format!("kubernetesVersion: {cluster}"), &format!("kubernetesVersion: {target}"));
        self.api.put_config_map("kubeadm-config", json!({"ClusterConfiguration": raised})).await?;
        self.point(&Point::KubeadmUploaded)?;
        let map = release.kubelet_config_map();
        out(format_args!(
            "[kubelet] Creating a ConfigMap \"{map}\" in namespace kube-system with the configuration for the kubelets in the cluster"
        ));
        self.api.put_config_map(&map, json!({"kubelet": kubelet_configuration(release)})).await?;
        self.write_kubelet_configuration(release)?;
        for rules in [
            "configured RBAC rules to allow Node Bootstrap tokens to get nodes",
            "configured RBAC rules to allow Node Bootstrap tokens to post CSRs in order for nodes to get long term certificate credentials",
            "configured RBAC rules to allow the csrapprover controller automatically approve CSRs from a Node Bootstrap Token",
            "configured RBAC rules to allow certificate rotation for all node client certificates in the cluster",
        ] {
            out(format_args!("[bootstrap-token] {rules}"));
        }
        out("[addons] Applied essential addon: CoreDNS");
        out("[addons] Applied essential addon: kube-proxy");
        out("");
        out(format_args!("[upgrade/successful] SUCCESS! Your cluster was upgraded to \"{target}\". Enjoy!"));
        out("");
        out(
            "[upgrade/kubelet] Now that your control plane is upgraded, please proceed with upgrading your kubelets if you haven't already done so.",
        );
        Ok(0)
    }

    async fn node(&self, own: Release, control_plane: bool) -> Result<u8> {
        out("[upgrade] Reading configuration from the cluster...");
        out(
            "[upgrade] FYI: You can look at this config file with 'kubectl -n kube-system get cm kubeadm-config -o yaml'",
        );
        let configuration = self.configuration().await.context("failed to get config map")?;
        let release = Release(version_in(&configuration)?);
        out("[preflight] Running pre-flight checks");
        if control_plane {
            out("[preflight] Pulling images required for setting up a Kubernetes cluster");
            out(
                "[preflight] This might take a minute or two, depending on the speed of your internet connection",
            );
            out(
                "[preflight] You can also perform this action in beforehand using 'kubeadm config images pull'",
            );
            self.pull(release, &configuration)?;
            out(format_args!(
                "[upgrade] Upgrading your Static Pod-hosted control plane instance to version \"{}\"...",
                release.0
            ));
            self.static_pods(release, &configuration).await?;
            out("[upgrade] The control plane instance for this node was successfully updated!");
        } else {
            out("[preflight] Skipping prepull. Not a control plane node.");
            out("[upgrade] Skipping phase. Not a control plane node.");
            if !self.facts.control_plane && own.0.minor < 22 {
                // Harmless, and on every worker of that time: a kubelet may not read kube-proxy's configuration.
                err(format_args!(
                    "W0101 00:00:00.000000    {} configset.go:77] Warning: No kubeproxy.config.k8s.io/v1alpha1 config is \
                     loaded. Continuing without it: configmaps \"kube-proxy\" is forbidden: User \"system:node:{name}\" \
                     cannot get resource \"configmaps\" in API group \"\" in the namespace \"kube-system\": no relationship \
                     found between node '{name}' and this object",
                    std::process::id(),
                    name = self.facts.name
                ));
            }
        }
        self.write_kubelet_configuration(release)?;
        out("[upgrade] The configuration for this node was successfully updated!");
        out("[upgrade] Now you should go ahead and upgrade the kubelet package using your package manager.");
        Ok(0)
    }

    fn point(&self, at: &Point) -> Result<()> {
        std::thread::sleep(self.facts.tempo.stage);
        point(&self.call.node, at).map_err(anyhow::Error::msg)
    }

    async fn configuration(&self) -> Result<String> {
        let map = self.api.get(&format!("{CONFIG_MAPS}/kubeadm-config")).await?;
        text(&map, "/data/ClusterConfiguration")
            .map(str::to_owned)
            .context("kubeadm-config holds no configuration")
    }

    async fn health(&self) -> Result<()> {
        let fatal = |check: &str, why: String| -> Result<()> {
            bail!(
                "[upgrade/health] FATAL: [preflight] Some fatal errors occurred:\n\t[ERROR {check}]: {why}\n[preflight] If you \
                 know what you are doing, you can make a check non-fatal with `--ignore-preflight-errors=...`"
            )
        };
        let nodes = self.api.get("/api/v1/nodes").await?;
        for node in nodes["items"].as_array().into_iter().flatten() {
            let master = node.pointer("/metadata/labels/node-role.kubernetes.io~1control-plane").is_some();
            if master && !crate::standin::api::eviction::condition(node, "Ready") {
                let name = text(node, "/metadata/name").unwrap_or_default();
                fatal(
                    "ControlPlaneNodesReady",
                    format!("there are NotReady control-planes in the cluster: [{name}]"),
                )?;
            }
        }
        let missing: Vec<&str> = STATIC_PODS
            .into_iter()
            .filter(|component| *component != "etcd" && !self.call.node.manifest(component).exists())
            .collect();
        if !missing.is_empty() {
            fatal("StaticPodManifest", format!("manifest files not found: {missing:?}"))?;
        }
        Ok(())
    }

    fn pull(&self, release: Release, configuration: &str) -> Result<()> {
        for image in release.images(registry_in(configuration)) {
            self.point(&Point::KubeadmImagePull)
                .map_err(|why| anyhow::anyhow!("[ERROR ImagePull]: failed to pull image {image}: {why}"))?;
            self.call.node.add_image(&image)?;
        }
        Ok(())
    }

    fn write_kubelet_configuration(&self, release: Release) -> Result<()> {
        out("[kubelet-start] Writing kubelet configuration to file \"/var/lib/kubelet/config.yaml\"");
        write_whole(&self.call.node.at("/var/lib/kubelet/config.yaml"), &kubelet_configuration(release))
    }

    async fn hash(&self, component: &str) -> Option<String> {
        let pod = self.api.get(&format!("{PODS}/{component}-{}", self.facts.name)).await.ok()?;
        text(&pod, "/metadata/annotations/kubernetes.io~1config.hash").map(str::to_owned)
    }

    async fn print_hash(&self, component: &str) -> Result<String> {
        let hash = self.hash(component).await.with_context(|| {
            format!("failed to obtain static Pod hash for component {component} on Node {}", self.facts.name)
        })?;
        out(format_args!("Static pod: {component}-{} hash: {hash}", self.facts.name));
        Ok(hash)
    }

    async fn static_pods(&self, release: Release, configuration: &str) -> Result<()> {
        let mut hashes = std::collections::BTreeMap::new();
        for component in STATIC_PODS.into_iter().filter(|component| *component != "etcd") {
            hashes.insert(component, self.print_hash(component).await?);
        }
        let (folders, date) =
            (self.call.node.at("/etc/kubernetes/tmp"), jiff::Zoned::now().strftime("%Y-%m-%d-%H-%M-%S"));
        let folder = |name: String| -> Result<Utf8PathBuf> {
            let path = folders.join(name);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            Ok(path)
        };
        let number = jiff::Timestamp::now().as_nanosecond() % 4_294_967_296;
        let new = folder(format!("kubeadm-upgraded-manifests{number}"))?;
        let backup = folder(format!("kubeadm-backup-manifests-{date}"))?;
        let backup_etcd = folder(format!("kubeadm-backup-etcd-{date}"))?;

        out("[upgrade/etcd] Upgrading to TLS for etcd");
        hashes.insert("etcd", self.print_hash("etcd").await?);
        copy_tree(&self.call.node.at("/var/lib/etcd"), &backup_etcd.join("etcd"))?;
        self.point(&Point::KubeadmEtcdCopied)?;
        let mut moved = Vec::new();
        for component in STATIC_PODS {
            if component == "kube-apiserver" {
                out("[upgrade/etcd] Waiting for etcd to become available");
                out(format_args!(
                    "[upgrade/staticpods] Writing new Static Pod manifests to \"/etc/kubernetes/tmp/{}\"",
                    new.file_name().unwrap_or_default()
                ));
            }
            let registry = registry_in(configuration);
            let manifest = manifest::render(component, &self.facts, release, registry, EtcdOrigin::Own);
            let before = hashes.get(component).map(String::as_str).unwrap_or_default();
            let done = self.component(component, &manifest, before, (&new, &backup), &mut moved).await;
            if let Err(error) = done {
                for component in moved.iter().rev() {
                    fs::rename(backup.join(format!("{component}.yaml")), self.call.node.manifest(component))?;
                }
                return Err(error.context(
                    "couldn't upgrade control plane. kubeadm has tried to recover everything into the earlier state. \
                     Errors faced",
                ));
            }
        }
        Ok(fs::remove_dir_all(new)?)
    }

    async fn component(
        &self,
        component: &str,
        manifest: &str,
        before: &str,
        (new, backup): (&Utf8Path, &Utf8Path),
        moved: &mut Vec<String>,
    ) -> Result<()> {
        let live = self.call.node.manifest(component);
        let file = format!("{component}.yaml");
        out(format_args!("[upgrade/staticpods] Preparing for \"{component}\" upgrade"));
        write_secret(&new.join(&file), manifest)?;
        if fs::read_to_string(&live).with_context(|| format!("cannot read {live}"))? == manifest {
            out(format_args!(
                "[upgrade/staticpods] Current and new manifests of {component} are equal, skipping upgrade"
            ));
            return Ok(());
        }
        for certificate in certificates(component) {
            out(format_args!("[upgrade/staticpods] Renewing {certificate} certificate"));
            self.call.node.issue_certificate(&self.facts, certificate)?;
        }
        fs::rename(&live, backup.join(&file))?;
        moved.push(component.to_owned());
        self.point(&Point::KubeadmBetweenRenames(component.to_owned()))?;
        fs::rename(new.join(&file), &live)?;
        out(format_args!(
            "[upgrade/staticpods] Moved new manifest to \"/etc/kubernetes/manifests/{file}\" and backed up old manifest to \
             \"/etc/kubernetes/tmp/{}/{file}\"",
            backup.file_name().unwrap_or_default()
        ));
        self.point(&Point::KubeadmManifestReplaced(component.to_owned()))?;
        out("[upgrade/staticpods] Waiting for the kubelet to restart the component");
        out(
            "[upgrade/staticpods] This might take a minute or longer depending on the component/version gap (timeout 5m0s)",
        );
        let wanted = StaticPod::parse(manifest).context("the new manifest is no pod")?.hash;
        out(format_args!("Static pod: {component}-{} hash: {before}", self.facts.name));
        let end = Instant::now() + RESTART_LIMIT;
        while self.hash(component).await.as_ref() != Some(&wanted) || !self.runs(component).await {
            if Instant::now() > end {
                bail!(
                    "static Pod hash for component {component} on Node {} did not change after 5m0s",
                    self.facts.name
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        out(format_args!("Static pod: {component}-{} hash: {wanted}", self.facts.name));
        let pods = self.api.get(&format!("{PODS}?labelSelector=component%3D{component}")).await?;
        let count = pods["items"].as_array().map_or(0, Vec::len);
        out(format_args!("[apiclient] Found {count} Pods for label selector component={component}"));
        out(format_args!("[upgrade/staticpods] Component \"{component}\" upgraded successfully!"));
        Ok(())
    }

    async fn runs(&self, component: &str) -> bool {
        let pod = self.api.get(&format!("{PODS}/{component}-{}", self.facts.name)).await;
        pod.is_ok_and(|pod| text(&pod, "/status/phase") == Some("Running"))
    }
}

/// The certificates that kubeadm renews with a component.
fn certificates(component: &str) -> &'static [&'static str] {
    match component {
        "etcd" => &["etcd-server", "etcd-peer", "etcd-healthcheck-client"],
        "kube-apiserver" => {
            &["apiserver", "apiserver-kubelet-client", "front-proxy-client", "apiserver-etcd-client"]
        }
        "kube-controller-manager" => &["controller-manager.conf"],
        _ => &["scheduler.conf"],
    }
}

pub(super) fn version_in(configuration: &str) -> Result<KubernetesVersion> {
    let version = configuration.lines().find_map(|line| line.strip_prefix("kubernetesVersion: "));
    Ok(version.context("kubeadm-config names no version")?.parse()?)
}

pub(super) fn registry_in(configuration: &str) -> &str {
    configuration.lines().find_map(|line| line.strip_prefix("imageRepository: ")).unwrap_or_default()
}

/// `cp -r`, as kubeadm does it.
fn copy_tree(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
    for entry in from.read_dir_utf8()? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
