use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::*;
use crate::identity::files;

fn prometheus(url: &str) -> Prometheus {
    Prometheus { url: url.to_owned(), bearer_token_file: None, ca_file: None }
}

/// Answers one request like this, and tells what was asked.
async fn server(answer: String) -> (String, oneshot::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/prom/", listener.local_addr().unwrap());
    let (told, asked) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let read = stream.read(&mut request).await.unwrap();
        let _ = told.send(String::from_utf8_lossy(&request[..read]).into_owned());
        let _ = stream.write_all(answer.as_bytes()).await;
    });
    (url, asked)
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn prometheus_is_asked_below_the_path_of_its_url() {
    let body = r#"{"status":"success","data":{"alerts":[{"labels":{"alertname":"A"},"state":"firing"}]}}"#;
    let (url, asked) = server(answer("200 OK", body)).await;
    let alerts = prometheus(&url).ask().await.unwrap();
    assert_eq!(alerts.len(), 1);
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("GET /prom/api/v1/alerts HTTP/1.1\r\n"), "{asked}");
}

#[tokio::test]
async fn whatever_is_no_answer_of_prometheus_is_an_error_that_says_what_it_was() {
    for (status, body, why) in [
        ("503 Service Unavailable", "", "it answers 503"),
        ("302 Found", "", "it answers 302"),
        ("200 OK", "<html>", "no answer of Prometheus"),
        ("200 OK", &"x".repeat(MAX_BYTES + 1), "does not come to an end"),
    ] {
        let (url, _asked) = server(answer(status, body)).await;
        let error = prometheus(&url).ask().await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = prometheus(&format!("http://{closed}")).ask().await.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}

#[test]
fn what_cannot_be_asked_is_refused_at_the_start_and_a_token_goes_over_https_only() {
    let with_token = |url: &str| {
        let bearer_token_file = Some("/etc/liftlock/token".into());
        Prometheus { bearer_token_file, ..prometheus(url) }.checked()
    };
    assert!(prometheus("http://127.0.0.1:9090").checked().is_ok());
    assert!(with_token("https://prometheus.example/prefix").is_ok());
    for url in ["prometheus.example", "ftp://a", "https://a/?b", "", "https://"] {
        let why = prometheus(url).checked().unwrap_err();
        assert!(why.contains(&format!("[alerts] url = \"{url}\"")) && why.contains("allowed is"), "{why}");
    }
    let why = prometheus("https://me:secret@a/").checked().unwrap_err();
    assert!(why.contains("names a user") && !why.contains("secret"), "{why}");
    let why = with_token("http://prometheus.example").unwrap_err();
    assert!(why.contains("a token goes over https:// only"), "{why}");
}

#[tokio::test]
async fn a_token_that_is_missing_or_none_is_named_by_its_file_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let asked = Prometheus { bearer_token_file: Some(file.clone()), ..prometheus("http://127.0.0.1:9") };
    let error = asked.ask().await.unwrap_err().to_string();
    assert!(error.contains("token is not there"), "{error}");
    files::write(&file, "sec\nret").unwrap();
    let error = asked.ask().await.unwrap_err().to_string();
    assert!(error.contains("holds no token") && !error.contains("sec"), "{error}");
}
