//! How much memory an agent takes that has nothing to do: after a raise, and after a roll-back.
//!
//! `cargo bench -p liftlock-tests --bench footprint`: a stand-in cluster and the agent as it ships. The kernel counts pages of
//! the program's text that were touched once as well as its heap.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it measures, and prints what it measured"
)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use liftlock_proto::v1::{Policy, RolloutPhase};
use liftlock_tests::fleet::Fleet;
use liftlock_tests::standin::cluster::Shape;

const TO: &str = "v1.31.2";
const LIMIT: Duration = Duration::from_mins(3);
/// What an idle agent may take, in bytes.
const AT_MOST: u64 = 12_000_000;
/// Until whatever followed the roll-out is over: facts are read again, threads that have nothing to do end after ten seconds.
const UNTIL_IDLE: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> Result<()> {
    let started = Fleet::start(&Shape::new(1, 2)).await?;
    print("connected", started).await?;

    let raised = Fleet::start(&Shape::new(1, 2)).await?;
    apply(&raised, RolloutPhase::Raised).await?;
    print("after a raise", raised).await?;

    let rolled_back = Fleet::start(&Shape::new(1, 2)).await?;
    rolled_back.cluster.add_unmanaged_pod("debug", "w2");
    apply(&rolled_back, RolloutPhase::Halted).await?;
    rolled_back.cli(&["rollback", "--cluster"]).await?.success()?;
    follow(&rolled_back, RolloutPhase::RolledBack).await?;
    print("after a roll-back", rolled_back).await
}

async fn apply(fleet: &Fleet, end: RolloutPhase) -> Result<()> {
    let accepted = vec!["api-outage".to_owned()];
    let policy = Policy { drain_timeout_seconds: 60, accepted, ..Policy::default() };
    fleet.operator().await?.apply(TO, policy).await?;
    follow(fleet, end).await
}

async fn follow(fleet: &Fleet, end: RolloutPhase) -> Result<()> {
    let rollout = fleet.operator().await?.watch_to_the_end(LIMIT).await?;
    ensure!(rollout.phase() == end, "{:?}: {}\n{}", rollout.phase(), rollout.reason, fleet.last_words());
    Ok(())
}

async fn print(when: &str, mut fleet: Fleet) -> Result<()> {
    tokio::time::sleep(UNTIL_IDLE).await;
    for node in fleet.nodes() {
        let pid = fleet.agent(&node)?.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")).context(name.to_owned())?;
            Ok(kibibytes.parse::<u64>()? << 10)
        };
        println!(
            "{when:<18} {node:<4} {:>10} bytes ({} of its own, {} of files), at most {AT_MOST}",
            bytes("VmRSS")?,
            bytes("RssAnon")?,
            bytes("RssFile")?,
        );
    }
    Ok(())
}
