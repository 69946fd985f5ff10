//! The network between agents and coordinator: streams in order, each message late by chance, partitions one way or
//! both, connections that break, and what an old stream still says while the new one is open.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use liftlock::keeper::SessionId;
use liftlock_agent::host::Clock;
use liftlock_agent::session::identity::Enrolled;
use liftlock_agent::session::{Heard, Line, LineError};
use liftlock_proto::v1::agent_message::Message as Said;
use liftlock_proto::v1::coordinator_message::Message as Told;
use liftlock_proto::v1::{AgentMessage, CoordinatorMessage, HeldLease, Hello};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use super::dice::Dice;
use super::laws::Laws;
use super::sabotage::Sabotage;
use super::schedule::Way;

/// After so long without an answer a side gives a connection up.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long a node that nobody answers goes on dialling.
const DIAL: Duration = Duration::from_secs(10);

/// The network. Clones are the same one.
#[derive(Clone)]
pub(super) struct Wire {
    laws: Laws,
    sabotage: Option<Sabotage>,
    state: Arc<Mutex<State>>,
}

struct State {
    now: Duration,
    dice: Dice,
    /// The coordinator listens.
    listens: bool,
    partitions: Vec<Partition>,
    connections: BTreeMap<u64, Connection>,
    numbers: u64,
    under_way: BTreeMap<(Duration, u64), Delivery>,
}

struct Partition {
    node: String,
    way: Way,
    until: Duration,
}

/// One stream.
struct Connection {
    node: String,
    said: mpsc::Receiver<AgentMessage>,
    tell: mpsc::UnboundedSender<Result<CoordinatorMessage, Status>>,
    /// Renewals that the agent asked for, with the moment: for the laws.
    renewals: Arc<Mutex<VecDeque<(u64, Duration)>>>,
    session: Option<Session>,
    /// Nothing that is said later arrives earlier.
    last_up: Duration,
    last_down: Duration,
    /// The agent will say no more on it.
    hung_up: bool,
}

/// The coordinator's end of a stream.
struct Session {
    id: SessionId,
    inbox: mpsc::Receiver<Result<Told, Status>>,
}

/// What arrives.
pub(super) enum Delivery {
    /// At the coordinator; `None`: the agent hung up.
    Up(u64, Option<Box<Said>>),
    /// At the agent; an error ends the stream.
    Down(u64, Result<Told, Status>),
}

/// What arrived at the coordinator.
pub(super) struct Arrived {
    pub(super) connection: u64,
    pub(super) node: String,
    pub(super) session: Option<SessionId>,
    pub(super) said: Option<Said>,
}

/// One node's end of the network.
pub(super) struct NodeLine {
    pub(super) wire: Wire,
    pub(super) node: String,
    pub(super) clock: Arc<dyn Clock>,
}

enum Dialled {
    Refused,
    Silence,
    Open(mpsc::UnboundedReceiver<Result<CoordinatorMessage, Status>>, Arc<Mutex<VecDeque<(u64, Duration)>>>),
}

impl Wire {
    pub(super) fn new(seed: u64, laws: &Laws, sabotage: Option<Sabotage>) -> Self {
        let state = State {
            now: Duration::ZERO,
            dice: Dice::apart(seed, 2),
            listens: false,
            partitions: Vec::new(),
            connections: BTreeMap::new(),
            numbers: 0,
            under_way: BTreeMap::new(),
        };
        Self { laws: laws.clone(), sabotage, state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tick(&self, now: Duration) {
        self.lock().now = now;
    }

    fn dial(&self, node: &str, said: mpsc::Receiver<AgentMessage>) -> Dialled {
        let mut state = self.lock();
        if state.cut_off(node, Way::Up) || state.cut_off(node, Way::Down) {
            return Dialled::Silence;
        }
        if !state.listens {
            return Dialled::Refused;
        }
        let (tell, heard) = mpsc::unbounded_channel();
        let renewals = Arc::default();
        state.numbers += 1;
        let (number, now) = (state.numbers, state.now);
        let connection = Connection {
            node: node.to_owned(),
            said,
            tell,
            renewals: Arc::clone(&renewals),
            session: None,
            last_up: now,
            last_down: now,
            hung_up: false,
        };
        state.connections.insert(number, connection);
        Dialled::Open(heard, renewals)
    }

    /// The coordinator listens, or has ended with all its connections.
    pub(super) fn listen(&self, listens: bool) {
        let mut state = self.lock();
        state.listens = listens;
        if listens {
            return;
        }
        let numbers: Vec<u64> = state.connections.keys().copied().collect();
        for number in numbers {
            if let Some(connection) = state.connections.get_mut(&number) {
                connection.session = None;
            }
            state.down(number, Err(Status::unavailable("the connection was reset")));
        }
        // What was on its way to it is lost.
        state.under_way.retain(|_, delivery| matches!(delivery, Delivery::Down(..)));
    }

    /// Nothing arrives for a while.
    pub(super) fn part(&self, node: &str, way: Way, until: Duration) {
        let mut state = self.lock();
        state.partitions.push(Partition { node: node.to_owned(), way, until });
        // A side that hears nothing for long enough gives up; what it then says of that may not arrive either.
        let give_up = state.now + KEEP_ALIVE;
        if until > give_up {
            let numbers: Vec<u64> = state.of(node);
            for number in numbers {
                let late = state.dice.time(0..5_000);
                state.number_down(number, give_up + late, Err(Status::unavailable("keep-alive timed out")));
                let late = state.dice.time(0..60_000);
                state.number_up(number, give_up + late, None);
            }
        }
    }

    /// Whether something does not arrive now.
    pub(super) fn is_parted(&self) -> bool {
        let state = self.lock();
        state.partitions.iter().any(|partition| partition.until > state.now)
    }

    /// A node's connections break: both sides learn of it.
    pub(super) fn reset(&self, node: &str) {
        let mut state = self.lock();
        for number in state.of(node) {
            state.down(number, Err(Status::unavailable("the connection was reset")));
            state.up(number, None);
        }
    }

    /// A node's process has ended: its machine says so, unless that has ended too.
    pub(super) fn process_ended(&self, node: &str, silently: bool) {
        let mut state = self.lock();
        for number in state.of(node) {
            if let Some(connection) = state.connections.get_mut(&number) {
                connection.hung_up = true;
            }
            let at = state.now + if silently { KEEP_ALIVE } else { Duration::ZERO };
            let late = state.dice.time(1..50);
            state.number_up(number, at + late, None);
        }
    }

    /// Takes from both sides what they have said; whether there was anything.
    pub(super) fn pump(&self) -> bool {
        let mut state = self.lock();
        let mut moved = false;
        let numbers: Vec<u64> = state.connections.keys().copied().collect();
        for number in numbers {
            while let Some(mut heard) = state.connections.get_mut(&number).and_then(Connection::take_said) {
                moved = true;
                if let (Some(Sabotage::NoTokenCheck), Some(Said::Hello(hello))) = (self.sabotage, &mut heard)
                {
                    hello.highest_token = 0;
                }
                if self.sabotage == Some(Sabotage::EndsAreLost) && matches!(heard, Some(Said::LeaseEnd(_))) {
                    continue;
                }
                state.note_renewal(number, heard.as_ref());
                self.note_end(&state, number, heard.as_ref());
                state.up(number, heard);
            }
            while let Some(told) = state.connections.get_mut(&number).and_then(Connection::take_told) {
                moved = true;
                let unmarks = |told: &Told| matches!(told, Told::MarkNodes(order) if order.nodes.is_empty());
                if self.sabotage == Some(Sabotage::MarksStay) && told.as_ref().is_ok_and(unmarks) {
                    continue;
                }
                self.note_grant(&state, number, &told);
                state.down(number, told);
            }
        }
        moved
    }

    fn note_end(&self, state: &State, number: u64, heard: Option<&Said>) {
        let Some(
            Said::LeaseEnd(ended)
            | Said::Hello(Hello { held: Some(HeldLease { ended: Some(ended), .. }), .. }),
        ) = heard
        else {
            return;
        };
        if let Some(connection) = state.connections.get(&number) {
            self.laws.gives_up(&connection.node, ended.fencing_token);
        }
    }

    fn note_grant(&self, state: &State, number: u64, told: &Result<Told, Status>) {
        if let Ok(Told::Grant(grant)) = told
            && let Some(connection) = state.connections.get(&number)
        {
            self.laws.sends_lease(&connection.node, grant.fencing_token);
        }
    }

    /// When the next thing arrives.
    pub(super) fn next(&self) -> Option<Duration> {
        let state = self.lock();
        let arrives = state.under_way.first_key_value().map(|((at, _), _)| *at);
        let heals = state.partitions.iter().map(|partition| partition.until).min();
        arrives.into_iter().chain(heals).min()
    }

    /// The next thing that arrives at the coordinator by now. What arrives at agents on the way is handed to them.
    pub(super) fn arrive(&self) -> Option<Arrived> {
        let mut state = self.lock();
        let now = state.now;
        state.partitions.retain(|partition| partition.until > now);
        while let Some(entry) = state.under_way.first_entry() {
            if entry.key().0 > now {
                return None;
            }
            match entry.remove() {
                Delivery::Down(number, told) => state.hand_down(number, told),
                Delivery::Up(number, said) => {
                    let said = said.map(|said| *said);
                    let Some(connection) = state.connections.get(&number) else { continue };
                    let node = connection.node.clone();
                    if let Some(until) = state.cut_off_until(&node, Way::Up) {
                        let late = state.dice.time(1..2_000);
                        state.number_up(number, until + late, said);
                        continue;
                    }
                    let session = connection.session.as_ref().map(|session| session.id);
                    if said.is_none() {
                        state.connections.remove(&number);
                    }
                    return Some(Arrived { connection: number, node, session, said });
                }
            }
        }
        None
    }

    /// The coordinator has opened a session for a stream.
    pub(super) fn opened(&self, connection: u64, id: SessionId, inbox: mpsc::Receiver<Result<Told, Status>>) {
        if let Some(connection) = self.lock().connections.get_mut(&connection) {
            connection.session = Some(Session { id, inbox });
        }
    }

    /// The coordinator ends a stream.
    pub(super) fn refuse(&self, connection: u64, why: Status) {
        let mut state = self.lock();
        if let Some(connection) = state.connections.get_mut(&connection) {
            connection.session = None;
        }
        state.down(connection, Err(why));
    }

    /// Says something to a node in the coordinator's name.
    pub(super) fn forge(&self, node: &str, told: &Told) {
        let mut state = self.lock();
        for number in state.of(node) {
            state.down(number, Ok(told.clone()));
        }
    }
}

impl State {
    fn of(&self, node: &str) -> Vec<u64> {
        let of_node = self.connections.iter().filter(|(_, connection)| connection.node == node);
        of_node.map(|(number, _)| *number).collect()
    }

    fn cut_off_until(&self, node: &str, way: Way) -> Option<Duration> {
        let cuts = |partition: &&Partition| {
            partition.node == node && partition.until > self.now && [Way::Both, way].contains(&partition.way)
        };
        self.partitions.iter().filter(cuts).map(|partition| partition.until).max()
    }

    fn cut_off(&self, node: &str, way: Way) -> bool {
        self.cut_off_until(node, way).is_some()
    }

    /// Most messages are there at once, some take long.
    fn delay(&mut self) -> Duration {
        if self.dice.percent(5) { self.dice.time(100..3_000) } else { self.dice.time(1..20) }
    }

    fn up(&mut self, number: u64, said: Option<Said>) {
        let at = self.now + self.delay();
        self.number_up(number, at, said);
    }

    fn number_up(&mut self, number: u64, at: Duration, said: Option<Said>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.last_up = connection.last_up.max(at);
        let at = connection.last_up;
        self.numbers += 1;
        self.under_way.insert((at, self.numbers), Delivery::Up(number, said.map(Box::new)));
    }

    fn down(&mut self, number: u64, told: Result<Told, Status>) {
        let at = self.now + self.delay();
        self.number_down(number, at, told);
    }

    fn number_down(&mut self, number: u64, at: Duration, told: Result<Told, Status>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.last_down = connection.last_down.max(at);
        let at = connection.last_down;
        self.numbers += 1;
        self.under_way.insert((at, self.numbers), Delivery::Down(number, told));
    }

    fn hand_down(&mut self, number: u64, told: Result<Told, Status>) {
        let Some(connection) = self.connections.get(&number) else { return };
        let node = connection.node.clone();
        // The agent's own keep-alive needs no network.
        if told.is_ok()
            && let Some(until) = self.cut_off_until(&node, Way::Down)
        {
            let late = self.dice.time(1..2_000);
            return self.number_down(number, until + late, told);
        }
        let ends = told.is_err();
        let message = told.map(|message| CoordinatorMessage { message: Some(message) });
        let gone = connection.tell.send(message).is_err();
        if ends || gone {
            if connection.session.is_some() || !connection.hung_up {
                // The coordinator learns of it in its own time.
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.hung_up = true;
                }
                self.up(number, None);
            } else {
                self.connections.remove(&number);
            }
        }
    }

    fn note_renewal(&mut self, number: u64, heard: Option<&Said>) {
        if let Some(Said::RenewLease(renewal)) = heard
            && let Some(connection) = self.connections.get(&number)
        {
            let mut renewals = connection.renewals.lock().unwrap_or_else(PoisonError::into_inner);
            renewals.push_back((renewal.fencing_token, self.now));
        }
    }
}

impl Connection {
    /// What the agent said next; `Some(None)` once it has hung up.
    #[expect(clippy::option_option, reason = "nothing yet, the end, or a message")]
    fn take_said(&mut self) -> Option<Option<Said>> {
        match self.said.try_recv() {
            Ok(message) => Some(message.message),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => {
                (!std::mem::replace(&mut self.hung_up, true)).then_some(None)
            }
        }
    }

    /// What the coordinator said next.
    fn take_told(&mut self) -> Option<Result<Told, Status>> {
        let session = self.session.as_mut()?;
        match session.inbox.try_recv() {
            Ok(told) => Some(told),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => {
                self.session = None;
                Some(Err(Status::aborted("the session has ended")))
            }
        }
    }
}

#[async_trait]
impl Line for NodeLine {
    async fn open(&self, _: &Enrolled, said: mpsc::Receiver<AgentMessage>) -> Result<Heard, LineError> {
        match self.wire.dial(&self.node, said) {
            Dialled::Refused => {
                self.clock.sleep(Duration::from_millis(2)).await;
                Err(LineError::Unreachable("connection refused".to_owned()))
            }
            Dialled::Silence => {
                self.clock.sleep(DIAL).await;
                Err(LineError::Unreachable("nobody answers".to_owned()))
            }
            Dialled::Open(heard, renewals) => {
                let (laws, node) = (self.wire.laws.clone(), self.node.clone());
                let heard = UnboundedReceiverStream::new(heard);
                Ok(heard.inspect(move |heard| note_read(&laws, &node, &renewals, heard)).boxed())
            }
        }
    }

    fn jitter(&self) -> u32 {
        u32::try_from(self.wire.lock().dice.within(0..u64::from(u32::MAX))).unwrap_or_default()
    }
}

/// What the agent learns of its lease at the moment when it reads it.
fn note_read(
    laws: &Laws,
    node: &str,
    renewals: &Mutex<VecDeque<(u64, Duration)>>,
    heard: &Result<CoordinatorMessage, Status>,
) {
    let Ok(CoordinatorMessage { message: Some(told) }) = heard else { return };
    match told {
        Told::Grant(grant) => {
            laws.granted(node, grant.fencing_token, Duration::from_millis(grant.ttl_ms.into()));
        }
        Told::LeaseRenewed(renewed) => {
            let mut renewals = renewals.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some((token, sent)) = renewals.pop_front() {
                if token == renewed.fencing_token {
                    laws.renewed(node, token, sent, Duration::from_millis(renewed.ttl_ms.into()));
                    break;
                }
            }
        }
        _ => {}
    }
}
