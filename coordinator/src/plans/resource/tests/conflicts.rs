//! Others who write to the same object, and API servers that refuse to: nothing is lost, and nothing written without end.

use super::api_server::{ApiServer, refusal};
use super::*;

pub(super) fn follower(server: &ApiServer) -> ResourceFollower {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(&folder.path().join("ca"), &SystemClock).unwrap();
    let store = Box::new(Arc::new(MemoryStore::default()));
    let keeper = Arc::new(Keeper::open(store, authority, Box::new(SystemClock)).unwrap());
    ResourceFollower::new(keeper, Box::new(SystemClock), server.kubeconfig.clone())
}

pub(super) fn autumn() -> Value {
    listed(&json!({"toVersion": "v1.20.2"}))
}

/// As the coordinator has it that rolls it out.
fn running() -> Value {
    status(&Acceptance::Begun, Some(&rollout(v1::RolloutPhase::Running, "")), &Before::default(), NOW_MS)
}

fn accepted(server: &ApiServer) -> Value {
    server.state().objects[0]["status"]["conditions"][0]["reason"].clone()
}

#[tokio::test]
async fn a_status_that_met_another_write_is_written_over_what_that_has_left() {
    let server = ApiServer::start(vec![autumn()]).await;
    server.state().faults.push_back(("PUT", refusal("409 Conflict", "", "the object has been modified")));
    let mut follower = follower(&server);
    follower.look().await;
    assert_eq!(accepted(&server), Value::Null);
    server.state().write("autumn", |object| object["metadata"]["labels"] = json!({"team": "platform"}));
    follower.look().await;
    assert_eq!((accepted(&server), server.state().writes()), (json!("NoControlPlane"), 2));
    assert_eq!(server.state().objects[0]["metadata"]["labels"], json!({"team": "platform"}));
    follower.look().await;
    assert_eq!(server.state().writes(), 2, "it is there");
}

#[tokio::test]
async fn an_object_that_is_deleted_meanwhile_is_nobodys_trouble() {
    let server = ApiServer::start(vec![autumn()]).await;
    server.state().faults.push_back(("PUT", refusal("404 Not Found", "", "it is not there")));
    let mut follower = follower(&server);
    let said = follower.look().await;
    assert!(said.iter().all(|said| !said.contains("cannot be written")), "{said:?}");
    server.state().objects.clear();
    assert!(follower.look().await.is_empty());
    assert_eq!(server.state().writes(), 1);
}

#[tokio::test]
async fn an_api_server_that_has_too_much_to_do_is_left_alone_for_as_long_as_it_says() {
    for (method, status) in [("PUT", "429 Too Many Requests"), ("GET", "503 Service Unavailable")] {
        let server = ApiServer::start(vec![autumn()]).await;
        server.state().faults.push_back((method, refusal(status, "retry-after: 30\r\n", "later")));
        let mut follower = follower(&server);
        follower.look().await;
        let asked = server.state().asked.len();
        follower.look().await;
        assert_eq!(server.state().asked.len(), asked, "{status}");
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(31)).await;
        tokio::time::resume();
        follower.look().await;
        assert_eq!(accepted(&server), "NoControlPlane", "{status}");
    }
    let server = ApiServer::start(vec![autumn()]).await;
    let words = ["retry-after: soon\r\n", "", "retry-after: 0\r\n"];
    for word in words {
        server.state().faults.push_back(("PUT", refusal("503 Service Unavailable", word, "later")));
    }
    let mut follower = follower(&server);
    for _ in 0..=words.len() {
        follower.look().await;
    }
    assert_eq!((accepted(&server), server.state().writes()), (json!("NoControlPlane"), 4));
}

#[tokio::test]
async fn what_a_list_shows_that_is_behind_is_not_written_over_and_over() {
    let server = ApiServer::start(vec![autumn()]).await;
    let mut follower = follower(&server);
    follower.look().await;
    server.state().behind = Some(vec![autumn()]);
    for _ in 0..5 {
        follower.look().await;
    }
    assert_eq!((accepted(&server), server.state().writes()), (json!("NoControlPlane"), 1));
}

#[tokio::test]
async fn a_coordinator_whose_store_knows_nothing_of_it_has_no_last_word_over_the_one_that_began_it() {
    let server = ApiServer::start(vec![autumn()]).await;
    server.state().write("autumn", |object| object["status"] = running());
    let mut stale = follower(&server);
    stale.look().await;
    assert_eq!(accepted(&server), "BegunElsewhere", "nobody may be there any more who knows of it");
    for _ in 0..5 {
        // The other one says again what is so.
        server.state().write("autumn", |object| object["status"] = running());
        let said = stale.look().await;
        assert!(said.iter().any(|said| said.contains("is changed by somebody else")), "{said:?}");
        tokio::time::pause();
        tokio::time::advance(WRITE_AGAIN * 2).await;
        tokio::time::resume();
    }
    assert_eq!((accepted(&server), server.state().writes()), (json!("Begun"), 1));
    // How it ended is nobody else's to say either.
    let mut raised = rollout(v1::RolloutPhase::Raised, "");
    raised.ended_at_ms = NOW_MS;
    let raised = status(&Acceptance::Begun, Some(&raised), &Before::default(), NOW_MS);
    server.state().write("autumn", |object| object["status"] = raised);
    assert!(stale.look().await.is_empty());
    assert_eq!(server.state().writes(), 1);
}

#[tokio::test]
async fn a_status_that_somebody_keeps_changing_is_put_right_once_a_minute_and_that_is_told() {
    let server = ApiServer::start(vec![autumn()]).await;
    let mut follower = follower(&server);
    follower.look().await;
    for minute in 1..4 {
        for _ in 0..5 {
            server.state().write("autumn", |object| object["status"]["conditions"] = json!([]));
            let said = follower.look().await;
            assert!(said.iter().any(|said| said.contains("is changed by somebody else")), "{said:?}");
        }
        assert_eq!(server.state().writes(), minute);
        tokio::time::pause();
        tokio::time::advance(WRITE_AGAIN).await;
        tokio::time::resume();
        follower.look().await;
        assert_eq!((accepted(&server), server.state().writes()), (json!("NoControlPlane"), minute + 1));
    }
    // What is new is said at once.
    server.state().write("autumn", |object| object["metadata"]["generation"] = json!(4));
    follower.look().await;
    assert_eq!((accepted(&server), server.state().writes()), (json!("NoControlPlane"), 5));
}
