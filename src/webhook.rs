//! The admission webhook: Kubernetes asks it about every ConfigMap with our label before the ConfigMap is stored, so that an edit that
//! no process would take is refused to whoever made it, with all its defects.
//!
//! Runs in a process of its own and knows no grant and no secret. What it cannot judge it denies; whether a ConfigMap is stored while
//! the webhook is away is said by `failurePolicy` of the cluster.

use std::{sync::Arc, time::Duration};

use axum::{
    BoxError, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Limited};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::telemetry::metrics::webhook::{ReviewOutcome, WebhookMetrics};

mod judge;
mod review;
pub mod server;

use review::{Question, Verdict};

/// Bytes of a review. The API server takes 3 MiB of an object from its clients, and asks about an update with the old and the new.
pub const REVIEW_BYTES_MAX: usize = 6 * 1024 * 1024 + 65_536;
/// For one review, its body included. Below the 5 s in which we promise an answer.
const REVIEW_WITHIN: Duration = Duration::from_secs(4);
/// Reviews that are judged at once; more wait their turn within their time.
const JUDGED_MAX: usize = 2;

/// Bytes of all reviews that are held at a time; what would be more waits within its time. Anybody who reaches the port may send.
const HELD_BYTES_MAX: usize = 4 * REVIEW_BYTES_MAX;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the pages share.
#[derive(Clone)]
struct Shared {
    metrics: WebhookMetrics,
    registry: Arc<Registry>,
    /// Held by a judgment to its end, also by one that nobody waits for any more.
    places: Arc<Semaphore>,
    /// One for each byte.
    room: Arc<Semaphore>,
    has_responses: bool,
}

/// The pages. `has_responses` says whether the processes that serve the documents have the response phase.
pub fn router(metrics: WebhookMetrics, registry: Arc<Registry>, has_responses: bool) -> Router {
    let shared = Shared::new(metrics, registry, has_responses);
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ready\n" }))
        .route("/metrics", get(metrics_page))
        .route("/validate", post(validate))
        .with_state(shared)
}

async fn metrics_page(State(shared): State<Shared>) -> Response {
    let mut out = String::new();
    match text::encode(&mut out, &shared.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], out).into_response(),
        Err(std::fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn validate(State(shared): State<Shared>, body: Body) -> Response {
    let until = Instant::now().checked_add(REVIEW_WITHIN).unwrap_or_else(Instant::now);
    let malformed = |status: StatusCode, why: &str| {
        shared.metrics.review(ReviewOutcome::Malformed);
        (status, format!("{why}\n")).into_response()
    };
    // The room is held as long as anything of the review is.
    let (body, _room) = match tokio::time::timeout_at(until, shared.read(body)).await {
        Err(_) => return malformed(StatusCode::REQUEST_TIMEOUT, "the review did not arrive in time"),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return malformed(StatusCode::PAYLOAD_TOO_LARGE, "the review is too large");
        }
        Ok(Err(_)) => return malformed(StatusCode::BAD_REQUEST, "the review broke off"),
        Ok(Ok(read)) => read,
    };
    let question = match Question::read(&body) {
        Ok(question) => question,
        Err(why) => return malformed(StatusCode::BAD_REQUEST, &why),
    };
    let uid = question.uid.clone();
    let (outcome, verdict) = shared.decide(question, until).await;
    shared.metrics.review(outcome);
    ([(header::CONTENT_TYPE, "application/json")], verdict.answer(&uid)).into_response()
}

impl Shared {
    fn new(metrics: WebhookMetrics, registry: Arc<Registry>, has_responses: bool) -> Self {
        let (places, room) = (Arc::new(Semaphore::new(JUDGED_MAX)), Arc::new(Semaphore::new(HELD_BYTES_MAX)));
        Self { metrics, registry, places, room, has_responses }
    }

    /// Reads the body into memory, as far as there is room for it.
    async fn read(&self, body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), BoxError> {
        let mut body = Limited::new(body, REVIEW_BYTES_MAX);
        let (mut bytes, mut held) = (BytesMut::new(), None::<OwnedSemaphorePermit>);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            let room = Arc::clone(&self.room).acquire_many_owned(u32::try_from(data.len())?).await?;
            match &mut held {
                Some(held) => held.merge(room),
                None => held = Some(room),
            }
            bytes.extend_from_slice(&data);
        }
        Ok((bytes.freeze(), held))
    }

    async fn decide(&self, question: Question, until: Instant) -> (ReviewOutcome, Verdict) {
        let Some(documents) = question.documents else {
            return (ReviewOutcome::Ignored, Verdict::allow(question.warnings));
        };
        let begun = Instant::now();
        let (places, has_responses) = (Arc::clone(&self.places), self.has_responses);
        let judging = async move {
            // It is closed by nobody; and without a place there is no judgment.
            let place = places.acquire_owned().await.ok()?;
            let judging = tokio::task::spawn_blocking(move || {
                let verdict = judge::judge(&documents, has_responses);
                drop(place);
                verdict
            });
            judging.await.ok()
        };
        match tokio::time::timeout_at(until, judging).await {
            Ok(Some(verdict)) => {
                self.metrics.judged(begun.elapsed());
                let outcome = if verdict.is_allowed() { ReviewOutcome::Allowed } else { ReviewOutcome::Denied };
                (outcome, verdict)
            }
            Ok(None) => (ReviewOutcome::Undecided, Verdict::undecided("a defect of mcp-authz, please report it")),
            Err(_) => {
                (ReviewOutcome::Undecided, Verdict::undecided("it takes too long to judge; try again, or split it"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
