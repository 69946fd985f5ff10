//! Hooks as this machine's own configuration has them, and addresses that documents give: commands are run, addresses told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, StatusCode, Uri};
use liftlock_proto::hooks::check_name;
use liftlock_proto::plan::PlannedNode;
use liftlock_proto::strategy::Part;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::https::{HttpsError, bearer, client, told};
use super::leftovers::{self, LeftoverError};
use crate::core::hooks::{Target, origin};
use crate::identity::files::{self, FileError};
use crate::keeper::{HookOrder, Keeper, LOOK_AGAIN};

/// Where a hook's own programs are looked up.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The last bytes of each of a command's outputs that are kept.
const TAIL: usize = 2000;

/// The last lines of them that are told.
const LINES: usize = 10;

/// How long output is waited for once a command has ended: what it has left behind may hold it open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// More of an answer is not read.
const MAX_ANSWER: usize = 4096;

/// A part of an address with fewer characters is taken for none of its secrets.
const SECRET: usize = 6;

/// Characters of an answer's first line that are told.
const ANSWER: usize = 200;

/// Every hook that a document may name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct HookTargets(BTreeMap<String, HookTarget>);

/// What a name stands for: a command or an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct HookTarget {
    /// A program by its absolute path, and its arguments. No shell reads them.
    command: Option<Vec<String>>,
    /// `https://…`, told by POST.
    url: Option<String>,
    /// What is said to prove who tells; read anew each time.
    bearer_token_file: Option<PathBuf>,
    /// The authorities that vouch for it; those of this machine where none is named.
    ca_file: Option<PathBuf>,
}

/// Why a hook failed. Says nothing of a token, nor of an address what stands behind its host.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error("the coordinator's configuration has no [hooks.{0}] any more")]
    Unknown(String),
    #[error("{0}")]
    Distrusted(String),
    #[error("its url is no address to tell: {0}")]
    Address(String),
    #[error("`{}` cannot be started: {source}", argv.join(" "))]
    Start { argv: Vec<String>, source: io::Error },
    #[error("`{}` ended with {status}{}", argv.join(" "), said(.output))]
    Ended { argv: Vec<String>, status: ExitStatus, output: String },
    #[error("`{}` did not end within {} s and was killed{}", argv.join(" "), limit.as_secs(), said(.output))]
    Slow { argv: Vec<String>, limit: Duration, output: String },
    #[error("{} cannot be told: {source}", origin(.url))]
    Https { url: String, source: HttpsError },
    #[error("{} answers {status}, and only 2xx is taken: {body}", origin(.url))]
    Status { url: String, status: StatusCode, body: String },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Left(#[from] LeftoverError),
    #[error("it was not looked for what an earlier call has left running: {0}")]
    Unlooked(#[from] JoinError),
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; its last output: {output}") }
}

impl HookTargets {
    /// Refuses what could not be called, and a file that others may have written.
    pub(super) fn checked(self, file: &Path) -> Result<Self, String> {
        if !self.0.is_empty()
            && let Some(why) = files::distrust(file).map_err(|error| error.to_string())?
        {
            return Err(format!("it has [hooks], and {why}"));
        }
        for (name, target) in &self.0 {
            target.check(name).map_err(|why| format!("[hooks.{name}] {why}"))?;
        }
        Ok(self)
    }

    /// What documents may name.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    async fn call(&self, order: &HookOrder) -> Result<(), HookError> {
        match &order.call.hook.target {
            Target::Url(url) => {
                tell(&HookTarget { url: Some(url.clone()), ..HookTarget::default() }, order).await
            }
            Target::Name(name) => match self.0.get(name) {
                Some(HookTarget { command: Some(argv), .. }) => run(argv, order).await,
                Some(target) => tell(target, order).await,
                None => Err(HookError::Unknown(name.clone())),
            },
        }
    }
}

impl HookTarget {
    fn check(&self, name: &str) -> Result<(), String> {
        check_name(name).map_err(|why| why.to_string())?;
        match (&self.command, &self.url) {
            (Some(argv), None) => {
                if self.bearer_token_file.is_some() || self.ca_file.is_some() {
                    return Err("has a command, and bearer-token-file and ca-file go with url: allowed is command alone".to_owned());
                }
                let program = argv.first().map(String::as_str).unwrap_or_default();
                if !Path::new(program).is_absolute() {
                    return Err(format!(
                        "command = {argv:?}: the program is no absolute path; allowed is one such as [\"/usr/local/sbin/x\", \
                         \"--y\"], which no shell reads"
                    ));
                }
                Ok(())
            }
            (None, Some(url)) => {
                let uri = address(url).map_err(|why| format!("url: {why}"))?;
                if self.bearer_token_file.is_some() && uri.scheme() != Some(&Scheme::HTTPS) {
                    return Err(
                        "url: a token goes over https:// only; allowed is that, or no bearer-token-file"
                            .to_owned(),
                    );
                }
                Ok(())
            }
            _ => Err("has to have either command or url: allowed is one of them".to_owned()),
        }
    }
}

/// An address that may be told. What is refused is not shown: it may hold a secret.
fn address(url: &str) -> Result<Uri, String> {
    let allowed = "allowed is https://… (or http://…, which anybody on the way can read), without a user";
    let uri = url.parse::<Uri>().map_err(|error| format!("{error}; {allowed}"))?;
    let known = uri.scheme().is_some_and(|scheme| *scheme == Scheme::HTTPS || *scheme == Scheme::HTTP);
    if known && !url.contains('@') { Ok(uri) } else { Err(allowed.to_owned()) }
}

/// What the node that it is about does in the plan.
fn part(order: &HookOrder) -> Option<Part> {
    let node = order.call.moment.node()?;
    order.plan.nodes.iter().find(|planned| planned.name == *node).map(PlannedNode::part)
}

/// What a command is told, in its environment.
fn variables(order: &HookOrder) -> Vec<(&'static str, String)> {
    let HookOrder { call, plan, outcome, .. } = order;
    let mut variables = vec![
        ("PATH", PATH.to_owned()),
        (leftovers::CALL, order.id.clone()),
        ("LIFTLOCK_HOOK", call.hook.target.to_string()),
        ("LIFTLOCK_MOMENT", call.moment.name().to_owned()),
        ("LIFTLOCK_PLAN", plan.id.to_string()),
        ("LIFTLOCK_FROM_VERSION", plan.from_version.to_string()),
        ("LIFTLOCK_TO_VERSION", plan.to_version.to_string()),
    ];
    variables.extend(call.moment.node().map(|node| ("LIFTLOCK_NODE", node.to_string())));
    variables.extend(part(order).map(|part| ("LIFTLOCK_PART", part.name().to_owned())));
    variables.extend(call.moment.pool().map(|pool| ("LIFTLOCK_POOL", pool.to_owned())));
    variables.extend(outcome.map(|outcome| ("LIFTLOCK_OUTCOME", outcome.to_owned())));
    variables
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the coordinator runs a command: what its own file names"
)]
async fn run(argv: &[String], order: &HookOrder) -> Result<(), HookError> {
    let owned = || argv.to_vec();
    let (program, arguments) =
        argv.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    if let Some(why) = files::distrust(Path::new(program))? {
        return Err(HookError::Distrusted(why));
    }
    if order.call.last.is_some() {
        let id = order.id.clone();
        spawn_blocking(move || leftovers::end(&id)).await??;
    }
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(variables(order))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|source| HookError::Start { argv: owned(), source })?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut out_said, mut err_said) = (VecDeque::new(), VecDeque::new());
    let ended = {
        let words = pin!(async { tokio::join!(tail(out, &mut out_said), tail(err, &mut err_said)) });
        match select(pin!(end(&mut child, order.limit())), words).await {
            Either::Left((ended, words)) => {
                let _ = timeout(LAST_WORDS, words).await;
                ended
            }
            Either::Right((_, end)) => end.await,
        }
    };
    let text = |said: VecDeque<u8>| String::from_utf8_lossy(&Vec::from(said)).into_owned();
    let output = last_lines(&[text(out_said), text(err_said)].join("\n"));
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(HookError::Ended { argv: owned(), status, output }),
        Ok(Err(source)) => Err(HookError::Start { argv: owned(), source }),
        Err(_) => Err(HookError::Slow { argv: owned(), limit: order.limit(), output }),
    }
}

/// The end of a command, which is killed over its limit.
async fn end(child: &mut Child, limit: Duration) -> Result<io::Result<ExitStatus>, Elapsed> {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let ended = timeout(limit, child.wait()).await;
    if ended.is_err() {
        // Its whole group: a command may have children.
        let _ = group.map(|group| killpg(group, Signal::SIGKILL));
        let _ = child.wait().await;
    }
    ended
}

/// Keeps the end of what it says.
async fn tail(stream: Option<impl AsyncRead + Unpin>, kept: &mut VecDeque<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 4096];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        kept.extend(buffer.iter().take(read));
        kept.drain(..kept.len().saturating_sub(TAIL));
    }
}

/// The last lines that are not blank.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
}

async fn tell(target: &HookTarget, order: &HookOrder) -> Result<(), HookError> {
    let url = target.url.clone().unwrap_or_default();
    let failed = |source| HookError::Https { url: url.clone(), source };
    let HookOrder { call, plan, outcome, .. } = order;
    let body = json!({
        "hook": call.hook.target.to_string(),
        "moment": call.moment.name(),
        "plan": plan.id,
        "node": call.moment.node(),
        "part": part(order),
        "pool": call.moment.pool(),
        "fromVersion": plan.from_version,
        "toVersion": plan.to_version,
        "outcome": outcome,
    });
    let mut request = Request::new(body.to_string());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = address(&url).map_err(HookError::Address)?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(file) = &target.bearer_token_file {
        request.headers_mut().insert(AUTHORIZATION, bearer(file).map_err(failed)?);
    }
    let client = client(request.uri(), target.ca_file.as_deref()).map_err(failed)?;
    let secrets = secrets(&request);
    let (status, body) = told(&client, request, order.limit(), MAX_ANSWER).await.map_err(failed)?;
    if status.is_success() {
        return Ok(());
    }
    let mut body = String::from_utf8_lossy(&body).into_owned();
    for secret in secrets {
        body = body.replace(&secret, "…");
    }
    let body = body.lines().next().unwrap_or_default().chars().take(ANSWER).collect();
    Err(HookError::Status { url, status, body })
}

/// What an answer may repeat of a request and nobody is shown: its path, the parts of it, and what proves who tells.
fn secrets(request: &Request<String>) -> Vec<String> {
    let path = request.uri().path_and_query().map(PathAndQuery::as_str).unwrap_or_default();
    let parts = path.split(['/', '?', '&', '=']).filter(|part| part.len() >= SECRET);
    let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|bearer| bearer.split_once(' ')).map(|(_, token)| token);
    let mut secrets: Vec<String> = parts.chain(token).map(str::to_owned).collect();
    if path.len() > 1 {
        secrets.insert(0, path.to_owned());
    }
    secrets
}

/// Calls whatever is to be called, one after the other.
pub(super) async fn call(keeper: Arc<Keeper>, hooks: HookTargets) {
    let mut changes = keeper.changes();
    loop {
        if let Some(order) = keeper.wanted_hook() {
            match call_one(&keeper, &hooks, order).await {
                Ok(()) => continue,
                Err(error) => tracing::error!(%error, "what became of a hook was not recorded"),
            }
        }
        // A change may have been told before it was listened for.
        let _ = timeout(LOOK_AGAIN, changes.changed()).await;
    }
}

async fn call_one(keeper: &Arc<Keeper>, hooks: &HookTargets, order: HookOrder) -> Result<(), String> {
    let begins = {
        let (keeper, order) = (Arc::clone(keeper), order.clone());
        spawn_blocking(move || keeper.hook_begins(&order)).await
    };
    match begins {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => return Ok(()),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(error) => return Err(error.to_string()),
    }
    tracing::info!("{} is called", order.call);
    let failure = hooks.call(&order).await.err().map(|error| error.to_string());
    if let Some(failure) = &failure {
        tracing::warn!("{} failed: {failure}", order.call);
    }
    let keeper = Arc::clone(keeper);
    match spawn_blocking(move || keeper.hook_ended(&order, failure.as_deref())).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
