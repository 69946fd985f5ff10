//! temporary
#![allow(clippy::all, clippy::pedantic, clippy::disallowed_methods, clippy::print_stderr, clippy::unwrap_used, clippy::panic, missing_docs)]
use std::time::Duration;
use liftlock_proto::v1::Policy;
use liftlock_tests::fleet::Fleet;
use liftlock_tests::standin::cluster::Shape;
#[tokio::test]
async fn timing() {
    let fleet = Fleet::start(&Shape::new(3, 2)).await.unwrap();
    let mut operator = fleet.operator().await.unwrap();
    operator.apply("v1.31.2", Policy { drain_timeout_seconds: 60, ..Policy::default() }).await.unwrap();
    let rollout = operator.watch_to_the_end(Duration::from_mins(2)).await.unwrap();
    for node in &rollout.nodes {
        let t = node.timings.clone().unwrap();
        eprintln!("{} lease {} child {} wait {} snap {} overhead {}", node.name, t.lease_ms, t.child_ms, t.wait_ms, t.snapshot_ms, t.lease_ms as i64 - t.child_ms as i64 - t.wait_ms as i64 - t.snapshot_ms as i64);
    }
    eprintln!("{}", std::process::Command::new("sh").arg("-c").arg("ps -eo pid,rss,args | grep liftlock-agent; for p in $(pgrep -f 'liftlock-agent run'); do grep -E 'RssAnon|RssFile|VmRSS' /proc/$p/status | tr '\\n' ' '; echo; done").output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap());
    eprintln!("{}", fleet.last_words());
}
