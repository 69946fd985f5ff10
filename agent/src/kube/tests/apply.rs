//! Objects of any kind.

use super::*;
use crate::host::objects::{Applied, ObjectName, Objects, Resource};

const SERVED: &str = "{\"kind\": \"APIResourceList\", \"groupVersion\": \"apps/v1\", \"resources\": [\
                      {\"name\": \"deployments/scale\", \"namespaced\": true, \"kind\": \"Deployment\"},\
                      {\"name\": \"deployments\", \"namespaced\": true, \"kind\": \"Deployment\"}]}";

fn dns() -> ObjectName {
    ObjectName {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        namespace: "kube-system".to_owned(),
        name: "dns".to_owned(),
    }
}

fn deployments() -> Resource {
    Resource { group: "/apis/apps/v1".to_owned(), plural: "deployments".to_owned(), namespaced: true }
}

async fn admin(answers: impl IntoIterator<Item = Answer>) -> Server {
    let server = Server::start(answers).await;
    server.put("admin.conf", &server.kubeconfig("admin"));
    server
}

#[tokio::test]
async fn a_kind_is_looked_up_where_its_version_is_served_and_subresources_are_none() {
    let gone = "{\"kind\": \"Status\", \"status\": \"Failure\", \"message\": \"no\", \"reason\": \"NotFound\", \"code\": 404}";
    let server = admin([
        Answer::Plain(200, SERVED.to_owned()),
        Answer::Plain(200, SERVED.to_owned()),
        Answer::Plain(404, gone.to_owned()),
        Answer::Plain(404, "404 page not found".to_owned()),
    ])
    .await;
    let kube = server.kube();
    assert_eq!(kube.resource("apps/v1", "Deployment").await.unwrap(), Some(deployments()));
    assert_eq!(kube.resource("apps/v1", "Scale").await.unwrap(), None);
    assert_eq!(kube.resource("example.com/v1", "Widget").await.unwrap(), None);
    assert_eq!(kube.resource("v1", "Widget").await.unwrap(), None);
    let lines: Vec<String> = server.asked().into_iter().map(|(line, _)| line).collect();
    assert!(lines[0].contains("GET /apis/apps/v1 ") && lines[3].contains("GET /api/v1 "), "{lines:?}");
}

#[tokio::test]
async fn an_apply_names_its_manager_and_a_dry_run_says_that_it_is_one() {
    let conflict = "{\"kind\": \"Status\", \"status\": \"Failure\", \"message\": \"Apply failed with 1 conflict\", \
                    \"reason\": \"Conflict\", \"code\": 409}";
    let server =
        admin([Answer::Plain(200, "{\"a\": 1}".to_owned()), Answer::Plain(409, conflict.to_owned())]).await;
    let kube = server.kube();
    let object = json!({"kind": "Deployment"});
    let dry = kube.try_apply(&deployments(), &dns(), &object, false).await.unwrap();
    assert_eq!(dry, Applied::Is(json!({"a": 1})));
    let applied = kube.apply(&permit(), &deployments(), &dns(), &object, true).await.unwrap();
    assert!(matches!(applied, Applied::Refused { code: 409, .. }), "{applied:?}");
    let asked = server.asked();
    let path = "PATCH /apis/apps/v1/namespaces/kube-system/deployments/dns?fieldManager=liftlock";
    assert!(asked[0].0.contains(&format!("{path}&force=false&dryRun=All ")), "{asked:?}");
    assert!(asked[1].0.contains(&format!("{path}&force=true ")), "{asked:?}");
}

#[tokio::test]
async fn only_the_object_that_was_meant_is_deleted() {
    let server = admin([Answer::Plain(200, "{}".to_owned())]).await;
    server.kube().delete(&permit(), &deployments(), &dns(), "u1").await.unwrap();
    let asked = server.asked();
    let body: Value = serde_json::from_str(&asked[0].1).unwrap();
    assert_eq!(body["preconditions"]["uid"], "u1");
    assert!(asked[0].0.contains("DELETE /apis/apps/v1/namespaces/kube-system/deployments/dns "), "{asked:?}");
}
