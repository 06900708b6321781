use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
};

use axum::{Router, extract::Path as UrlPath, http::HeaderMap, http::StatusCode, routing::post};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    clock::ManualClock,
    envoy::tls::{
        Tls,
        tests::{Authority, files},
    },
};

const AT_MS: u64 = 1_795_239_232_900;

/// An API server that answers the statuses in turn, then 201, and tells what it was sent.
struct Api {
    url: String,
    account: TempDir,
    seen: mpsc::UnboundedReceiver<(String, Value)>,
}

impl Api {
    async fn start(answers: &'static [u16]) -> Self {
        let (authority, account) = (Authority::new(), tempfile::tempdir().unwrap());
        let settings = files(&account, &authority, Some(&authority), &[]);
        fs::write(account.path().join("token"), "first-token\n").unwrap();
        let open = crate::envoy::tls::TlsSettings { client_ca: None, ..settings };
        let tls = Tls::load(&open).unwrap();
        let (tell, seen) = mpsc::unbounded_channel();
        let count = Arc::new(AtomicU64::new(0));
        let page = move |UrlPath(namespace): UrlPath<String>, headers: HeaderMap, body: String| async move {
            let told = format!("{namespace} {}", headers["authorization"].to_str().unwrap());
            tell.send((told, serde_json::from_str(&body).unwrap())).unwrap();
            let n = usize::try_from(count.fetch_add(1, Ordering::Relaxed)).unwrap();
            StatusCode::from_u16(answers.get(n).copied().unwrap_or(201)).unwrap()
        };
        let pages = Router::new().route("/apis/events.k8s.io/v1/namespaces/{namespace}/events", post(page));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, pages) = (TlsAcceptor::from(tls.http1()), pages.clone());
                tokio::spawn(async move {
                    let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
                    let service = TowerToHyperService::new(pages);
                    hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await
                });
            }
        });
        Self { url, account, seen }
    }

    fn cluster(&self) -> Cluster {
        Cluster {
            url: self.url.clone(),
            account: self.account.path().to_owned(),
            pod: "authz-0".to_owned(),
            namespace: "mesh".to_owned(),
            uid: "1234".to_owned(),
        }
    }
}

fn events(cluster: Cluster) -> (Events, impl Future<Output = ()> + Send, Registry) {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, 0);
    let (events, sending) = Events::new(cluster, Arc::new(ManualClock::new(AT_MS)), metrics);
    (events, sending, registry)
}

fn count(registry: &Registry, outcome: &str) -> u64 {
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, registry).unwrap();
    let series = format!("mcp_authz_kubernetes_events_total{{outcome=\"{outcome}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

async fn counted(registry: &Registry, outcome: &str, n: u64) {
    while count(registry, outcome) < n {
        sleep(Duration::from_millis(10)).await;
    }
}

fn refused(n: usize) -> Happened {
    let defect = |n| Defect::of_file("policies/p.yaml", format!("defect number {n}"));
    Happened::Refused { defects: (0..n).map(defect).collect() }
}

#[tokio::test]
async fn a_refused_reload_is_an_event_of_the_pod() {
    let mut api = Api::start(&[]).await;
    let (events, sending, registry) = events(api.cluster());
    let sending = tokio::spawn(sending);
    events.tell(refused(2));
    let (told, event) = api.seen.recv().await.unwrap();
    assert_eq!(told, "mesh Bearer first-token");
    let note = "2 defects; the last good files go on serving. \
                policies/p.yaml: defect number 0; policies/p.yaml: defect number 1";
    let expected = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "generateName": "authz-0.", "namespace": "mesh" },
        "eventTime": "2026-11-21T05:33:52.900000Z",
        "type": "Warning",
        "reason": "PolicyReloadRefused",
        "action": "Reload",
        "note": note,
        "reportingController": "mcp-authz.io/serve",
        "reportingInstance": "authz-0",
        "regarding": { "apiVersion": "v1", "kind": "Pod", "name": "authz-0", "namespace": "mesh", "uid": "1234" },
    });
    assert_eq!(event, expected);
    // The token is the one that is there when it is needed.
    fs::write(api.account.path().join("token"), "second-token").unwrap();
    events.tell(Happened::Reloaded { from: "sha256:1".into(), to: "sha256:2".into() });
    let (told, event) = api.seen.recv().await.unwrap();
    assert_eq!(told, "mesh Bearer second-token");
    assert_eq!((event["type"].as_str(), event["reason"].as_str()), (Some("Normal"), Some("PolicyReloaded")));
    assert_eq!(event["note"], "Revision sha256:2 serves in place of sha256:1.");
    counted(&registry, "sent", 2).await;
    sending.abort();
}

#[tokio::test]
async fn an_overloaded_server_is_asked_again_and_one_that_says_no_is_not() {
    let mut api = Api::start(&[429, 500, 201, 403, 503, 503, 503]).await;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, 0);
    let sender = Sender { cluster: api.cluster(), metrics, warnings: Seldom::new(), pause: Duration::ZERO };
    let mut requests = Vec::new();
    for _ in 0..3 {
        sender.deliver(AT_MS, &refused(1)).await;
        let mut n = 0;
        while api.seen.try_recv().is_ok() {
            n += 1;
        }
        requests.push(n);
    }
    assert_eq!(requests, [3, 1, 3]);
    assert_eq!((count(&registry, "sent"), count(&registry, "failed")), (1, 2));
}

#[tokio::test]
async fn whoever_cannot_prove_to_be_the_api_server_gets_no_token() {
    let (mut api, other) = (Api::start(&[]).await, Authority::new());
    let stranger = tempfile::tempdir().unwrap();
    files(&stranger, &other, Some(&other), &[]);
    fs::write(stranger.path().join("token"), "token").unwrap();
    let cluster = Cluster { account: stranger.path().to_owned(), ..api.cluster() };
    let sender = |cluster| {
        let metrics = Metrics::new(&mut Registry::default(), 0);
        Sender { cluster, metrics, warnings: Seldom::new(), pause: Duration::ZERO }
    };
    assert!(sender(cluster).send(Bytes::new()).await.err().unwrap().to_string().contains("certificate"));
    // The right authority, under another name than the one that is asked for.
    let renamed = Cluster { url: api.cluster().url.replace("localhost", "127.0.0.1"), ..api.cluster() };
    assert!(sender(renamed).send(Bytes::new()).await.err().unwrap().to_string().contains("certificate"));
    assert!(api.seen.try_recv().is_err());
    let cluster = Cluster { account: "/nowhere".into(), ..api.cluster() };
    let error = sender(cluster).send(Bytes::new()).await.err().unwrap();
    assert_eq!(error.to_string(), "the token of the service account cannot be read: no such file or directory");
    assert!(!error.may_pass());
}

#[tokio::test(start_paused = true)]
async fn a_storm_is_told_at_a_bounded_rate_and_its_end_in_any_case() {
    // A server that refuses at once, so that only the rate is measured.
    let nobody = Cluster { account: "/nowhere".into(), ..Api::start(&[]).await.cluster() };
    let (events, sending, registry) = events(nobody);
    for n in 0..QUEUE_MAX + 1 {
        events.tell(refused(n));
    }
    assert_eq!(count(&registry, "dropped"), 1, "one more than there is room for");
    let first = events.queue.waiting.lock().unwrap().front().cloned();
    assert_eq!(first, Some((AT_MS, refused(1))), "the oldest gave way");
    let sending = tokio::spawn(sending);
    counted(&registry, "failed", u64::from(BURST)).await;
    let begun = Instant::now();
    counted(&registry, "failed", u64::from(BURST) + 1).await;
    let waited = begun.elapsed();
    assert!(waited > REFILL - Duration::from_secs(1) && waited <= REFILL, "{waited:?}");
    sending.abort();
}

#[test]
fn a_note_fits_what_the_server_takes() {
    let exact = Happened::Refused { defects: vec![Defect::of_file("f", "x".repeat(NOTE_BYTES_MAX))] };
    for note in [refused(1_000).note(), exact.note()] {
        assert!(note.len() <= NOTE_BYTES_MAX && note.ends_with(" …"), "{note}");
    }
    for (bytes, is_cut) in [(NOTE_BYTES_MAX, false), (NOTE_BYTES_MAX + 1, true)] {
        let mut text = "é".repeat(NOTE_BYTES_MAX).chars().take(bytes / 2).collect::<String>();
        text.push_str(&"x".repeat(bytes % 2));
        assert_eq!(text.len(), bytes);
        cut(&mut text, NOTE_BYTES_MAX);
        assert_eq!((text.len() <= NOTE_BYTES_MAX, text.ends_with(" …")), (true, is_cut));
    }
}

#[test]
fn the_environment_says_where_the_cluster_is() {
    let all = |name: &str| {
        Some(match name {
            "KUBERNETES_SERVICE_HOST" => "fd00::1".to_owned(),
            "KUBERNETES_SERVICE_PORT" => "443".to_owned(),
            "POD_NAME" => "authz-0".to_owned(),
            "POD_NAMESPACE" => "mesh".to_owned(),
            _ => "1234".to_owned(),
        })
    };
    let cluster = Cluster::read(Path::new("/account"), all).unwrap();
    assert_eq!((&*cluster.url, &*cluster.uid), ("https://[fd00::1]:443", "1234"));
    let some = |name: &str| all(name).filter(|_| name.starts_with("KUBERNETES"));
    assert_eq!(Cluster::read(Path::new("/account"), some).unwrap_err(), "POD_NAME, POD_NAMESPACE, POD_UID");
}
