//! A Prometheus of which nothing is asked but which alerts there are.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::serve::{Running, bind};

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Prometheus {
    /// `http://127.0.0.1:9090`
    pub url: String,
    firing: Arc<Mutex<Vec<String>>>,
    _running: Running,
}

impl Prometheus {
    /// One where only its `Watchdog` fires, as it always does.
    pub fn start() -> Result<Self> {
        let listener = bind(Ipv4Addr::LOCALHOST, 0)?;
        let url = format!("http://{}", listener.local_addr()?);
        let firing: Arc<Mutex<Vec<String>>> = Arc::default();
        let router = Router::new().route("/api/v1/alerts", get(alerts)).with_state(Arc::clone(&firing));
        let running = Running::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, firing, _running: running })
    }

    /// What fires besides from now on.
    pub fn fire(&self, names: &[&str]) {
        let mut firing = self.firing.lock().unwrap_or_else(PoisonError::into_inner);
        *firing = names.iter().map(|name| (*name).to_owned()).collect();
    }
}

async fn alerts(State(firing): State<Arc<Mutex<Vec<String>>>>) -> Json<Value> {
    let alert = |name: &str, severity: &str| {
        json!({
            "labels": {"alertname": name, "severity": severity},
            "annotations": {}, "state": "firing", "activeAt": "2026-01-01T00:00:00Z", "value": "1e+00",
        })
    };
    let firing = firing.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let firing = firing.iter().map(|name| alert(name, "warning"));
    let alerts: Vec<Value> = [alert("Watchdog", "none")].into_iter().chain(firing).collect();
    Json(json!({"status": "success", "data": {"alerts": alerts}}))
}
