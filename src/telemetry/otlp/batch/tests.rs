use prometheus_client::registry::Registry;

use super::*;
use crate::telemetry::otlp::{
    endpoint::Protocol,
    resource,
    tests::{Collector, Reply, Seen, settings, spans},
};

impl Batcher {
    /// Takes everything that waits, as one request.
    pub(crate) fn drain(&self) -> Bytes {
        let items: Vec<u8> = std::iter::from_fn(|| self.next()).flat_map(|items| items.bytes).collect();
        request(&[], &items)
    }
}

fn shown(registry: &Registry) -> Vec<String> {
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, registry).unwrap();
    let of_items =
        page.lines().filter_map(|line| line.strip_prefix("mcp_authz_telemetry_items_total{signal=\"traces\","));
    of_items.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
}

fn batcher(bounds: Batch) -> (Arc<Batcher>, Registry) {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, 0);
    (Arc::new(Batcher::new(Signal::Traces, bounds, metrics)), registry)
}

fn span(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    proto::message(&mut out, 2, |out| proto::string(out, 5, name));
    out
}

const LONG: Duration = Duration::from_secs(3_600);

#[test]
fn the_queue_holds_so_many_and_not_one_more() {
    let (queue, registry) = batcher(Batch { queue_max: 3, items_max: 2, delay: LONG });
    ["a", "b", "c"].iter().for_each(|name| queue.offer(&span(name)));
    assert_eq!(shown(&registry), [""; 0]);
    queue.offer(&span("d"));
    assert_eq!(shown(&registry), ["outcome=\"dropped\"} 1"]);
    let counts: Vec<usize> = std::iter::from_fn(|| queue.next()).map(|items| items.count).collect();
    assert_eq!(counts, [2, 1]);
    ["a", "b", "c"].iter().for_each(|name| queue.offer(&span(name)));
    assert_eq!(shown(&registry), ["outcome=\"dropped\"} 1"], "there is room again");
}

#[test]
fn bytes_are_bounded_too() {
    let (queue, registry) = batcher(Batch { queue_max: 20, items_max: 20, delay: LONG });
    queue.offer(&vec![0; ITEM_BYTES_MAX + 1]);
    assert_eq!(shown(&registry), ["outcome=\"dropped\"} 1"], "one item");
    queue.offer(&vec![0; ITEM_BYTES_MAX]);
    queue.offer(&vec![0; 20 * BYTES_PER_ITEM - ITEM_BYTES_MAX]);
    assert_eq!(shown(&registry), ["outcome=\"dropped\"} 1"], "as much as may wait");
    queue.offer(&[0]);
    assert_eq!(shown(&registry), ["outcome=\"dropped\"} 2"], "all items");
    let (queue, _registry) = batcher(Batch { queue_max: 1_000, items_max: 1_000, delay: LONG });
    (0..17).for_each(|_| queue.offer(&vec![0; ITEM_BYTES_MAX]));
    let counts: Vec<usize> = std::iter::from_fn(|| queue.next()).map(|items| items.count).collect();
    assert_eq!(counts, [16, 1], "a batch of a megabyte is full");
}

struct Running {
    collector: Collector,
    queue: Arc<Batcher>,
    registry: Registry,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

async fn running(bounds: Batch, within: Duration, replies: Vec<Reply>) -> Running {
    let collector = Collector::new(Protocol::Grpc, replies).await;
    let settings = settings([("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url), ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")]);
    let (queue, registry) = batcher(bounds);
    let transport = Arc::new(Transport::new(&settings, queue.metrics.clone()).unwrap());
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(Arc::clone(&queue).run(transport, resource(&settings), stopped, within));
    Running { collector, queue, registry, stop, task }
}

fn names(seen: &[Seen]) -> Vec<String> {
    seen.iter().flat_map(|seen| spans(&seen.body[5..])).map(|span| span.name).collect()
}

#[tokio::test]
async fn a_full_batch_goes_at_once_and_the_rest_after_the_delay() {
    let bounds = Batch { queue_max: 9, items_max: 2, delay: LONG };
    let full = running(bounds, LONG, vec![Reply::grpc("0")]).await;
    full.queue.offer(&span("a"));
    full.queue.offer(&span("b"));
    assert_eq!(names(&full.collector.wait(1).await), ["a", "b"]);
    let timed = running(Batch { delay: Duration::from_millis(2), ..bounds }, LONG, vec![Reply::grpc("0")]).await;
    timed.queue.offer(&span("c"));
    assert_eq!(names(&timed.collector.wait(1).await), ["c"]);
    full.task.abort();
    timed.task.abort();
}

#[tokio::test]
async fn the_end_sends_what_is_left() {
    let run = running(Batch { queue_max: 9, items_max: 2, delay: LONG }, LONG, vec![Reply::grpc("0")]).await;
    run.queue.offer(&span("a"));
    run.stop.send(true).unwrap();
    run.task.await.unwrap();
    assert_eq!(names(&run.collector.seen()), ["a"]);
    assert_eq!(shown(&run.registry), ["outcome=\"sent\"} 1"]);
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_collector_that_is_silent() {
    let silent = vec![Reply { hangs: true, ..Reply::default() }];
    let run = running(Batch { queue_max: 9, items_max: 1, delay: LONG }, Duration::from_millis(30), silent).await;
    ["a", "b", "c"].iter().for_each(|name| run.queue.offer(&span(name)));
    run.collector.wait(1).await;
    drop(run.stop);
    run.task.await.unwrap();
    assert_eq!(shown(&run.registry), ["outcome=\"dropped\"} 3"], "also the one that was under way");
}

#[tokio::test]
async fn a_silent_collector_fills_the_queue_and_nobody_waits() {
    let silent = vec![Reply { hangs: true, ..Reply::default() }];
    let run = running(Batch { queue_max: 4, items_max: 1, delay: LONG }, LONG, silent).await;
    run.queue.offer(&span("under way"));
    run.collector.wait(1).await;
    (0..1_000).for_each(|_| run.queue.offer(&span("x")));
    assert_eq!(shown(&run.registry), ["outcome=\"dropped\"} 996"]);
    run.task.abort();
}
