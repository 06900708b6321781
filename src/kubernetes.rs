//! Tells Kubernetes about reloads, as events of the pod: `kubectl describe pod` then shows why an edit does not serve.
//!
//! Nothing waits for it. Events are kept in a short queue, the oldest of which gives way, so that the latest is told in the end;
//! they are sent one at a time, at a bounded rate, and given up after a few attempts.

use std::{
    collections::VecDeque,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use mcp_authz_core::document::Defect;
use secrecy::zeroize::Zeroizing;
use serde_json::json;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    clock::{Clock, rfc3339_micros},
    files,
    outbound::{Client, OutboundError, Protocol, TlsFiles},
    telemetry::{
        metrics::{KubernetesEvent, Metrics},
        seldom::Seldom,
    },
};

/// Events that wait; one more pushes out the oldest.
const QUEUE_MAX: usize = 16;
/// Events that may go out at once, and the time in which there is room for one more.
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_secs(30);
/// What the API server takes as a note.
const NOTE_BYTES_MAX: usize = 1_024;
/// Defects that may stand in a note; there is room for a handful.
const DEFECTS_MAX: usize = 100;
/// For one attempt.
const PATIENCE: Duration = Duration::from_secs(5);
const ATTEMPTS_MAX: u32 = 3;
/// Before the second attempt; twice as long before the next.
const PAUSE: Duration = Duration::from_secs(1);
const ANSWER_BYTES_MAX: usize = 65_536;
const TOKEN_BYTES_MAX: u64 = 65_536;
const CONTROLLER: &str = "mcp-authz.io/serve";
/// What the API server takes as the name of an instance.
const INSTANCE_CHARS_MAX: usize = 128;

/// Where the API server is, and who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `https://HOST:PORT`.
    pub url: String,
    /// Folder with `token` and `ca.crt`, read for each event: tokens are short-lived.
    pub account: PathBuf,
    /// Name of the pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid; without it `kubectl describe pod` does not find the event.
    pub uid: String,
}

impl Cluster {
    /// Reads what Kubernetes and the manifest of the pod say in the environment.
    ///
    /// # Errors
    /// The names of the variables that are missing.
    pub fn read(account: &Path, get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let names = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "POD_NAME", "POD_NAMESPACE", "POD_UID"];
        let values = names.map(|name| get(name).filter(|value| !value.is_empty()).ok_or(name));
        let missing: Vec<&str> = values.iter().filter_map(|value| value.as_ref().err().copied()).collect();
        let [Ok(host), Ok(port), Ok(pod), Ok(namespace), Ok(uid)] = values else {
            return Err(missing.join(", "));
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Ok(Self { url: format!("https://{host}:{port}"), account: account.to_owned(), pod, namespace, uid })
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// Files were refused, and the last good ones serve.
    Refused {
        /// What was found.
        defects: Vec<Defect>,
    },
    /// Other files serve.
    Reloaded {
        /// The revision until now.
        from: Arc<str>,
        /// The revision that serves.
        to: Arc<str>,
    },
}

impl Happened {
    fn kind(&self) -> (&'static str, &'static str) {
        match self {
            Self::Refused { .. } => ("Warning", "PolicyReloadRefused"),
            Self::Reloaded { .. } => ("Normal", "PolicyReloaded"),
        }
    }

    fn note(&self) -> String {
        let mut note = match self {
            Self::Refused { defects } => {
                let texts: Vec<String> = defects.iter().take(DEFECTS_MAX).map(ToString::to_string).collect();
                let count = defects.len();
                let noun = if count == 1 { "defect" } else { "defects" };
                format!("{count} {noun}; the last good files go on serving. {}", texts.join("; "))
            }
            Self::Reloaded { from, to } if from == to => format!("Secrets were replaced; revision {to}."),
            Self::Reloaded { from, to } => format!("Revision {to} serves in place of {from}."),
        };
        cut(&mut note, NOTE_BYTES_MAX);
        note
    }
}

/// Cuts a text to so many bytes, and says so by its end.
fn cut(text: &mut String, bytes_max: usize) {
    const MORE: &str = " …";
    if text.len() > bytes_max {
        let end = (0..=bytes_max.saturating_sub(MORE.len())).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str(MORE);
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<VecDeque<(u64, Happened)>>,
    more: Notify,
}

/// Takes events. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events {
    queue: Arc<Queue>,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
}

impl Events {
    /// A queue, and the task that empties it until it is dropped.
    pub fn new(cluster: Cluster, clock: Arc<dyn Clock>, metrics: Metrics) -> (Self, impl Future<Output = ()> + Send) {
        let queue = Arc::new(Queue::default());
        let sender = Sender { cluster, metrics: metrics.clone(), warnings: Seldom::new(), pause: PAUSE };
        (Self { queue: Arc::clone(&queue), metrics, clock }, sender.run(queue))
    }

    /// Notes what happened. Never waits.
    pub fn tell(&self, happened: Happened) {
        let mut waiting = self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= QUEUE_MAX && waiting.pop_front().is_some() {
            self.metrics.kubernetes_event(KubernetesEvent::Dropped);
        }
        waiting.push_back((self.clock.now_ms(), happened));
        drop(waiting);
        self.queue.more.notify_one();
    }
}

/// Why an event was not taken. Holds no token.
enum SendError {
    Outbound(OutboundError),
    Status(u16),
    Token(files::FileError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outbound(error) => write!(f, "{error}"),
            Self::Status(403) => f.write_str("403: the service account may not create events.events.k8s.io"),
            Self::Status(status) => write!(f, "the API server answers {status}"),
            Self::Token(error) => write!(f, "the token of the service account {error}"),
        }
    }
}

impl SendError {
    /// Whether another attempt can end otherwise.
    fn may_pass(&self) -> bool {
        match self {
            Self::Outbound(_) => true,
            Self::Status(status) => *status == 429 || *status >= 500,
            Self::Token(_) => false,
        }
    }
}

/// Empties the queue.
struct Sender {
    cluster: Cluster,
    metrics: Metrics,
    warnings: Seldom,
    pause: Duration,
}

impl Sender {
    async fn run(self, queue: Arc<Queue>) {
        // When there is room for a burst again.
        let mut full_at = Instant::now();
        loop {
            let next = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).front().is_some();
            if !next {
                queue.more.notified().await;
                continue;
            }
            let burst = REFILL.saturating_mul(BURST.saturating_sub(1));
            if let Some(room_at) = full_at.checked_sub(burst) {
                sleep_until(room_at).await;
            }
            // Taken only now: while it waited for room, a later one may have pushed it out.
            let taken = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((at_ms, happened)) = taken else { continue };
            let now = Instant::now();
            full_at = full_at.max(now).checked_add(REFILL).unwrap_or(now);
            self.deliver(at_ms, &happened).await;
        }
    }

    async fn deliver(&self, at_ms: u64, happened: &Happened) {
        let body = Bytes::from(event(&self.cluster, at_ms, happened));
        let mut pause = self.pause;
        for attempt in 1..=ATTEMPTS_MAX {
            let error = match self.send(body.clone()).await {
                Ok(()) => return self.metrics.kubernetes_event(KubernetesEvent::Sent),
                Err(error) => error,
            };
            if attempt < ATTEMPTS_MAX && error.may_pass() {
                sleep(pause).await;
                pause = pause.saturating_mul(2);
                continue;
            }
            self.metrics.kubernetes_event(KubernetesEvent::Failed);
            if self.warnings.is_due() {
                tracing::warn!(%error, "An event could not be told to Kubernetes.");
            }
            return;
        }
    }

    async fn send(&self, body: Bytes) -> Result<(), SendError> {
        let Cluster { url, account, namespace, .. } = &self.cluster;
        let token = Zeroizing::new(files::read(&account.join("token"), TOKEN_BYTES_MAX).map_err(SendError::Token)?);
        let token = String::from_utf8_lossy(&token);
        let bearer = Zeroizing::new(format!("Bearer {}", token.trim()));
        let tls = TlsFiles { ca: Some(account.join("ca.crt")), identity: None };
        // A new one each time: its authority may have been replaced, and events are rare.
        let client = Client::new(Protocol::Http1, &tls).map_err(SendError::Outbound)?;
        let mut value = header::HeaderValue::from_str(&bearer)
            .map_err(|_| SendError::Token(files::FileError::Io(std::io::Error::other("is no token"))))?;
        value.set_sensitive(true);
        let request = Request::post(format!("{url}/apis/events.k8s.io/v1/namespaces/{namespace}/events"))
            .header(header::AUTHORIZATION, value)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(body)
            .map_err(|error| SendError::Outbound(OutboundError::Connection(error.to_string())))?;
        let answer = client.send(request, PATIENCE, ANSWER_BYTES_MAX).await.map_err(SendError::Outbound)?;
        if answer.status.is_success() { Ok(()) } else { Err(SendError::Status(answer.status.as_u16())) }
    }
}

/// The event as `events.k8s.io/v1` wants it.
fn event(cluster: &Cluster, at_ms: u64, happened: &Happened) -> String {
    let Cluster { pod, namespace, uid, .. } = cluster;
    let (kind, reason) = happened.kind();
    let instance: String = pod.chars().take(INSTANCE_CHARS_MAX).collect();
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "generateName": format!("{pod}."), "namespace": namespace },
        "eventTime": rfc3339_micros(at_ms),
        "type": kind,
        "reason": reason,
        "action": "Reload",
        "note": happened.note(),
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
        "regarding": { "apiVersion": "v1", "kind": "Pod", "name": pod, "namespace": namespace, "uid": uid },
    });
    event.to_string()
}

#[cfg(test)]
mod tests;
