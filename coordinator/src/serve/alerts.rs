//! The Prometheus whose alerts hold a roll-out: asked whenever the keeper wants to know.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::uri::Scheme;
use http::{Request, StatusCode, Uri};
use serde::Deserialize;

use super::https::{HttpsError, bearer, client, exchange};
use crate::core::alerts::{Alert, AnswerError, firing};
use crate::keeper::{Keeper, LOOK_AGAIN};

/// How long it may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Thousands of alerts fit.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Where Prometheus is asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Prometheus {
    /// `https://prometheus.example:9090`, a path before `/api/v1/alerts` included.
    url: String,
    /// What is said to prove who asks; read anew each time.
    bearer_token_file: Option<PathBuf>,
    /// The authorities that vouch for it; those of this machine where none is named.
    ca_file: Option<PathBuf>,
}

/// Why it cannot be asked. Says nothing of the token.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Https(#[from] HttpsError),
    #[error("it answers {0}, and only 200 is taken: see to url and bearer-token-file")]
    Status(StatusCode),
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

impl Prometheus {
    /// Refuses what could not be asked, or would be told the token in clear.
    pub(super) fn checked(self) -> Result<Self, String> {
        if self.url.contains('@') {
            return Err("[alerts] url names a user: allowed is one without, and what proves who asks in bearer-token-file".to_owned());
        }
        let url = self.address().map_err(|why| format!("[alerts] url = \"{}\": {why}", self.url))?;
        if self.bearer_token_file.is_some() && url.scheme() != Some(&Scheme::HTTPS) {
            return Err(format!(
                "[alerts] url = \"{}\": a token goes over https:// only; allowed is that, or no bearer-token-file",
                self.url
            ));
        }
        Ok(self)
    }

    fn address(&self) -> Result<Uri, String> {
        let allowed = "allowed is an URL such as https://prometheus.example:9090";
        let base = self.url.parse::<Uri>().map_err(|error| format!("{error}; {allowed}"))?;
        let known = base.scheme().is_some_and(|scheme| *scheme == Scheme::HTTPS || *scheme == Scheme::HTTP);
        if !known || base.query().is_some() {
            return Err(format!("{allowed}, without a query"));
        }
        let whole = format!("{}/api/v1/alerts", self.url.trim_end_matches('/'));
        whole.parse::<Uri>().map_err(|error| format!("{error}; {allowed}"))
    }

    async fn ask(&self) -> Result<Vec<Alert>, AskError> {
        let mut request = Request::new(String::new());
        *request.uri_mut() = self.address().unwrap_or_default();
        if let Some(file) = &self.bearer_token_file {
            request.headers_mut().insert(AUTHORIZATION, bearer(file)?);
        }
        let client = client(request.uri(), self.ca_file.as_deref())?;
        let (status, body) = exchange(&client, request, LIMIT, MAX_BYTES).await?;
        if status != StatusCode::OK {
            return Err(AskError::Status(status));
        }
        Ok(firing(&body)?)
    }
}

/// Asks whenever an answer is wanted.
pub(super) async fn ask(keeper: Arc<Keeper>, prometheus: Option<Prometheus>) {
    let Some(prometheus) = prometheus else { return };
    let mut changes = keeper.changes();
    loop {
        if keeper.wants_alerts() {
            let answer = prometheus.ask().await;
            let answer = answer.map_err(|error| format!("{} cannot be asked: {error}", prometheus.url));
            let keeper = Arc::clone(&keeper);
            if let Err(error) = tokio::task::spawn_blocking(move || keeper.alerts_are(answer)).await {
                tracing::error!(%error, "what Prometheus said was not taken up");
            }
        }
        // A change may have been told before it was listened for.
        let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
    }
}

#[cfg(test)]
mod tests;
