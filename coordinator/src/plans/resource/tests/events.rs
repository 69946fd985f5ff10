//! Events: one for each change, and nothing depends on them.

use super::api_server::{ApiServer, refusal};
use super::conflicts::{autumn, follower};
use super::*;

#[tokio::test]
async fn a_change_of_how_an_object_stands_is_one_event_and_what_stays_is_none() {
    let server = ApiServer::start(vec![autumn()]).await;
    let mut follower = follower(&server);
    for _ in 0..3 {
        follower.look().await;
    }
    let events = server.state().events.clone();
    let [event] = events.as_slice() else { panic!("{events:?}") };
    let about = json!({
        "apiVersion": "liftlock.dev/v1", "kind": "UpgradePlan", "name": "autumn",
        "uid": "00000000-0000-4000-8000-000000000001",
    });
    assert_eq!(
        (&event["involvedObject"], &event["reason"], &event["type"]),
        (&about, &json!("NoControlPlane"), &json!("Warning"))
    );
    assert_eq!(event["message"], server.state().objects[0]["status"]["conditions"][0]["message"]);
    assert_eq!(event["metadata"]["namespace"], "default");
    // It stands as before, though it says something else.
    server.state().write("autumn", |object| object["metadata"]["generation"] = json!(4));
    follower.look().await;
    let state = server.state();
    assert_eq!((state.writes(), state.events.len()), (2, 1));
}

#[tokio::test]
async fn an_event_that_may_not_be_made_is_left_out_and_nothing_else_is() {
    let server = ApiServer::start(vec![autumn()]).await;
    server.state().faults.push_back(("POST", refusal("403 Forbidden", "", "events is forbidden")));
    let mut follower = follower(&server);
    let said = follower.look().await;
    assert!(said.iter().all(|said| !said.contains("event")), "{said:?}");
    follower.look().await;
    let state = server.state();
    assert_eq!((state.writes(), state.events.len()), (1, 0));
}

#[test]
fn an_event_says_what_asks_for_somebody_and_fits_into_what_is_allowed() {
    let known = |phase, before: &Before| {
        let status = Status::of(&Acceptance::Begun, Some(&rollout(phase, "w1: drain")), 3, before, NOW_MS);
        let told = status.news(before).map(|news| (news.reason.to_owned(), news.is_warning));
        (told, Before::read(Some(&serde_json::to_value(status).unwrap())))
    };
    let (told, before) = known(v1::RolloutPhase::Running, &Before::default());
    assert_eq!(told, Some(("Running".to_owned(), false)));
    let (told, before) = known(v1::RolloutPhase::Running, &before);
    assert_eq!(told, None, "one node more is no event");
    let (told, before) = known(v1::RolloutPhase::Halted, &before);
    assert_eq!(told, Some(("Halted".to_owned(), true)));
    assert_eq!(known(v1::RolloutPhase::Raised, &before).0, Some(("Raised".to_owned(), false)));

    let mut long = listed(&json!({"toVersion": "v1.20.2"}));
    long["metadata"]["name"] = json!(format!("{}-{}", "a".repeat(199), "b".repeat(50)));
    let refused = Acceptance::Refused { rule: "downgrade".to_owned(), why: "é".repeat(5000) };
    let status = Status::of(&refused, None, 3, &Before::default(), NOW_MS);
    let made = event::event(&Object::read(long).unwrap(), &status.news(&Before::default()).unwrap(), NOW_MS);
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with(&format!("{}.", "a".repeat(199))) && name.len() < 253, "{name}");
    assert_eq!(made["message"].as_str().unwrap().chars().count(), 1000);
    assert_eq!(made["lastTimestamp"], "2026-01-01T12:00:00Z");
}
