//! Prototype.
use std::time::{Duration, Instant};
use liftlock_tests::fleet::Fleet;
use liftlock_tests::standin::cluster::Shape;
use liftlock_tests::fleet::journals;
use liftlock_proto::v1::Policy;
use liftlock_tests::fleet::freeze::*;
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let t = Instant::now();
    let mut fleet = Fleet::start(&Shape::new(1, 1)).await?;
    eprintln!("up {:?}", t.elapsed());
    let policy = Policy { drain_timeout_seconds: 60, accepted: vec!["api-outage".to_owned(), "drain-only-node".to_owned()], ..Policy::default() };
    let dir = fleet.cluster.machine("cp1")?.tree.agent_state();
    let pid = fleet.agent("cp1")?.id();
    let freezer = if std::env::args().nth(1).is_some() { Some(Freezer::arm(liftlock_tests::fleet::binaries::Binaries::find()?, pid, &Watch { state_dir: dir.clone(), after_token: 0, moment: Moment::Step { step: "drain".into(), event: "started".into() } }).await?) } else { None };
    eprintln!("armed {:?}", t.elapsed());
    let mut op = fleet.operator().await?;
    op.apply("v1.31.2", policy).await?;
    if let Some(freezer) = freezer {
        freezer.frozen(Duration::from_secs(60)).await?;
        eprintln!("frozen {:?}", t.elapsed());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let j = journals::journals(&dir)?;
        eprintln!("{:?}", j[0].records.last());
        fleet.agent("cp1")?.signal(nix::sys::signal::Signal::SIGCONT)?;
    }
    let r = op.watch_to_the_end(Duration::from_secs(60)).await?;
    eprintln!("{:?} {:?}", r.phase(), t.elapsed());
    for n in ["cp1","w1"] {
    for j in journals::journals(&fleet.cluster.machine(n)?.tree.agent_state())? {
        let mut last = j.header.granted_at_ms;
        for (at, e) in &j.records { eprintln!("{n} {} {} +{}", j.step_of(e).unwrap_or_default(), e.name(), at - last); last = *at; }
    }}
    Ok(())
}
