//! Is there an order of all calls that explains every answer?

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mcp_authz::quota::{LedgerError, ReservationId};
use mcp_authz_core::ledger::Finished;

use crate::harness::{
    Dice,
    linear::{Act, Op, explain},
    proxy::{Flow, Proxy},
    replica::{Answer, Replica, settings},
    server::Server,
    soak,
    store::{Limit, contents},
};

const CLIENTS: usize = 6;
const CALLS: u32 = 150;
const MAX: u64 = 400;

/// What was asked and answered, for each of the two counters.
type History = Arc<Mutex<Vec<[Op; 2]>>>;

/// Counts up with every event, in the order in which they happen in this process.
#[derive(Default)]
struct Ticks(AtomicU64);

impl Ticks {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_its_place_in_one_order() {
    let mut dice = Dice::for_test("order");
    let server = Server::start(&[]).await;
    let (ticks, history): (Arc<Ticks>, History) = Default::default();
    let mut clients = Vec::new();
    let mut proxies = Vec::new();
    for client in 0..CLIENTS {
        let proxy = Proxy::start(server.address).await;
        // Each with ways of another length, so that questions and answers overtake those of others.
        proxy.up(Flow::Delay(Duration::from_millis(dice.between(0, 3))));
        proxy.down(Flow::Delay(Duration::from_millis(dice.between(0, 3))));
        let replica = Replica::open(settings(proxy.address)).await;
        let dice = Dice::new(dice.next());
        clients.push(tokio::spawn(run(replica, client, dice, Arc::clone(&ticks), Arc::clone(&history))));
        proxies.push(proxy);
    }
    for _ in 0..10 {
        // Some answers are lost; the engine asks again under the same id.
        tokio::time::sleep(Duration::from_millis(dice.between(20, 100))).await;
        proxies[usize::try_from(dice.next() % 6).expect("small")].cut_after(dice.between(1, 300));
    }
    for client in clients {
        client.await.expect("no client panics");
    }
    let (narrow, wide): (Vec<Op>, Vec<Op>) =
        history.lock().expect("no panic").drain(..).map(|[narrow, wide]| (narrow, wide)).unzip();
    let count = |pick: fn(&Op) -> bool| narrow.iter().filter(|op| pick(op)).count();
    let (adds, refusals) = (
        count(|op| matches!(op.act, Act::Add { used: Some(_), .. })),
        count(|op| matches!(op.act, Act::Refuse { .. })),
    );
    let (returns, open) = (count(|op| matches!(op.act, Act::Return { .. })), count(|op| op.answered.is_none()));
    eprintln!("{adds} held, {refusals} refused, {returns} returned, {open} open");
    assert!(adds > 150 && refusals > 20 && returns > 20, "too little happened");
    let contents = contents(&server).await;
    for (label, history) in [("narrow", narrow), ("wide", wide)] {
        let used = explain(&history, 0).unwrap_or_else(|best| panic!("no order explains the answers: {best}"));
        let counted = contents.used(label);
        assert!(counted == used || open > 0, "{counted} counted, {used} explained");
    }
}

async fn run(replica: Replica, client: usize, mut dice: Dice, ticks: Arc<Ticks>, history: History) {
    let (narrow, wide) = (Limit::lifetime("narrow", MAX), Limit::hour("wide", 1 << 30));
    // Each call takes as much of both; what the first refuses says where the other stands too.
    let note = |asked, answered, acts: [Act; 2]| {
        history.lock().expect("no panic").push(acts.map(|act| Op { asked, answered, act }));
    };
    for call in 0..CALLS * soak() {
        let amount = dice.between(1, 4);
        let id = ReservationId::from_envoy(&format!("{client}-{call}")).expect("randomness");
        let asked = ticks.next();
        // Nobody rolls back what stays unknown: it happened or it did not, once and for all.
        let answer = replica.reserve_with(id, &[(&narrow, amount), (&wide, amount)], Arc::new(|_, _| {})).await;
        let answered = Some(ticks.next());
        match answer {
            Answer::Held(reservation, reply) => {
                let used = |line: usize| reply.standings.get(line).map(|standing| standing.used);
                note(asked, answered, [0, 1].map(|line| Act::Add { amount, used: used(line) }));
                if !dice.percent(30) {
                    drop(reservation.into_ticket());
                    continue;
                }
                let asked = ticks.next();
                let returned = reservation.rollback().await;
                let answered = returned.is_ok().then(|| ticks.next());
                match returned {
                    Ok(Finished::Now { .. } | Finished::Before { same: true }) | Err(LedgerError::Unknown(_)) => {
                        note(asked, answered, [Act::Return { amount }; 2]);
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => {}
                }
            }
            Answer::Limited(reply) => {
                note(asked, answered, [0, 1].map(|line| Act::Refuse { used: reply.standings[line].used }));
            }
            Answer::Failed(LedgerError::Unknown(_)) => note(asked, None, [Act::Add { amount, used: None }; 2]),
            Answer::Failed(_) => {}
            Answer::Spent | Answer::Unmetered => panic!("a strict limit"),
        }
    }
}
