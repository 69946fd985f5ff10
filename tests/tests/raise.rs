//! A cluster is raised, by the real programs.

use std::time::Duration;

use liftlock_proto::v1::{Policy, RolloutPhase};
use liftlock_tests::fleet::Fleet;
use liftlock_tests::standin::cluster::Shape;

const LIMIT: Duration = Duration::from_mins(2);

#[tokio::test]
async fn three_control_planes_and_two_workers_are_raised() {
    let start = std::time::Instant::now();
    let fleet = Fleet::start(&Shape::new(3, 2)).await.unwrap();
    eprintln!("started {:?}", start.elapsed());
    let mut operator = fleet.operator().await.unwrap();
    if let Err(error) = operator.apply("v1.31.2", Policy { drain_timeout_seconds: 60, ..Policy::default() }).await {
        eprintln!("applied {:?}", start.elapsed());
        panic!("{error:#}\n{}", fleet.last_words());
    }
    let rollout = operator.watch_to_the_end(LIMIT).await.unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.last_words()));
    assert_eq!(rollout.phase(), RolloutPhase::Raised, "{}\n{}", rollout.reason, fleet.last_words());
}
