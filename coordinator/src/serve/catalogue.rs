//! A catalogue that somebody else keeps: fetched over HTTPS until a copy has its checksum, and then never again.

use std::time::Duration;

use http::{Request, StatusCode};

use super::https::{HttpsClient, HttpsError, client, exchange};
use crate::core::catalogue::Checksum;
use crate::identity::files::{self, FileError};
use crate::keeper::{CatalogueSource, Fetched};

/// How long it is before it is tried again.
const RETRY: Duration = Duration::from_mins(1);

/// How long a try may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A catalogue has a line or three a version.
const MAX_BYTES: usize = 1024 * 1024;

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Https(#[from] HttpsError),
    #[error("the answer is {0}, and only 200 is taken: give the address that it lies at")]
    Status(StatusCode),
    #[error("what lies there has the SHA-256 {0}, and catalogue-sha256 names another")]
    OtherContent(Checksum),
    #[error("what lies there is no text")]
    NoText,
    #[error(transparent)]
    File(#[from] FileError),
}

/// Sees to it that there is a copy, if the catalogue is one that is fetched.
pub(super) async fn keep(source: Option<CatalogueSource>) {
    let Some(CatalogueSource::Fetched(fetched)) = source else { return };
    loop {
        match obtain(&fetched).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(url = %fetched.url, %error, "the catalogue was not fetched"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn obtain(fetched: &Fetched) -> Result<(), FetchError> {
    if fetched.read()?.is_some() {
        return Ok(());
    }
    fetch(fetched, &client(&fetched.url, None)?).await
}

/// Leaves a copy of what lies there, if it is what it has to be.
async fn fetch(fetched: &Fetched, client: &HttpsClient) -> Result<(), FetchError> {
    let mut request = Request::new(String::new());
    request.uri_mut().clone_from(&fetched.url);
    let (status, content) = exchange(client, request, LIMIT, MAX_BYTES).await?;
    if status != StatusCode::OK {
        return Err(FetchError::Status(status));
    }
    let sha256 = Checksum::of(&content);
    if sha256 != fetched.sha256 {
        return Err(FetchError::OtherContent(sha256));
    }
    let text = std::str::from_utf8(&content).map_err(|_| FetchError::NoText)?;
    files::write(&fetched.copy, text)?;
    tracing::info!(url = %fetched.url, copy = %fetched.copy.display(), "the catalogue was fetched");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper_rustls::HttpsConnectorBuilder;
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const TEXT: &str = "[[approved]]\nversion = \"v1.31.2\"\n";

    /// Answers one request after the other with these texts; what reaches it, and a client that trusts it or does not.
    async fn server(answers: Vec<String>, trusted: bool) -> (String, HttpsClient) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        if trusted {
            roots.add(own.cert.der().clone()).unwrap();
        }
        let key = own.signing_key.serialize_der().try_into().unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![own.cert.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/catalogue.toml", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            for answer in answers {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let https = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
        (url, Client::builder(TokioExecutor::new()).build(https))
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    fn wanted(url: &str, folder: &tempfile::TempDir) -> Fetched {
        let (url, sha256) = (url.parse().unwrap(), Checksum::of(TEXT.as_bytes()));
        Fetched { url, sha256, copy: folder.path().join("catalogue.toml") }
    }

    #[tokio::test]
    async fn a_catalogue_is_fetched_once_and_only_with_its_checksum() {
        let folder = tempfile::tempdir().unwrap();
        let answers = vec![
            answer("404 Not Found", ""),
            answer("302 Found", ""),
            answer("200 OK", &TEXT.replace("31.2", "31.3")),
            answer("200 OK", &"#".repeat(MAX_BYTES + 1)),
            answer("200 OK", TEXT),
        ];
        let (url, client) = server(answers, true).await;
        let wanted = wanted(&url, &folder);
        for why in ["404", "302", "names another", "does not come to an end"] {
            let error = fetch(&wanted, &client).await.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert_eq!(wanted.read().unwrap(), None);
        }
        fetch(&wanted, &client).await.unwrap();
        assert_eq!(wanted.read().unwrap().as_deref(), Some(TEXT));
        // Nobody answers any more, and nobody is asked.
        obtain(&wanted).await.unwrap();
    }

    #[tokio::test]
    async fn a_catalogue_is_not_taken_from_a_server_that_nobody_vouches_for() {
        let folder = tempfile::tempdir().unwrap();
        let (url, client) = server(vec![answer("200 OK", TEXT)], false).await;
        let error = fetch(&wanted(&url, &folder), &client).await.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
    }
}
