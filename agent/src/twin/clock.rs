//! The virtual clock.

use std::time::Duration;

use async_trait::async_trait;

use super::node::NodeTwin;
use super::world::World;
use crate::host::Clock;

#[async_trait]
impl Clock for NodeTwin {
    fn monotonic(&self) -> Duration {
        self.world(|world| world.now())
    }

    fn unix_ms(&self) -> u64 {
        self.world(|world: &mut World| world.unix_ms(&self.name))
    }

    async fn sleep(&self, duration: Duration) {
        let _: Option<()> = self.wait(duration, |_| None).await;
    }
}
