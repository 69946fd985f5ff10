//! Has the Nodes that the coordinator names, and no others, carry the taint of what is not raised yet. One order after the
//! other: the newest is always the last to be carried out, whatever became of the connection meanwhile.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use liftlock_proto::name::NodeName;
use liftlock_proto::v1::NodesMarked;

use crate::host::{Host, HostError, HostResult, Marked};
use crate::session::duties::Workplace;
use crate::session::tasks::Task;

/// How long it may take: the coordinator waits for the answer before it goes on.
const LIMIT: Duration = Duration::from_secs(20);

/// What the coordinator said.
pub(crate) struct Order {
    /// What the answer must name.
    pub(crate) id: u64,
    /// The Nodes that are to carry the taint.
    pub(crate) nodes: BTreeSet<NodeName>,
    /// So much later.
    pub(crate) pause: Duration,
}

/// The order under way, and the one to follow.
#[derive(Default)]
pub(crate) struct Marking {
    under_way: Option<(u64, Task<HostResult<Marked>>)>,
    next: Option<Order>,
}

impl Marking {
    /// Begins, or has the order follow the one under way in the place of any other.
    pub(crate) fn ask(&mut self, place: &Workplace, order: Order) {
        if self.under_way.is_some() {
            self.next = Some(order);
        } else {
            let id = order.id;
            self.under_way =
                Some((id, Task::start(place.tasks.as_ref(), carry_out(place.host.clone(), order))));
        }
    }

    /// Waits for the end of an order, for ever if there is none.
    pub(crate) async fn done(&mut self, place: &Workplace) -> NodesMarked {
        let Some((id, under_way)) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let id = *id;
        let answer = match under_way.await {
            Ok(Ok(Marked { added, removed })) => NodesMarked { id, added, removed, failure: String::new() },
            Ok(Err(error)) => NodesMarked { id, failure: error.to_string(), ..NodesMarked::default() },
            Err(error) => NodesMarked {
                id,
                failure: format!("the agent failed while it changed taints: {error}"),
                ..NodesMarked::default()
            },
        };
        self.under_way = None;
        if let Some(next) = self.next.take() {
            self.ask(place, next);
        }
        answer
    }
}

async fn carry_out(host: Host, order: Order) -> HostResult<Marked> {
    host.clock.sleep(order.pause).await;
    let limit = host.clock.sleep(LIMIT);
    let marked = match select(pin!(host.kube.mark_not_raised(&order.nodes)), pin!(limit)).await {
        Either::Left((marked, _)) => marked?,
        Either::Right(((), _)) => {
            return Err(HostError::Timeout {
                what: "the taints of Nodes to be changed".to_owned(),
                limit: LIMIT,
                seen: "no end of it".to_owned(),
            });
        }
    };
    if marked != Marked::default() {
        tracing::info!(added = ?marked.added, removed = ?marked.removed, "Nodes that are not raised yet carry the taint that says so");
    }
    Ok(marked)
}
