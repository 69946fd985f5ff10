use super::*;

fn alert(labels: &[(&str, &str)]) -> Alert {
    let label = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Alert { labels: labels.iter().map(label).collect() }
}

fn filter(ignore: &[&str], only_matching: &[(&str, &[&str])]) -> AlertFilter {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let matching = only_matching.iter().map(|(name, values)| ((*name).to_owned(), owned(values)));
    AlertFilter { ignore: owned(ignore), only_matching: matching.collect() }
}

/// As the real one answers (see the page that `Answer` names).
const ANSWER: &str = r#"{"status":"success","data":{"alerts":[
  {"activeAt":"2026-11-28T10:00:00.1Z","annotations":{"summary":"x"},"labels":{"alertname":"Watchdog","severity":"none"},
   "state":"firing","value":"1e+00"},
  {"activeAt":"2026-11-28T10:00:00.1Z","annotations":{},"labels":{"alertname":"KubeNodeNotReady","node":"w1","severity":"warning"},
   "state":"firing","value":"1e+00"},
  {"activeAt":"2026-11-28T10:00:00.1Z","annotations":{},"labels":{"alertname":"Later","severity":"critical"},"state":"pending",
   "value":"1e+00"}]}}"#;

#[test]
fn what_fires_is_read_from_prometheus_answer_and_what_is_pending_does_not_fire() {
    let found = firing(ANSWER.as_bytes()).unwrap();
    let names: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["Watchdog (severity none)", "KubeNodeNotReady (severity warning, node w1)"]);
    assert_eq!(firing(br#"{"status":"success","data":{"alerts":[]}}"#).unwrap(), []);
    for (text, why) in [
        (r#"{"status":"error","errorType":"x","error":"y"}"#, "the status \"error\""),
        ("<html>", "no answer of Prometheus"),
        (r#"{"status":"success"}"#, "it has no data"),
        (r#"{"data":{"alerts":[]}}"#, "missing field `status`"),
        (r#"{"status":"success","data":{}}"#, "missing field `alerts`"),
        (r#"{"status":"success","data":{"alerts":[{"labels":{}}]}}"#, "missing field `state`"),
        ("", "no answer of Prometheus"),
    ] {
        let error = firing(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn an_alert_holds_unless_it_is_ignored_matches_not_or_is_nobodys() {
    let watchdog = alert(&[("alertname", "Watchdog"), ("severity", "none")]);
    let warning = alert(&[("alertname", "NodeNotReady"), ("severity", "warning"), ("team", "infra")]);
    let all = Ok(vec![watchdog, warning.clone()]);
    let holds = |filter: AlertFilter| filter.alarm(&all);
    let fires = Some(Alarm::Firing { named: vec![warning], more: 0 });
    assert_eq!(holds(AlertFilter::default()), fires);
    assert_eq!(holds(filter(&["Other"], &[])), fires);
    assert_eq!(holds(filter(&["NodeNotReady"], &[])), None);
    assert_eq!(holds(filter(&[], &[("severity", &["critical", "warning"])])), fires);
    assert_eq!(holds(filter(&[], &[("severity", &["critical", "warning"]), ("team", &["infra"])])), fires);
    assert_eq!(holds(filter(&[], &[("severity", &["critical"])])), None);
    assert_eq!(holds(filter(&[], &[("severity", &["warning"]), ("team", &["shop"])])), None);
    assert_eq!(AlertFilter::default().alarm(&Ok(Vec::new())), None);
}

#[test]
fn what_cannot_be_asked_holds_and_what_fires_is_named_briefly_without_control_characters() {
    let unknown = AlertFilter::default().alarm(&Err("it is away".to_owned())).unwrap().to_string();
    assert!(unknown.contains("nobody can tell whether an alert fires: it is away"), "{unknown}");
    let all_of = |alerts: Vec<Alert>| AlertFilter::default().alarm(&Ok(alerts)).unwrap().to_string();
    let many = (0..5).map(|number| alert(&[("alertname", &format!("A{number}\n\u{1b}[31m"))])).collect();
    let said = all_of(many);
    assert!(said.contains("A0  [31m, A1  [31m, A2  [31m and 2 more"), "{said}");
    let long = all_of(vec![alert(&[("alertname", &"x".repeat(5000))])]);
    assert!(long.len() < 300, "{long}");
    assert!(all_of(vec![alert(&[])]).contains("an alert without a name"));
}
