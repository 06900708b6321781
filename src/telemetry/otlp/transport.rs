//! Hands encoded telemetry to a collector, over gRPC or HTTP.
//!
//! Source: OpenTelemetry Protocol specification 1.9. gRPC is spoken by hand on `crate::outbound`: one message of five bytes more
//! than the body, and a status in the trailers or, if there is no answer, in the headers. A client library would bring a second
//! way of making connections, and no less code than there is here.
//!
//! What a collector answers is not trusted: its answer is cut at 64 KiB, its texts are not shown, its wish to be left alone is
//! heeded only within the time of the export.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use tokio::time::{Instant, sleep};

use super::{
    endpoint::Protocol,
    proto::Fields,
    settings::{Settings, Target},
};
use crate::{
    outbound::{self, Answer, Client, OutboundError},
    telemetry::{
        metrics::{Label as _, Metrics, TelemetryOutcome},
        seldom::Seldom,
    },
};

pub use crate::telemetry::metrics::Signal;

/// Longest answer, in bytes. A good one has a few.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Attempts of one export.
const ATTEMPTS_MAX: u32 = 8;
/// Flag and length before a message of gRPC.
const HEAD_BYTES: usize = 5;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("mcp-authz/", env!("CARGO_PKG_VERSION")));

/// Why telemetry did not get to the collector. Holds no text of the collector's and nothing of what was sent.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The signal is not sent anywhere.
    #[error("this signal is not sent")]
    Off,
    /// The collector took it but for some items.
    #[error("the collector refused {rejected} items; its log says why")]
    Partial {
        /// How many.
        rejected: u64,
    },
    /// The collector said no, and would again.
    #[error("the collector refused it with {0}; its log says why")]
    Refused(Said),
    /// No success in time, or after too many attempts.
    #[error("the collector could not be reached: {0}")]
    Unavailable(#[source] Unavailable),
}

/// What a collector said, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Said {
    /// A status of gRPC.
    #[error("gRPC status {0}")]
    Grpc(u32),
    /// A status of HTTP.
    #[error("HTTP status {0}")]
    Http(u16),
    /// An answer that is neither, which a proxy or another service may give.
    #[error("an answer that is not of OTLP")]
    Nonsense,
}

/// Why the last attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// It asked to try again.
    #[error("it answered {0}")]
    Asked(Said),
    /// There was no answer.
    #[error(transparent)]
    NoAnswer(#[from] OutboundError),
}

/// Why there is no transport.
#[derive(Debug, thiserror::Error)]
#[error("the connection for {} cannot be set up", signal.name())]
pub struct TransportError {
    /// Of which signal.
    pub signal: Signal,
    /// Why not.
    #[source]
    pub source: OutboundError,
}

/// Where telemetry is handed in for a collector. Connects when there is something to send.
#[derive(Debug)]
pub struct Transport {
    routes: [Option<Route>; Signal::ALL.len()],
    metrics: Metrics,
    warnings: [Seldom; Signal::ALL.len()],
    pauses: (Duration, Duration),
}

/// The way of one signal.
#[derive(Debug)]
struct Route {
    target: Target,
    client: Client,
}

impl Transport {
    /// Reads the files of certificates; connects to nobody yet.
    ///
    /// # Errors
    /// A file that cannot be used; the operator mends it.
    pub fn new(settings: &Settings, metrics: Metrics) -> Result<Self, TransportError> {
        // Signals of one collector share their connections.
        let mut clients: Vec<(Protocol, outbound::TlsFiles, Client)> = Vec::new();
        let mut routes = [const { None }; Signal::ALL.len()];
        for (signal, route) in Signal::ALL.iter().zip(&mut routes) {
            let Some(target) = settings.target(*signal) else { continue };
            let known = clients.iter().find(|(protocol, tls, _)| *protocol == target.protocol && *tls == target.tls);
            let client = match known {
                Some((_, _, client)) => client.clone(),
                None => {
                    let spoken = match target.protocol {
                        Protocol::Grpc => outbound::Protocol::Http2,
                        Protocol::HttpProtobuf => outbound::Protocol::Http1,
                    };
                    let client = Client::new(spoken, &target.tls);
                    let client = client.map_err(|source| TransportError { signal: *signal, source })?;
                    clients.push((target.protocol, target.tls.clone(), client.clone()));
                    client
                }
            };
            *route = Some(Route { target: target.clone(), client });
        }
        Ok(Self { routes, metrics, warnings: [const { Seldom::new() }; Signal::ALL.len()], pauses: PAUSES })
    }

    /// Whether that signal is sent anywhere.
    #[must_use]
    pub fn sends(&self, signal: Signal) -> bool {
        self.route(signal).is_some()
    }

    fn route(&self, signal: Signal) -> Option<&Route> {
        self.routes.get(signal.index()).and_then(Option::as_ref)
    }

    /// Sends an encoded `Export…ServiceRequest`; tries again within the time of the signal where the specification has it.
    /// The future may be dropped; whether the collector has it is then not known.
    ///
    /// # Errors
    /// See [`ExportError`].
    pub async fn export(&self, signal: Signal, body: Bytes) -> Result<(), ExportError> {
        let Some(Route { target, client }) = self.route(signal) else { return Err(ExportError::Off) };
        let deadline = Instant::now().checked_add(target.timeout);
        let (mut pause, longest) = self.pauses;
        let body = match target.protocol {
            Protocol::Grpc => framed(&body),
            Protocol::HttpProtobuf => body,
        };
        let mut attempts = 0_u32;
        loop {
            let left = deadline.map_or(target.timeout, |at| at.saturating_duration_since(Instant::now()));
            let (unavailable, wish) = match target.ask(client, &body, left).await {
                Outcome::Done => return Ok(()),
                Outcome::Failed(error) => return Err(error),
                Outcome::Again { unavailable, after } => (unavailable, after),
            };
            attempts = attempts.saturating_add(1);
            let wait = wish.unwrap_or_else(|| scattered(pause));
            let left = deadline.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            if attempts >= ATTEMPTS_MAX || wait >= left {
                return Err(ExportError::Unavailable(unavailable));
            }
            sleep(wait).await;
            pause = pause.saturating_mul(2).min(longest);
        }
    }

    /// As [`Transport::export`], for a body that holds `items`: counts what became of them, and warns now and then.
    pub async fn deliver(&self, signal: Signal, items: u64, body: Bytes) {
        let outcome = self.export(signal, body).await;
        let count = |outcome: TelemetryOutcome, n: u64| self.metrics.telemetry(signal, outcome, n);
        match &outcome {
            Ok(()) => count(TelemetryOutcome::Sent, items),
            Err(ExportError::Partial { rejected }) => {
                let rejected = (*rejected).min(items);
                count(TelemetryOutcome::Refused, rejected);
                count(TelemetryOutcome::Sent, items.saturating_sub(rejected));
            }
            Err(ExportError::Refused(_)) => count(TelemetryOutcome::Refused, items),
            Err(ExportError::Off | ExportError::Unavailable(_)) => count(TelemetryOutcome::Dropped, items),
        }
        let is_due = self.warnings.get(signal.index()).is_some_and(Seldom::is_due);
        if let Err(error) = &outcome
            && is_due
        {
            let error = error as &dyn std::error::Error;
            tracing::warn!(
                error,
                signal = signal.name(),
                items,
                "Telemetry did not get to the collector; decisions go on."
            );
        }
    }
}

/// What became of one attempt.
enum Outcome {
    Done,
    Failed(ExportError),
    /// To be tried again, after that time if the collector named one.
    Again {
        unavailable: Unavailable,
        after: Option<Duration>,
    },
}

impl Target {
    async fn ask(&self, client: &Client, body: &Bytes, within: Duration) -> Outcome {
        let mut request = Request::new(body.clone());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, AGENT);
        headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        let content = match self.protocol {
            Protocol::Grpc => {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
                "application/grpc"
            }
            Protocol::HttpProtobuf => "application/x-protobuf",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
        if self.protocol == Protocol::Grpc {
            *request.version_mut() = Version::HTTP_2;
        }
        let answer = match client.send(request, within, ANSWER_BYTES_MAX).await {
            Ok(answer) => answer,
            // It answers with what no collector says; asking again would bring the same.
            Err(OutboundError::Size { .. }) => return Outcome::Failed(ExportError::Refused(Said::Nonsense)),
            Err(error) => return Outcome::Again { unavailable: error.into(), after: None },
        };
        match self.protocol {
            Protocol::Grpc => of_grpc(&answer),
            Protocol::HttpProtobuf => of_http(&answer),
        }
    }
}

fn of_http(answer: &Answer) -> Outcome {
    let said = Said::Http(answer.status.as_u16());
    match answer.status {
        status if status.is_success() => accepted(&answer.body),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            // The other form, a date, is not read: the pause is then our own.
            let after =
                answer.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            Outcome::Again { unavailable: Unavailable::Asked(said), after: after.map(Duration::from_secs) }
        }
        _ => Outcome::Failed(ExportError::Refused(said)),
    }
}

fn of_grpc(answer: &Answer) -> Outcome {
    let status = |headers: &HeaderMap| headers.get("grpc-status").map(|value| value.to_str().ok()?.parse::<u32>().ok());
    let (status, headers) = match (status(&answer.trailers), status(&answer.headers)) {
        (Some(status), _) => (status, &answer.trailers),
        (None, Some(status)) => (status, &answer.headers),
        // A proxy that answers for a collector that is not there says so in HTTP.
        (None, None) if answer.status != StatusCode::OK => {
            return of_http(&Answer { body: Bytes::new(), ..answer.clone() });
        }
        (None, None) => return Outcome::Failed(ExportError::Refused(Said::Nonsense)),
    };
    let Some(status) = status else { return Outcome::Failed(ExportError::Refused(Said::Nonsense)) };
    /// CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
    const AGAIN: [u32; 6] = [1, 4, 10, 11, 14, 15];
    const RESOURCE_EXHAUSTED: u32 = 8;
    let after = retry_delay(headers);
    match status {
        0 => match answer.body.split_first_chunk::<HEAD_BYTES>() {
            Some(([0, ..], message)) => accepted(message),
            // A compressed answer, which nobody asked for, or none.
            Some(_) | None => Outcome::Failed(ExportError::Refused(Said::Nonsense)),
        },
        // Only with a time it is meant to pass.
        RESOURCE_EXHAUSTED if after.is_none() => Outcome::Failed(ExportError::Refused(Said::Grpc(status))),
        status if status == RESOURCE_EXHAUSTED || AGAIN.contains(&status) => {
            Outcome::Again { unavailable: Unavailable::Asked(Said::Grpc(status)), after }
        }
        status => Outcome::Failed(ExportError::Refused(Said::Grpc(status))),
    }
}

/// An `Export…ServiceResponse`: field 1 says how many items were not taken, in field 1. A message alone is a warning for people.
fn accepted(message: &[u8]) -> Outcome {
    let rejected = Fields::of(message).bytes(1).and_then(|partial| Fields::of(partial).number(1)).unwrap_or_default();
    if rejected == 0 { Outcome::Done } else { Outcome::Failed(ExportError::Partial { rejected }) }
}

/// `google.rpc.RetryInfo` in the details of a status.
fn retry_delay(headers: &HeaderMap) -> Option<Duration> {
    const TYPE: &[u8] = b"type.googleapis.com/google.rpc.RetryInfo";
    let text = headers.get("grpc-status-details-bin")?.as_bytes();
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let status = STANDARD_NO_PAD.decode(text.get(..text.len().checked_sub(padding)?)?).ok()?;
    let mut details = Fields::of(&status).filter_map(|(number, field)| match (number, field) {
        (3, super::proto::Field::Bytes(detail)) => Some(detail),
        (_, _) => None,
    });
    let info = details.find(|detail| Fields::of(detail).bytes(1) == Some(TYPE))?;
    let delay = Fields::of(Fields::of(info).bytes(2)?).bytes(1)?;
    let (seconds, nanos) =
        (Fields::of(delay).number(1).unwrap_or_default(), Fields::of(delay).number(2).unwrap_or_default());
    // Negative ones are huge here, and then not heeded.
    Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos))
}

fn framed(body: &Bytes) -> Bytes {
    let mut out = Vec::with_capacity(body.len().saturating_add(HEAD_BYTES));
    out.push(0);
    // Batches are of a megabyte or two at most.
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(body);
    out.into()
}

/// Half of the pause and a random part of the other half, so that a fleet does not come back all at once.
fn scattered(pause: Duration) -> Duration {
    let half = pause.checked_div(2).unwrap_or_default();
    let share = getrandom::u32().map_or(128, |random| random & 255);
    half.saturating_add(half.saturating_mul(share).checked_div(256).unwrap_or_default())
}

#[cfg(test)]
mod tests;
