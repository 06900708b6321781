//! What a reservation in Redis costs beside a bare script that touches as many keys: both over the same kind of connection,
//! driven by a thread of its own, one call of each in turn. And the time that Redis itself spends on it.

use std::{io::Write, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use mcp_authz::{
    clock::SystemClock,
    quota::{
        Booking, Ledger, ReservationId,
        redis::{RedisLedger, Settings, Topology},
    },
};
use mcp_authz_core::{
    ledger::{Attempt, Code, CounterId, Line, Span},
    quota::Mode,
};
use redis::aio::MultiplexedConnection;
use test_redis::{RedisServer, Value};
use tokio::time::Instant;

/// Calls of each kind in one round.
const CALLS: u32 = 4_000;
const ROUNDS: u32 = 5;
/// Calls at the same time in the part about throughput.
const AT_ONCE: u32 = 64;
const HOUR_MS: u64 = 3_600_000;
/// Reads and writes each key, as a counter has to be.
const BARE: &str = "for i = 1, #KEYS do redis.call('SET', KEYS[i], redis.call('GET', KEYS[i]) or 0) end return {1}";

pub(super) fn run(out: &mut impl Write) -> anyhow::Result<()> {
    let server = RedisServer::start(&["--appendonly", "yes"]);
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", server.port()))?;
    let bare = other.spawn(async move { client.get_multiplexed_async_connection().await });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let bare = Bare { connection: bare.await??, sha: redis::Script::new(BARE).get_hash().to_owned() };
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(BARE).exec_async(&mut bare.connection.clone()).await?;
        let url = format!("redis://127.0.0.1:{}", server.port());
        let settings = Settings { timeout: Duration::from_secs(2), ..Settings::new(Topology::standalone(&url)?) };
        let ledger = RedisLedger::connect(settings, Arc::new(SystemClock::new()), Arc::new(|_| {})).await?;
        ensure!(ledger.is_connected(), "the engine is connected");
        writeln!(out, "\n## Reservations in Redis, µs\n")?;
        writeln!(out, "| counters | bare p50 | p99 | reserve p50 | p99 | p50 ratio | p99 ratio | Redis CPU bare | reserve | calls/s |")?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
        for counters in [1, 4, 8] {
            row(out, &server, &bare, &ledger, counters).await.context("a row")?;
        }
        anyhow::Ok(())
    })
}

struct Bare {
    connection: MultiplexedConnection,
    sha: String,
}

impl Bare {
    async fn call(&self, counters: usize) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.sha).arg(counters);
        for counter in 0..counters {
            command.arg(format!("{{bare}}:{counter}"));
        }
        command.exec_async(&mut self.connection.clone()).await?;
        Ok(begun.elapsed())
    }
}

async fn reserve(ledger: &RedisLedger, id: &str, lines: &[Line]) -> anyhow::Result<Duration> {
    let id = ReservationId::from_envoy(id).map_err(|error| anyhow::anyhow!("{error}"))?;
    let booking = Booking { id, attempt: Attempt(1), digest: 1, lines: lines.into() };
    let begun = Instant::now();
    let reply = ledger.reserve(&booking, Duration::from_secs(120), Instant::now() + Duration::from_secs(5)).await?;
    let elapsed = begun.elapsed();
    ensure!(reply.code == Code::Held, "{:?}", reply.code);
    Ok(elapsed)
}

fn lines(ledger: &RedisLedger, counters: usize) -> Vec<Line> {
    let start_ms = ledger.now_ms() / HOUR_MS * HOUR_MS;
    let line = |counter| Line {
        counter: CounterId(counter),
        label: Arc::from("bench:hour-utc"),
        span: Span::Calendar { start_ms, end_ms: start_ms + HOUR_MS, next_end_ms: start_ms + 2 * HOUR_MS },
        mode: Mode::Consume,
        amount: 1,
        max: 1 << 50,
        strict: true,
        release: false,
    };
    (0..counters as u128).map(line).collect()
}

async fn row(
    out: &mut impl Write,
    server: &RedisServer,
    bare: &Bare,
    ledger: &RedisLedger,
    counters: usize,
) -> anyhow::Result<()> {
    let mut rounds: Vec<[f64; 4]> = Vec::new();
    let (mut cpu_bare, mut cpu_reserve) = (0.0, 0.0);
    for round in 0..ROUNDS {
        let lines = lines(ledger, counters);
        let (mut of_bare, mut of_reserve) = (Vec::new(), Vec::new());
        for call in 0..CALLS {
            of_bare.push(bare.call(counters).await?);
            of_reserve.push(reserve(ledger, &format!("{counters}-{round}-{call}"), &lines).await?);
        }
        rounds.push([at(&mut of_bare, 50), at(&mut of_bare, 99), at(&mut of_reserve, 50), at(&mut of_reserve, 99)]);
        cpu_bare += redis_cpu(server, CALLS / 4, || bare.call(counters)).await?;
        let ids = std::cell::Cell::new(0);
        cpu_reserve += redis_cpu(server, CALLS / 4, || {
            ids.set(ids.get() + 1);
            let id = format!("c{counters}-{round}-{}", ids.get());
            let lines = &lines;
            async move { reserve(ledger, &id, lines).await }
        })
        .await?;
    }
    let median = |column: fn(&[f64; 4]) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(column).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let per_second = throughput(ledger, counters).await?;
    writeln!(
        out,
        "| {counters} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} | {:.1} | {:.1} | {per_second:.0} |",
        median(|r| r[0]),
        median(|r| r[1]),
        median(|r| r[2]),
        median(|r| r[3]),
        median(|r| r[2] / r[0]),
        median(|r| r[3] / r[1]),
        cpu_bare / f64::from(ROUNDS),
        cpu_reserve / f64::from(ROUNDS),
    )?;
    Ok(())
}

/// Microseconds that so many percent took at most.
fn at(all: &mut [Duration], percent: usize) -> f64 {
    all.sort();
    all.get(all.len() * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

/// Microseconds that Redis says it spent on one script.
async fn redis_cpu<F>(server: &RedisServer, calls: u32, mut call: impl FnMut() -> F) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<Duration>>,
{
    let mut connection = server.connect();
    connection.call(&["CONFIG", "RESETSTAT"])?;
    for _ in 0..calls {
        call().await?;
    }
    let Value::Bulk(stats) = connection.call(&["INFO", "commandstats"])? else { anyhow::bail!("INFO says nothing") };
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:")).context("no EVALSHA")?;
    let each = line.split(',').find_map(|field| field.strip_prefix("usec_per_call=")).context("no time")?;
    Ok(each.parse()?)
}

async fn throughput(ledger: &RedisLedger, counters: usize) -> anyhow::Result<f64> {
    let lines = lines(ledger, counters);
    let begun = Instant::now();
    let tasks = (0..AT_ONCE).map(|task| {
        let lines = &lines;
        async move {
            for call in 0..CALLS / AT_ONCE {
                reserve(ledger, &format!("t{counters}-{task}-{call}"), lines).await?;
            }
            anyhow::Ok(())
        }
    });
    let all: Vec<_> = tasks.collect();
    futures(all).await?;
    Ok(f64::from(CALLS / AT_ONCE * AT_ONCE) / begun.elapsed().as_secs_f64())
}

/// All of them at once, on this thread.
async fn futures<F: Future<Output = anyhow::Result<()>>>(all: Vec<F>) -> anyhow::Result<()> {
    let mut all: Vec<_> = all.into_iter().map(|one| (Box::pin(one), false)).collect();
    std::future::poll_fn(|context| {
        let mut left = false;
        for (one, done) in all.iter_mut().filter(|(_, done)| !done) {
            match one.as_mut().poll(context) {
                std::task::Poll::Ready(answer) => {
                    *done = true;
                    answer?;
                }
                std::task::Poll::Pending => left = true,
            }
        }
        if left { std::task::Poll::Pending } else { std::task::Poll::Ready(Ok(())) }
    })
    .await
}
