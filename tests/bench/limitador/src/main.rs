//! The same work by this project's Redis ledger and by limitador, interleaved, against one Redis on this machine.
//!
//! The work: a call that touches so many calendar counters, all far from their limit, from 32 tasks at once. Ours reserves
//! all or none and can give back; limitador checks, then adds, and says itself that its limits are not exact. Figures of one
//! run: trust the ratios.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use limitador::{
    AsyncRateLimiter,
    limit::{Context, Expression, Limit, Namespace},
    storage::redis::AsyncRedisStorage,
};
use mcp_authz::{
    clock::SystemClock,
    quota::{
        Ledger as _, ReservationId, Reserve,
        redis::{RedisLedger, Settings, Topology},
        reserve,
    },
};
use mcp_authz_core::{
    decision::{Denial, Reason},
    quota::{
        Actual, Calendar, Charge, CountOn, CounterKey, Measure, Mode, OnExpiry, OnUnavailable, RefundOn, Terms, Unit,
    },
};
use test_redis::RedisServer;

const TASKS: usize = 32;
const CALLS_OF_A_TASK: usize = 60;
const ROUNDS: usize = 12;
const MAX: u64 = 1 << 40;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> Result<(), Failure> {
    let server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let url = format!("redis://127.0.0.1:{}", server.port());
    let ours = RedisLedger::connect(
        Settings::new(Topology::standalone(&url)?),
        Arc::new(SystemClock::new()),
        Arc::new(|_| {}),
    );
    let ours = Arc::new(ours.await?);
    if !ours.connected(tokio::time::Instant::now() + Duration::from_secs(10)).await {
        return Err("our ledger does not connect".into());
    }
    println!("counters  engine     calls/s   Redis CPU us/call");
    for counters in [1, 4, 8] {
        let theirs = limitador(&url, counters).await?;
        let charges: Arc<[Charge]> = (0..counters).map(charge).collect();
        let (mut our_sum, mut their_sum) = (Spent::default(), Spent::default());
        for round in 0..=ROUNDS {
            let ours = of(&server, our_round(&ours, &charges)).await?;
            let theirs = of(&server, their_round(&theirs)).await?;
            // The first round warms up.
            if round > 0 {
                our_sum.add(ours);
                their_sum.add(theirs);
            }
        }
        our_sum.print(counters, "mcp-authz");
        their_sum.print(counters, "limitador");
    }
    Ok(())
}

#[derive(Clone, Copy, Default)]
struct Spent {
    wall: Duration,
    redis_cpu_us: f64,
}

impl Spent {
    fn add(&mut self, other: Self) {
        self.wall += other.wall;
        self.redis_cpu_us += other.redis_cpu_us;
    }

    fn print(self, counters: usize, engine: &str) {
        let calls = (ROUNDS * TASKS * CALLS_OF_A_TASK) as f64;
        let (rate, cpu) = (calls / self.wall.as_secs_f64(), self.redis_cpu_us / calls);
        println!("{counters:8}  {engine:9} {rate:9.0}   {cpu:17.1}");
    }
}

async fn of(server: &RedisServer, work: impl Future<Output = Result<(), Failure>>) -> Result<Spent, Failure> {
    let (before, start) = (cpu_us(server)?, Instant::now());
    work.await?;
    Ok(Spent { wall: start.elapsed(), redis_cpu_us: cpu_us(server)? - before })
}

/// What Redis has spent so far, its own and the kernel's for it.
fn cpu_us(server: &RedisServer) -> Result<f64, Failure> {
    let info = server.cli(&["INFO", "cpu"]);
    let field = |name: &str| -> Result<f64, Failure> {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.ok_or("INFO cpu lacks a field")?.trim().parse::<f64>()?)
    };
    Ok((field("used_cpu_user")? + field("used_cpu_sys")?) * 1e6)
}

async fn our_round(ledger: &Arc<RedisLedger>, charges: &Arc<[Charge]>) -> Result<(), Failure> {
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (ledger, charges) = (Arc::clone(ledger), Arc::clone(charges));
            tokio::spawn(async move {
                for _ in 0..CALLS_OF_A_TASK {
                    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
                    let id = ReservationId::random()?;
                    let hold = Duration::from_secs(120);
                    match reserve(&ledger, id, &charges, hold, deadline, Arc::new(|_, _| {})).await? {
                        Reserve::Reserved(held) => drop(held.into_ticket()),
                        _ => return Err(Failure::from("not reserved")),
                    }
                }
                let _keys = ledger.keys();
                Ok::<(), Failure>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn their_round(limiter: &Arc<AsyncRateLimiter>) -> Result<(), Failure> {
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let limiter = Arc::clone(limiter);
            tokio::spawn(async move {
                let namespace = Namespace::from("bench");
                for _ in 0..CALLS_OF_A_TASK {
                    let context = Context::from(HashMap::from([("user".to_owned(), "alice".to_owned())]));
                    let checked = limiter.check_rate_limited_and_update(&namespace, &context, 1).await;
                    if checked.map_err(|error| error.to_string())?.limited {
                        return Err(Failure::from("limited"));
                    }
                }
                Ok::<(), Failure>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn limitador(url: &str, counters: usize) -> Result<Arc<AsyncRateLimiter>, Failure> {
    let limiter = AsyncRateLimiter::new_with_storage(Box::new(AsyncRedisStorage::new(url).await?));
    for index in 0..counters {
        let user = Expression::parse("user").map_err(|error| error.to_string())?;
        limiter.add_limit(Limit::new("bench", MAX, 3_600 + index as u64, [], [user]));
    }
    Ok(Arc::new(limiter))
}

fn charge(index: usize) -> Charge {
    let name = format!("c{index}");
    let terms = Terms {
        policy: "bench".into(),
        name: name.as_str().into(),
        label: format!("{name}:hour-utc").into(),
        scope: "grant".into(),
        window: "hour".into(),
        scale: 0,
        denial: Denial::built_in(Reason::QuotaExhausted),
        disclose: false,
        count_on: CountOn::Forwarded,
        refund_on: RefundOn::default(),
        actual: Actual::default(),
        on_unavailable: OnUnavailable::Deny,
        on_expiry: OnExpiry::Keep,
    };
    Charge {
        counter: CounterKey::of(&["bench", "", &name, "hour", "grant", "alice"]),
        measure: Measure::Calendar(Calendar::utc(Unit::Hour)),
        mode: Mode::Consume,
        amount: 1,
        max: MAX,
        terms: Arc::new(terms),
    }
}
