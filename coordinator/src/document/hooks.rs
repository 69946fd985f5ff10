//! What is called before and after plans, pools and nodes, as a document says it: each value checked where it stands.

use http::Uri;
use http::uri::Scheme;
use liftlock_proto::hooks::{NodeHook, NodeHooks, check_name};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::values::{Seconds, ValueError};
use crate::core::hooks::{Hook, Hooks, Target};

/// How long a hook may take where nothing is said, in seconds.
const TIMEOUT_SECONDS: u32 = 300;

/// What is called before and after plans, pools and nodes. No node is begun on past one that has not ended well.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HooksSpec {
    /// Before the first node of the plan is begun on; on a path, at each stop.
    #[serde(skip_serializing_if = "HookList::is_empty")]
    pub before_plan: HookList,
    /// Once every node of the plan is raised, or its roll-out has ended otherwise; on a path, at each stop.
    #[serde(skip_serializing_if = "HookList::is_empty")]
    pub after_plan: HookList,
    /// Before the first node of each pool of workers is begun on.
    #[serde(skip_serializing_if = "HookList::is_empty")]
    pub before_pool: HookList,
    /// Once no node of a pool is to be raised any more.
    #[serde(skip_serializing_if = "HookList::is_empty")]
    pub after_pool: HookList,
    /// Before each node is begun on: first what the coordinator calls, then, under its lease, what the node does.
    #[serde(skip_serializing_if = "NodeHookList::is_empty")]
    pub before_node: NodeHookList,
    /// Once a node is raised: first, under its lease, what the node calls, then what the coordinator does.
    #[serde(skip_serializing_if = "NodeHookList::is_empty")]
    pub after_node: NodeHookList,
}

/// Hooks that the coordinator calls, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<HookSpec>", into = "Vec<HookSpec>")]
#[schemars(with = "Vec<HookWords>")]
pub struct HookList(Vec<Hook>);

/// Hooks that the coordinator calls, and those that a node does, each in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<HookSpec>", into = "Vec<HookSpec>")]
#[schemars(with = "Vec<HookWords>")]
pub struct NodeHookList {
    coordinator: Vec<Hook>,
    node: Vec<NodeHook>,
}

/// One hook, by who calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "HookWords", into = "HookWords")]
pub enum HookSpec {
    /// The coordinator: a name or an address.
    Coordinator(Hook),
    /// The node: a name.
    Node(NodeHook),
}

/// A hook as it is written. It has a `name` or a `url`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HookWords {
    /// Which hook, as the configuration of whoever calls it has it: a command never stands in a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hook_name")]
    name: Option<String>,
    /// Who calls it, where it has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hook_caller")]
    on: Option<CalledOn>,
    /// An address that the coordinator tells by POST; any answer 2xx is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hook_url")]
    url: Option<String>,
    /// How long it may take, in seconds.
    #[serde(default = "timeout")]
    timeout_seconds: Seconds,
}

/// Who calls a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CalledOn {
    /// The coordinator, by its own configuration.
    Coordinator,
    /// The node itself, by its agent's configuration; before and after nodes only.
    Node,
}

impl CalledOn {
    /// Everybody.
    pub(super) const ALL: [Self; 2] = [Self::Coordinator, Self::Node];

    /// Its name in documents.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Node => "node",
        }
    }
}

fn timeout() -> Seconds {
    Seconds::decided(TIMEOUT_SECONDS)
}

impl HooksSpec {
    /// Whether there is none.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl HooksSpec {
    /// The same with these that nodes call.
    #[must_use]
    pub fn on_nodes(mut self, NodeHooks { before, after }: NodeHooks) -> Self {
        self.before_node.node = before;
        self.after_node.node = after;
        self
    }

    /// Those that nodes call.
    pub fn of_nodes(&self) -> NodeHooks {
        NodeHooks { before: self.before_node.node.clone(), after: self.after_node.node.clone() }
    }
}

impl HookList {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl NodeHookList {
    fn is_empty(&self) -> bool {
        self.coordinator.is_empty() && self.node.is_empty()
    }
}

impl TryFrom<Vec<HookSpec>> for HookList {
    type Error = ValueError;

    fn try_from(hooks: Vec<HookSpec>) -> Result<Self, ValueError> {
        let NodeHookList { coordinator, node } = hooks.try_into()?;
        match node.first() {
            None => Ok(Self(coordinator)),
            Some(NodeHook { name, .. }) => Err(ValueError::of(format!(
                "{name} is called on: node, and this is about no node: allowed is coordinator, or put it into beforeNode or afterNode"
            ))),
        }
    }
}

impl TryFrom<Vec<HookSpec>> for NodeHookList {
    type Error = ValueError;

    fn try_from(hooks: Vec<HookSpec>) -> Result<Self, ValueError> {
        let mut list = Self::default();
        for hook in hooks {
            let (twice, what) = match hook {
                HookSpec::Coordinator(hook) => {
                    let what = hook.target.to_string();
                    let twice = list.coordinator.iter().any(|other| other.target == hook.target);
                    list.coordinator.push(hook);
                    (twice, what)
                }
                HookSpec::Node(hook) => {
                    let what = hook.name.clone();
                    let twice = list.node.iter().any(|other| other.name == hook.name);
                    list.node.push(hook);
                    (twice, what)
                }
            };
            if twice {
                return Err(ValueError::of(format!(
                    "{what} stands in this list a second time: allowed is once"
                )));
            }
        }
        Ok(list)
    }
}

impl From<HookList> for Vec<HookSpec> {
    fn from(HookList(hooks): HookList) -> Self {
        hooks.into_iter().map(HookSpec::Coordinator).collect()
    }
}

impl From<NodeHookList> for Vec<HookSpec> {
    fn from(NodeHookList { coordinator, node }: NodeHookList) -> Self {
        let coordinator = coordinator.into_iter().map(HookSpec::Coordinator);
        coordinator.chain(node.into_iter().map(HookSpec::Node)).collect()
    }
}

impl TryFrom<HookWords> for HookSpec {
    type Error = ValueError;

    fn try_from(words: HookWords) -> Result<Self, ValueError> {
        let HookWords { name, on, url, timeout_seconds } = words;
        let timeout_seconds = timeout_seconds.into();
        let target = match (name, url) {
            (Some(name), None) if on == Some(CalledOn::Node) => {
                return Ok(Self::Node(NodeHook { name: checked_name(name)?, timeout_seconds }));
            }
            (Some(name), None) => Target::Name(checked_name(name)?),
            (None, Some(_)) if on.is_some() => {
                return Err(ValueError::of(
                    "`on` says who calls a hook that has a name, and an address is told by the coordinator: allowed is `url` \
                     without it"
                        .to_owned(),
                ));
            }
            (None, Some(url)) => Target::Url(checked_url(url)?),
            (Some(_), Some(_)) => {
                return Err(ValueError::of("it has a name and a url: allowed is one of them".to_owned()));
            }
            (None, None) => {
                return Err(ValueError::of(
                    "it has neither name nor url: allowed is one of them, such as {name: announce, on: coordinator}"
                        .to_owned(),
                ));
            }
        };
        Ok(Self::Coordinator(Hook { target, timeout_seconds }))
    }
}

fn checked_name(name: String) -> Result<String, ValueError> {
    match check_name(&name) {
        Ok(()) => Ok(name),
        Err(why) => Err(ValueError::of(format!(
            "\"{name}\" {why}; what it runs stands in the configuration of whoever calls it"
        ))),
    }
}

/// What is refused is not shown: it may hold a secret.
fn checked_url(url: String) -> Result<String, ValueError> {
    let read = url.parse::<Uri>().ok().filter(|_| !url.contains('@'));
    let scheme = read.as_ref().and_then(Uri::scheme);
    if scheme.is_some_and(|scheme| *scheme == Scheme::HTTPS || *scheme == Scheme::HTTP) {
        return Ok(url);
    }
    Err(ValueError::of(
        "this url is not one to tell: allowed is https://HOST/… (or http://…, which anybody on the way can read), without a user"
            .to_owned(),
    ))
}

impl From<HookSpec> for HookWords {
    fn from(hook: HookSpec) -> Self {
        let (name, on, url, timeout_seconds) = match hook {
            HookSpec::Node(NodeHook { name, timeout_seconds }) => {
                (Some(name), Some(CalledOn::Node), None, timeout_seconds)
            }
            HookSpec::Coordinator(Hook { target: Target::Name(name), timeout_seconds }) => {
                (Some(name), Some(CalledOn::Coordinator), None, timeout_seconds)
            }
            HookSpec::Coordinator(Hook { target: Target::Url(url), timeout_seconds }) => {
                (None, None, Some(url), timeout_seconds)
            }
        };
        Self { name, on, url, timeout_seconds: Seconds::decided(timeout_seconds) }
    }
}

impl From<Vec<Hook>> for NodeHookList {
    fn from(coordinator: Vec<Hook>) -> Self {
        Self { coordinator, node: Vec::new() }
    }
}

impl From<HooksSpec> for Hooks {
    fn from(spec: HooksSpec) -> Self {
        let HooksSpec { before_plan, after_plan, before_pool, after_pool, before_node, after_node } = spec;
        Self {
            before_plan: before_plan.0,
            after_plan: after_plan.0,
            before_pool: before_pool.0,
            after_pool: after_pool.0,
            before_node: before_node.coordinator,
            after_node: after_node.coordinator,
        }
    }
}

impl From<Hooks> for HooksSpec {
    fn from(hooks: Hooks) -> Self {
        let Hooks { before_plan, after_plan, before_pool, after_pool, before_node, after_node } = hooks;
        Self {
            before_plan: HookList(before_plan),
            after_plan: HookList(after_plan),
            before_pool: HookList(before_pool),
            after_pool: HookList(after_pool),
            before_node: before_node.into(),
            after_node: after_node.into(),
        }
    }
}
