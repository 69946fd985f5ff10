//! Alerts that hold a roll-out: what Prometheus says of them, and which of them count.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The name under which an operator consents to whatever fires.
pub const CONSENT: &str = "alerts-firing";

/// An alert of this severity only proves that alerts arrive, and always fires: kube-prometheus' `Watchdog`
/// (<https://runbooks.prometheus-operator.dev/runbooks/general/watchdog/>).
const NOBODY: &str = "none";

/// So many are named.
const NAMED: usize = 3;

/// Characters of a label that are shown.
const SHOWN: usize = 80;

/// Which of the alerts that fire hold the roll-out: all that do not say that they are nobody's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AlertFilter {
    /// Names of alerts that hold nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// Only alerts that have each of these labels, with one of its values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub only_matching: BTreeMap<String, Vec<String>>,
}

/// An alert that fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Its labels, its name (`alertname`) among them.
    pub labels: BTreeMap<String, String>,
}

/// The alerts that hold a roll-out now, or why nobody can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// Some fire, at least one.
    Firing {
        /// The first few of them.
        named: Vec<Alert>,
        /// How many there are beside these.
        more: usize,
    },
    /// Prometheus could not be asked: why.
    Unknown(String),
}

/// An answer that tells nothing of alerts.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It is no answer of `/api/v1/alerts`.
    #[error("what lies there is no answer of Prometheus' /api/v1/alerts: {0}")]
    Form(#[from] serde_json::Error),
    /// Prometheus says that it could not.
    #[error("Prometheus answers with the status {0:?}")]
    Status(String),
    /// It says that all is well and nothing of alerts.
    #[error("what lies there is no answer of Prometheus' /api/v1/alerts: it has no data")]
    NoData,
}

/// <https://prometheus.io/docs/prometheus/latest/querying/api/#alerts>
#[derive(Deserialize)]
struct Answer {
    status: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    alerts: Vec<Told>,
}

#[derive(Deserialize)]
struct Told {
    labels: BTreeMap<String, String>,
    /// `firing`; `pending` where its condition has not lasted long enough yet.
    state: String,
}

impl AlertFilter {
    /// Whether it is as if nothing had been said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an alert holds the roll-out.
    fn counts(&self, alert: &Alert) -> bool {
        let label = |name: &str| alert.labels.get(name).map(String::as_str).unwrap_or_default();
        label("severity") != NOBODY
            && !self.ignore.iter().any(|name| name == label("alertname"))
            && self.only_matching.iter().all(|(name, values)| values.iter().any(|value| value == label(name)))
    }

    /// What holds the roll-out, by what Prometheus answered last.
    pub fn alarm(&self, answer: &Result<Vec<Alert>, String>) -> Option<Alarm> {
        match answer {
            Ok(alerts) => {
                let mut firing = alerts.iter().filter(|alert| self.counts(alert));
                let named: Vec<Alert> = firing.by_ref().take(NAMED).cloned().collect();
                (!named.is_empty()).then(|| Alarm::Firing { named, more: firing.count() })
            }
            Err(why) => Some(Alarm::Unknown(why.clone())),
        }
    }
}

/// The alerts that fire, in the body of an answer.
///
/// # Errors
/// Where it is none.
pub fn firing(body: &[u8]) -> Result<Vec<Alert>, AnswerError> {
    let Answer { status, data } = serde_json::from_slice(body)?;
    if status != "success" {
        return Err(AnswerError::Status(shown(&status)));
    }
    let firing = data.ok_or(AnswerError::NoData)?.alerts.into_iter().filter(|alert| alert.state == "firing");
    Ok(firing.map(|Told { labels, .. }| Alert { labels }).collect())
}

/// `KubeNodeNotReady (severity warning, node w1)`
impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = |name: &str| self.labels.get(name).map(|value| shown(value));
        f.write_str(&label("alertname").unwrap_or_else(|| "an alert without a name".to_owned()))?;
        let told = ["severity", "namespace", "node", "instance"];
        let told: Vec<String> =
            told.iter().filter_map(|name| Some(format!("{name} {}", label(name)?))).collect();
        if told.is_empty() { Ok(()) } else { write!(f, " ({})", told.join(", ")) }
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Firing { named: alerts, more } => {
                let named: Vec<String> = alerts.iter().map(ToString::to_string).collect();
                let more = if *more > 0 { format!(" and {more} more") } else { String::new() };
                let verb = if alerts.len() == 1 { "an alert fires" } else { "alerts fire" };
                write!(
                    f,
                    "nothing is begun while {verb}: {}{more}; spec.alerts.ignore names those that hold nothing, and --accept {CONSENT} consents to all",
                    named.join(", ")
                )
            }
            Self::Unknown(why) => write!(
                f,
                "nothing is begun while nobody can tell whether an alert fires: {why}; put Prometheus right, or [alerts] in \
                 the coordinator's configuration"
            ),
        }
    }
}

/// A label of somebody else's, short enough and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
