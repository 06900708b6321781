//! The connections to the master that is in use, and what all of them know about its data.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    connection::Connection,
    script::{Head, Names},
};

/// Which connection a question takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Settlement and people: must not queue behind reservations, nor they behind it.
    Control,
    /// Reservations.
    Reserve,
}

/// Connections that were checked to lead to one master, whose data is the data we know.
#[derive(Debug)]
pub(super) struct Link {
    /// Grows with every link.
    pub(super) number: u64,
    /// How often data had to be restored before it was made.
    pub(super) recoveries: u64,
    pub(super) names: Arc<Names>,
    pub(super) epoch: String,
    pub(super) node: String,
    pub(super) run_id: String,
    pub(super) control: Connection,
    /// For a question that got no answer over another one.
    pub(super) spare: Connection,
    /// One; with WAIT some, because a connection that waits for replicas answers nothing else.
    pub(super) reserves: Vec<Connection>,
    pub(super) turn: AtomicUsize,
}

impl Link {
    pub(super) fn head(&self) -> Head<'_> {
        Head { names: &self.names, epoch: &self.epoch, node: &self.node }
    }

    pub(super) fn connection(&self, lane: Lane) -> &Connection {
        match (lane, self.reserves.as_slice()) {
            (Lane::Control, _) | (Lane::Reserve, []) => &self.control,
            (Lane::Reserve, [one]) => one,
            (Lane::Reserve, many) => {
                // The least busy one, starting from another place each time.
                let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(many.len()).unwrap_or(0);
                let (after, before) = many.split_at(turn.min(many.len()));
                before.iter().chain(after).min_by_key(|one| one.load()).unwrap_or(&self.control)
            }
        }
    }

    /// Ready when one of the connections is gone.
    pub(super) async fn broken(&self) {
        let reserves = async {
            match self.reserves.as_slice() {
                [one] => one.ended().await,
                many => {
                    let mut all = tokio::task::JoinSet::new();
                    for one in many {
                        let one = one.clone();
                        all.spawn(async move { one.ended().await });
                    }
                    if all.join_next().await.is_none() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        };
        tokio::select! {
            () = self.control.ended() => {}
            () = self.spare.ended() => {}
            () = reserves => {}
        }
    }
}
