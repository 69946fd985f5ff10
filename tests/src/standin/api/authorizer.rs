//! Who may do what: administrators everything, a kubelet what the node authorizer, the `NodeRestriction` admission
//! plugin and kubeadm's own roles let it do.

use crate::standin::api::answer::Failure;
use crate::standin::pki::Subject;
use crate::standin::release::Release;

/// One request, as an authorizer sees it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`
    pub verb: &'a str,
    /// The API group; empty for the core.
    pub group: &'a str,
    /// `pods`, or `pods/eviction`
    pub resource: &'a str,
    /// Empty at the scope of the cluster.
    pub namespace: &'a str,
    /// Empty for lists.
    pub name: &'a str,
    /// `spec.nodeName` or, for Nodes, `metadata.name` in the field selector.
    pub selected: Option<&'a str>,
}

/// The node that a kubelet's certificate names.
pub fn node_of(subject: &Subject) -> Option<&str> {
    subject
        .organizations
        .iter()
        .any(|organization| organization == "system:nodes")
        .then(|| subject.common_name.strip_prefix("system:node:"))
        .flatten()
}

/// Whom kubeadm's bootstrap tokens belong to.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers:kubeadm:default-node-token";

/// What kubeadm lets the bearer of a bootstrap token read (`kubeadm:get-nodes`, `kubeadm:nodes-kubeadm-config`,
/// `kubeadm:kubelet-config`, `kubeadm:kubeadm-certs`).
fn may_bootstrap(request: Attributes<'_>) -> bool {
    request.verb == "get"
        && match request.resource {
            "nodes" => true,
            "configmaps" => request.name == "kubeadm-config" || request.name.starts_with("kubelet-config"),
            "secrets" => request.name == "kubeadm-certs",
            _ => false,
        }
}

/// Refuses what the user may not do.
pub fn authorize(
    subject: Option<&Subject>,
    request: Attributes<'_>,
    release: Release,
) -> Result<(), Failure> {
    let Some(subject) = subject else {
        return Err(refusal("system:anonymous", request, ""));
    };
    if subject.organizations.iter().any(|organization| organization == "system:masters") {
        return Ok(());
    }
    let user = &subject.common_name;
    let bearer = |one: &String| one == BOOTSTRAPPERS;
    if subject.organizations.iter().any(bearer) && may_bootstrap(request) {
        return Ok(());
    }
    let Some(node) = node_of(subject) else {
        return Err(refusal(user, request, ""));
    };
    let reads = matches!(request.verb, "get" | "list" | "watch");
    // From 1.32 a kubelet reads its own Node and its own pods only (AuthorizeNodeWithSelectors, KEP-4601).
    let own_only = release.0.minor >= 32;
    let own = request.name == node || request.selected == Some(node);
    match request.resource {
        "nodes" if reads && own_only && !own => {
            Err(refusal(user, request, ": node can only read its own Node object"))
        }
        "nodes" if reads => Ok(()),
        "nodes" if request.name != node => Err(Failure::forbidden(format!(
            "nodes \"{}\" is forbidden: node \"{node}\" is not allowed to modify node \"{}\"",
            request.name, request.name
        ))),
        "nodes" | "pods/eviction" => Ok(()),
        "pods" if reads && own_only && request.name.is_empty() && !own => {
            Err(refusal(user, request, ": can only list/watch pods with spec.nodeName field selector"))
        }
        "pods" if reads || request.verb == "delete" => Ok(()),
        "configmaps" if request.verb == "get" && request.name.starts_with("kubelet-config") => Ok(()),
        "configmaps" if request.verb == "get" && request.name == "kubeadm-config" => Ok(()),
        "configmaps" if request.verb == "get" => Err(refusal(
            user,
            request,
            &format!(": no relationship found between node '{node}' and this object"),
        )),
        _ => Err(refusal(user, request, "")),
    }
}

fn refusal(user: &str, request: Attributes<'_>, why: &str) -> Failure {
    let Attributes { verb, group, resource, namespace, name, .. } = request;
    let subject = match (name, group) {
        ("", "") => resource.to_owned(),
        ("", group) => format!("{resource}.{group}"),
        (name, "") => format!("{resource} \"{name}\""),
        (name, group) => format!("{resource}.{group} \"{name}\""),
    };
    let scope = match namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    Failure::forbidden(format!(
        "{subject} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {scope}{why}"
    ))
}
