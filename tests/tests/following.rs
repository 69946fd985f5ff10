//! Following a roll-out with the command line, when something happens to the coordinator or to who follows.

#![expect(clippy::disallowed_methods, reason = "a test reads what a program printed")]

use std::time::Duration;

use anyhow::{Result, ensure};
use camino::Utf8PathBuf;
use liftlock_proto::v1::RolloutPhase;
use liftlock_tests::fleet::Fleet;
use liftlock_tests::fleet::binaries::Binaries;
use liftlock_tests::fleet::process::Process;
use liftlock_tests::standin::cluster::Shape;
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_mins(2);

/// A small fleet and an `apply` that follows its roll-out into a log.
struct Followed {
    fleet: Fleet,
    apply: Process,
    log: Utf8PathBuf,
}

impl Followed {
    async fn until_the_first_lease() -> Result<Self> {
        let fleet = Fleet::start(&Shape::new(1, 1)).await?;
        let identity = fleet.operator_identity();
        let arguments =
            ["apply", "v1.31.2", "--yes", "--accept", "api-outage", "--accept", "drain-only-node"];
        let log = fleet.folder().join("apply.log");
        let binaries = Binaries::find()?;
        let arguments = [["--identity", identity.as_str()].as_slice(), &arguments].concat();
        let apply = Process::start(binaries, &binaries.liftlock, &arguments, &[], &log)?;
        let mut followed = Self { fleet, apply, log };
        followed.until_it_says("granted").await?;
        Ok(followed)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn until_it_says(&mut self, text: &str) -> Result<()> {
        let end = tokio::time::Instant::now() + LIMIT;
        while !self.said().contains(text) {
            let waiting = self.apply.runs() && tokio::time::Instant::now() < end;
            ensure!(waiting, "it never said {text:?}: {}\n{}", self.said(), self.fleet.last_words());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_coordinator_that_is_restarted_is_waited_for_and_followed_on() {
    let mut followed = Followed::until_the_first_lease().await.unwrap();
    followed.fleet.kill_coordinator().unwrap();
    followed.until_it_says("the coordinator went away").await.unwrap();
    followed.fleet.start_coordinator().await.unwrap();
    let code = followed.apply.ended(LIMIT).await.unwrap();
    let said = followed.said();
    assert_eq!(code, Some(0), "{said}\n{}", followed.fleet.last_words());
    assert!(
        said.contains("the coordinator is back") && said.contains("raised: every node runs v1.31.2"),
        "{said}"
    );
}

#[tokio::test]
async fn ctrl_c_ends_the_following_and_the_roll_out_goes_on() {
    let mut followed = Followed::until_the_first_lease().await.unwrap();
    followed.apply.signal(Signal::SIGINT).unwrap();
    let code = followed.apply.ended(LIMIT).await.unwrap();
    let said = followed.said();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("The roll-out goes on") && !said.contains("every node runs"), "{said}");
    let mut operator = followed.fleet.operator().await.unwrap();
    let rollout = operator.watch_to_the_end(LIMIT).await.unwrap();
    assert_eq!(rollout.phase(), RolloutPhase::Raised, "{}", followed.fleet.last_words());
}
