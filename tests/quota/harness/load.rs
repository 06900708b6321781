//! Clients in this process that call as fast as they are answered, and count what they were told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mcp_authz::quota::LedgerError;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    poll,
    replica::{Answer, Replica},
    store::Limit,
};

/// What clients were told so far.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The units are held: the call goes, and stays spent.
    held: AtomicU64,
    /// The call goes although nothing could be held.
    unmetered: AtomicU64,
    /// The limit is reached.
    limited: AtomicU64,
    /// A failover is being worked up.
    fenced: AtomicU64,
    /// The counts were lost.
    lost: AtomicU64,
    /// Denied, and nothing is held.
    refused: AtomicU64,
    /// Denied, and nobody knows whether something is held until it is rolled back.
    unknown: AtomicU64,
}

/// [`Told`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) held: u64,
    pub(crate) unmetered: u64,
    pub(crate) limited: u64,
    pub(crate) fenced: u64,
    pub(crate) lost: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
}

impl Tally {
    /// Calls that were denied because the store failed.
    pub(crate) const fn denied(&self) -> u64 {
        self.fenced + self.lost + self.refused + self.unknown
    }
}

/// Clients at work. They stop when it is dropped.
pub(crate) struct Load {
    told: Arc<Told>,
    stop: watch::Sender<bool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many clients for each replica; each of their calls takes all of these.
    pub(crate) fn start(replicas: &[Arc<Replica>], clients: usize, order: &[(Limit, u64)]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let told = Arc::new(Told::default());
        let spawn = |replica: &Arc<Replica>| {
            let (replica, told, stopped) = (Arc::clone(replica), Arc::clone(&told), stopped.clone());
            tokio::spawn(client(replica, told, stopped, order.to_vec()))
        };
        let clients = replicas.iter().flat_map(|replica| (0..clients).map(|_| spawn(replica)).collect::<Vec<_>>());
        let clients = clients.collect();
        Self { told, stop, clients }
    }

    /// What they were told so far.
    pub(crate) fn tally(&self) -> Tally {
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        let told = &self.told;
        Tally {
            held: read(&told.held),
            unmetered: read(&told.unmetered),
            limited: read(&told.limited),
            fenced: read(&told.fenced),
            lost: read(&told.lost),
            refused: read(&told.refused),
            unknown: read(&told.unknown),
        }
    }

    /// Waits until so much more was told of what `pick` picks.
    pub(crate) async fn more(&self, what: &str, count: u64, pick: fn(&Tally) -> u64) {
        self.beyond(what, pick(&self.tally()) + count, pick).await;
    }

    /// Waits until so much was told of what `pick` picks: for what may happen before anybody waits for it.
    pub(crate) async fn beyond(&self, what: &str, count: u64, pick: fn(&Tally) -> u64) {
        let enough = async || (pick(&self.tally()) >= count).then_some(());
        poll(enough).await.unwrap_or_else(|| panic!("waited in vain until {what}: {:?}", self.tally()));
    }

    /// Lets every client end its call.
    pub(crate) async fn stop(mut self) -> Tally {
        self.stop.send_replace(true);
        for client in std::mem::take(&mut self.clients) {
            client.await.expect("no client panics");
        }
        self.tally()
    }
}

async fn client(replica: Arc<Replica>, told: Arc<Told>, stop: watch::Receiver<bool>, order: Vec<(Limit, u64)>) {
    let order: Vec<(&Limit, u64)> = order.iter().map(|(limit, amount)| (limit, *amount)).collect();
    while !*stop.borrow() {
        let count = match replica.spend(&order).await {
            Answer::Held(..) | Answer::Spent => &told.held,
            Answer::Unmetered => &told.unmetered,
            Answer::Limited(..) => &told.limited,
            Answer::Failed(LedgerError::Fenced { .. }) => &told.fenced,
            Answer::Failed(LedgerError::Lost { .. }) => &told.lost,
            Answer::Failed(LedgerError::Unknown(_)) => &told.unknown,
            Answer::Failed(_) => &told.refused,
        };
        count.fetch_add(1, Ordering::SeqCst);
        // A client whose call did not go looks at the answer before it tries again.
        let pause = if std::ptr::eq(count, &told.held) { 1 } else { 5 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}
