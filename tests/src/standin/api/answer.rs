//! Answers: objects, and the Status objects that errors are.

use axum::body::Body;
use http::{Response, StatusCode, header};
use serde_json::{Value, json};

/// An answer of the API.
pub type Answer = Response<Body>;

/// An error, as the API words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// 403, 404, 409, 429, …
    pub code: u16,
    /// `Forbidden`
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// `details`, where there are any.
    pub details: Option<Value>,
}

impl Failure {
    /// 403, where a user may not do this at all.
    pub fn forbidden(message: String) -> Self {
        Self { code: 403, reason: "Forbidden", message, details: None }
    }

    /// 404.
    pub fn not_found(resource: &str, name: &str) -> Self {
        Self {
            code: 404,
            reason: "NotFound",
            message: format!("{resource} \"{name}\" not found"),
            details: Some(json!({"name": name, "kind": resource})),
        }
    }

    /// 400.
    pub fn bad_request(message: String) -> Self {
        Self { code: 400, reason: "BadRequest", message, details: None }
    }

    /// 409, where an object is there already or is another one by now.
    pub fn conflict(reason: &'static str, message: String) -> Self {
        Self { code: 409, reason, message, details: None }
    }

    /// 503, where etcd does not answer.
    pub fn unavailable(message: &str) -> Self {
        Self { code: 503, reason: "ServiceUnavailable", message: message.to_owned(), details: None }
    }

    /// The Status object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

/// An object with a status code.
pub fn object(code: u16, object: &Value) -> Answer {
    let mut answer = Response::new(Body::from(object.to_string()));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        object(failure.code, &failure.status())
    }
}
