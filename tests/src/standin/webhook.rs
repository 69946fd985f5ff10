//! A server that is told things by POST, and answers as it is told to.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Result;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use tokio::sync::watch;

use super::serve::{Running, bind};

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Webhook {
    /// `http://127.0.0.1:8080/hooks/T0`
    pub url: String,
    told: watch::Receiver<Vec<Value>>,
    answer: Arc<AtomicU16>,
    _running: Running,
}

#[derive(Clone)]
struct Ear {
    told: Arc<watch::Sender<Vec<Value>>>,
    answer: Arc<AtomicU16>,
}

impl Webhook {
    /// One that answers 200.
    pub fn start() -> Result<Self> {
        let listener = bind(Ipv4Addr::LOCALHOST, 0)?;
        let url = format!("http://{}/hooks/T0", listener.local_addr()?);
        let (sender, told) = watch::channel(Vec::new());
        let answer = Arc::new(AtomicU16::new(200));
        let ear = Ear { told: Arc::new(sender), answer: Arc::clone(&answer) };
        let router = Router::new().route("/hooks/T0", post(hear)).with_state(ear);
        let running = Running::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, told, answer, _running: running })
    }

    /// Answers with this status from now on.
    pub fn answer_with(&self, status: u16) {
        self.answer.store(status, Ordering::Relaxed);
    }

    /// Waits until it was told so many times, and returns what.
    pub async fn told(&self, times: usize) -> Result<Vec<Value>> {
        let mut told = self.told.clone();
        let heard = told.wait_for(|told| told.len() >= times).await?;
        Ok(heard.clone())
    }
}

async fn hear(State(ear): State<Ear>, Json(body): Json<Value>) -> (StatusCode, &'static str) {
    ear.told.send_modify(|told| told.push(body));
    let status = StatusCode::from_u16(ear.answer.load(Ordering::Relaxed)).unwrap_or_default();
    (status, "as it was told\nto answer\n")
}
