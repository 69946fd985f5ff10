//! One kubeconfig's way to an API server.

use std::pin::pin;
use std::time::Duration;

use camino::Utf8PathBuf;
use futures::{AsyncBufReadExt as _, Stream, StreamExt as _};
use http::{Request, StatusCode};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::WatchEvent;
use kube::{Client, Config, Error};
use liftlock_proto::causes::causes;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use super::client::client;
use crate::host::{HostError, HostResult};

/// How long one request may take; a watch's answer goes on after its head.
pub(super) const REQUEST: Duration = Duration::from_secs(15);

/// Who asks, and whom.
pub(super) struct Access {
    kubeconfig: Utf8PathBuf,
    /// Asked instead of the kubeconfig's server: this node's own API server, past any load balancer.
    server: Option<String>,
    client: Mutex<Option<Client>>,
}

/// A request that was answered with an error, or not at all.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The API server's own words.
    Status(Box<kube::core::Status>),
    /// No answer, or one that does not read.
    Other(String),
}

impl Access {
    pub(super) fn new(kubeconfig: Utf8PathBuf) -> Self {
        Self { kubeconfig, server: None, client: Mutex::new(None) }
    }

    /// The same credentials for one server, such as `https://172.30.0.11:6443`.
    pub(super) fn to_server(&self, server: String) -> Self {
        Self { kubeconfig: self.kubeconfig.clone(), server: Some(server), client: Mutex::new(None) }
    }

    /// The kubeconfig, for errors.
    pub(super) fn endpoint(&self) -> String {
        match &self.server {
            Some(server) => server.clone(),
            None => format!("the API server of {}", self.kubeconfig),
        }
    }

    /// Sends a request and reads the answer.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        what: &str,
        request: &Request<Vec<u8>>,
    ) -> HostResult<T> {
        self.try_json(request).await.map_err(|refusal| self.error(what, &refusal))
    }

    /// The same, for callers to whom some refusals mean something.
    pub(super) async fn try_json<T: DeserializeOwned>(
        &self,
        request: &Request<Vec<u8>>,
    ) -> Result<T, Refusal> {
        let text = self.text(request).await?;
        serde_json::from_str(&text).map_err(|error| unreadable(&error))
    }

    /// Sends a request and returns the answer as it is.
    pub(super) async fn text(&self, request: &Request<Vec<u8>>) -> Result<String, Refusal> {
        self.call(|client| {
            let request = request.clone();
            async move { client.request_text(request).await }
        })
        .await
    }

    /// Sends a request and hands over the answer line by line: for answers that are too large to hold.
    pub(super) async fn lines(
        &self,
        request: Request<Vec<u8>>,
        mut line: impl FnMut(&str),
    ) -> Result<(), Refusal> {
        let reading = async {
            let answer = self
                .call(|client| {
                    let request = request.clone();
                    async move { client.request_stream(request).await }
                })
                .await?;
            let mut lines = pin!(answer.lines());
            while let Some(next) = lines.next().await {
                line(&next.map_err(|error| Refusal::Other(causes(&error)))?);
            }
            Ok(())
        };
        let unread = || Refusal::Other(format!("its answer did not end within {REQUEST:?}"));
        tokio::time::timeout(REQUEST, reading).await.unwrap_or_else(|_| Err(unread()))
    }

    /// Opens a watch.
    pub(super) async fn events<T: DeserializeOwned + Clone>(
        &self,
        request: Request<Vec<u8>>,
    ) -> Result<impl Stream<Item = Result<WatchEvent<T>, Error>> + use<T>, Refusal> {
        self.call(|client| {
            let request = request.clone();
            async move { client.request_events(request).await }
        })
        .await
    }

    /// Calls with the client. Credentials are read again where the server does not know them any more, because
    /// kubelets and `kubeadm certs renew` replace them, and after a failure of the connection.
    async fn call<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Error>>,
    {
        loop {
            let (client, fresh) = self.client().await?;
            let refusal = match tokio::time::timeout(REQUEST, call(client)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Refusal::from(error),
                Err(_) => Refusal::Other(format!("no answer within {REQUEST:?}")),
            };
            let unauthorized =
                matches!(&refusal, Refusal::Status(status) if status.code == StatusCode::UNAUTHORIZED);
            if unauthorized || matches!(refusal, Refusal::Other(_)) {
                *self.client.lock().await = None;
            }
            if fresh || !unauthorized {
                return Err(refusal);
            }
        }
    }

    async fn client(&self) -> Result<(Client, bool), Refusal> {
        let mut kept = self.client.lock().await;
        if let Some(client) = &*kept {
            return Ok((client.clone(), false));
        }
        let unusable = |error: &(dyn std::error::Error + 'static)| {
            Refusal::Other(format!("{}: {}", self.kubeconfig, causes(error)))
        };
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).map_err(|error| unusable(&error))?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|error| unusable(&error))?;
        if let Some(server) = &self.server {
            config.cluster_url = server.parse().map_err(|error| unusable(&error))?;
            config.tls_server_name = None;
        }
        // Without retries and without a proxy: a 429 is an answer that a drain has to see, and a proxy of the agent's
        // environment is for package repositories, not for the cluster's own network.
        let client = client(&config).map_err(|error| unusable(&error))?;
        *kept = Some(client.clone());
        Ok((client, true))
    }

    pub(super) fn error(&self, what: &str, refusal: &Refusal) -> HostError {
        let (why, transient) = match refusal {
            Refusal::Status(status) => (in_words(status), !final_answer(status.code)),
            Refusal::Other(why) => (why.clone(), true),
        };
        HostError::Api { what: what.to_owned(), endpoint: self.endpoint(), why, transient }
    }
}

/// An answer that is not what was asked for.
pub(super) fn unreadable(error: &serde_json::Error) -> Refusal {
    Refusal::Other(format!("its answer does not read: {error}"))
}

/// Answers that asking again does not change.
fn final_answer(code: u16) -> bool {
    matches!(code, 400 | 403 | 404 | 405 | 409 | 410 | 415 | 422)
}

/// The status's message, its causes, and its number.
pub(super) fn in_words(status: &kube::core::Status) -> String {
    let causes =
        status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.message.as_str());
    let words: Vec<&str> =
        std::iter::once(status.message.as_str()).chain(causes).filter(|words| !words.is_empty()).collect();
    format!("{} ({} {})", words.join(" "), status.code, status.reason)
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(status) => Self::Status(status),
            error => Self::Other(causes(&error)),
        }
    }
}
