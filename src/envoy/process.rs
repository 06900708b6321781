//! From Envoy's messages about a response to what becomes of it and back: the ext_proc side of the adapter.
//!
//! Owns the translation only: what is done to a response is `response`'s and the core's. Envoy heeds exactly one answer for
//! each message, of the same kind; an error in its place makes it fail closed.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use mcp_authz_core::response::Head;
use prost::Message as _;
use tokio::time::Instant;
use tonic::Status;

use super::{
    logged::{NAMESPACE, OUTCOME_NAMESPACE, TICKET_KEY, outcome_metadata, seen_metadata},
    server::{Process, Room},
    wire::{
        HttpStatus, Kind, Metadata, Struct,
        log::{LogStruct, LogText},
        process::{
            Answer, BodyMode, BodyMutation, CommonAnswer, CommonResponse, HeaderMutation, HttpBody, HttpHeaders,
            ImmediateResponse, Mutation, Part, ProcessingMode, ProcessingRequest, ProcessingResponse, ProtocolConfig,
            RawHeaderOption, SendMode, TrailersAnswer,
        },
    },
};
use crate::{
    response::{Chunk, Opened, Replacement, Session},
    telemetry::metrics::{ErrorKind, Metrics, WithheldReason},
};

/// Field that Envoy's matcher looks at: `1` where the response has to be looked at.
pub(super) const NEEDED_KEY: &str = "response";

/// Headers that are no longer true of a body that may change.
const REMOVED: [&str; 6] = ["content-digest", "content-length", "content-md5", "digest", "etag", "repr-digest"];

/// Warned of once in a process.
#[derive(Debug, Default)]
pub(super) struct Warned {
    heads: AtomicBool,
    mode: AtomicBool,
    observing: AtomicBool,
    undecided: AtomicBool,
}

impl Warned {
    fn of_heads(&self) {
        if !self.heads.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "Responses are cut off: in Envoy's ext_proc filter set `processing_mode.response_header_mode: SEND`, without which nobody can tell what a body is."
            );
        }
    }

    fn of_undecided(&self) {
        if !self.undecided.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "A response came without the decision about its request, and passed as it was. Unless ext_authz is off for its route, set `metadata_options.forwarding_namespaces: {{untyped: [envoy.filters.http.ext_authz]}}` in Envoy's ext_proc filter: without it nothing is hidden or masked."
            );
        }
    }

    fn of_mode(&self) {
        if !self.mode.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "Responses are withheld: in Envoy's ext_proc filter set `processing_mode.response_body_mode: STREAMED`, without which a body could pass unseen."
            );
        }
    }

    fn of_observing(&self) {
        if !self.observing.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "Responses are not protected: Envoy's ext_proc filter has `observability_mode: true`, in which it lets everything pass. Take it out."
            );
        }
    }
}

/// One response.
pub(super) struct Processor {
    session: Session,
    room: Room,
    config: Option<ProtocolConfig>,
    is_first: bool,
    has_told: bool,
    metrics: Metrics,
    warned: Arc<Warned>,
}

impl Processor {
    pub(super) fn new(session: Session, room: Room, metrics: Metrics, warned: Arc<Warned>) -> Self {
        Self { session, room, config: None, is_first: true, has_told: false, metrics, warned }
    }

    async fn head(&mut self, head: &HttpHeaders, metadata: Option<&Metadata>) -> ProcessingResponse {
        let facts = HeadFacts::of(head);
        let Some(ticket) = ticket(metadata) else {
            // What Envoy answers by itself without a decision is an error.
            if (200..300).contains(&facts.status) && decision(metadata).is_none() {
                self.warned.of_undecided();
            }
            self.session.leave_alone();
            return nothing_more();
        };
        let obstacle = self.obstacle(head);
        let opened = self.session.head(&ticket, &facts.head(head.end_of_stream), obstacle).await;
        let response = match opened {
            Opened::Pass => nothing_more(),
            Opened::Body => {
                let remove_headers = REMOVED.map(str::to_owned).to_vec();
                let header_mutation = Some(HeaderMutation { set_headers: Vec::new(), remove_headers });
                let response = Some(CommonResponse { header_mutation, body_mutation: None });
                answer(Answer::ResponseHeaders(CommonAnswer { response }))
            }
            Opened::Withheld(replacement) => answer(Answer::Immediate(immediate(replacement))),
        };
        ProcessingResponse { dynamic_metadata: Some(told(seen_metadata())), ..response }
    }

    /// Why the response cannot be judged, whatever its ticket says.
    fn obstacle(&self, head: &HttpHeaders) -> Option<WithheldReason> {
        let mode = self.config.map(|config| config.response_body_mode);
        if !head.end_of_stream && mode != Some(BodyMode::Streamed.into()) {
            self.warned.of_mode();
            return Some(WithheldReason::Mode);
        }
        (self.room == Room::None).then_some(WithheldReason::Overload)
    }

    async fn body(&mut self, body: HttpBody) -> Result<ProcessingResponse, Status> {
        if self.session.awaits_head() {
            self.warned.of_heads();
            self.session.headless();
        }
        let response = match self.session.chunk(body.body, body.end_of_stream).await {
            Chunk::Same => None,
            Chunk::Bytes(bytes) => {
                let mutation = Some(Mutation::Body(Bytes::from(bytes)));
                Some(CommonResponse { header_mutation: None, body_mutation: Some(BodyMutation { mutation }) })
            }
            Chunk::Cut => return Err(Status::aborted("the rest of the response is withheld")),
        };
        Ok(self.told(answer(Answer::ResponseBody(CommonAnswer { response }))))
    }

    fn trailers(&mut self) -> Result<ProcessingResponse, Status> {
        if self.session.trailers() {
            return Err(Status::aborted("the response ended by trailers and is withheld"));
        }
        Ok(self.told(answer(Answer::ResponseTrailers(TrailersAnswer {}))))
    }

    /// Adds what the answer to the request was, once and as soon as it is known: a stream may go on after it, and be cut.
    fn told(&mut self, mut response: ProcessingResponse) -> ProcessingResponse {
        if !self.has_told
            && let Some(came) = self.session.came()
        {
            self.has_told = true;
            response.dynamic_metadata = Some(told(outcome_metadata(came)));
        }
        response
    }
}

impl Process for Processor {
    async fn answer(&mut self, request: ProcessingRequest) -> Result<ProcessingResponse, Status> {
        let received = Instant::now();
        if request.observability_mode {
            self.metrics.error(ErrorKind::Config);
            self.warned.of_observing();
            return Err(Status::failed_precondition("observability_mode protects nothing"));
        }
        if std::mem::take(&mut self.is_first) {
            self.config = request.protocol_config;
        }
        let unchanged = CommonAnswer::default;
        let answered = match request.part {
            // Of requests nothing is asked here: that is what Checks are for.
            Some(Part::RequestHeaders(_)) => Ok(answer(Answer::RequestHeaders(unchanged()))),
            Some(Part::RequestBody(_)) => Ok(answer(Answer::RequestBody(unchanged()))),
            Some(Part::RequestTrailers(_)) => Ok(answer(Answer::RequestTrailers(TrailersAnswer {}))),
            Some(Part::ResponseHeaders(head)) if self.session.awaits_head() => {
                Ok(self.head(&head, request.metadata_context.as_ref()).await)
            }
            Some(Part::ResponseHeaders(_)) => Err(Status::invalid_argument("a second head of one response")),
            Some(Part::ResponseBody(body)) => self.body(body).await,
            Some(Part::ResponseTrailers(_)) => self.trailers(),
            None => Err(Status::unimplemented("a message of an unknown kind")),
        };
        self.session.added(received.elapsed());
        answered
    }
}

/// What the Check put on its answer; every answer has some of it.
fn decision(metadata: Option<&Metadata>) -> Option<&Bytes> {
    metadata?
        .filter_metadata
        .iter()
        .find(|entry| entry.key == NAMESPACE)
        .map(|entry| &entry.value)
        .filter(|value| !value.is_empty())
}

/// The ticket that the Check put on its answer; `None` where there is none, or the request was denied. One that cannot be read
/// is an empty one, which no key has signed.
fn ticket(metadata: Option<&Metadata>) -> Option<Bytes> {
    let Ok(LogStruct { fields }) = LogStruct::decode(decision(metadata)?.clone()) else { return Some(Bytes::new()) };
    let field = |name: &str| fields.iter().find(|field| field.key == name.as_bytes());
    let ticket = field(TICKET_KEY)?;
    Some(LogText::decode(ticket.value.clone()).map(|text| text.text).unwrap_or_default())
}

/// The lines of a head that are read.
struct HeadFacts<'a> {
    status: u16,
    content_types: Vec<&'a [u8]>,
    content_encodings: Vec<&'a [u8]>,
    content_length: Option<u64>,
}

impl<'a> HeadFacts<'a> {
    fn of(head: &'a HttpHeaders) -> Self {
        let mut facts =
            Self { status: 0, content_types: Vec::new(), content_encodings: Vec::new(), content_length: None };
        for line in head.headers.iter().flat_map(|map| &map.headers) {
            let value: &[u8] = if line.raw_value.is_empty() { &line.value } else { &line.raw_value };
            match &*line.key {
                b":status" => facts.status = number(value).unwrap_or(0),
                b"content-type" => facts.content_types.push(value),
                b"content-encoding" => facts.content_encodings.push(value),
                b"content-length" => facts.content_length = number(value),
                _ => {}
            }
        }
        facts
    }

    fn head(&'a self, is_end: bool) -> Head<'a> {
        Head {
            status: self.status,
            content_types: &self.content_types,
            content_encodings: &self.content_encodings,
            content_length: self.content_length,
            is_end,
        }
    }
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Envoy ends the stream at once, and the rest of the response costs nothing.
const NOTHING_MORE: ProcessingMode = ProcessingMode {
    request_header_mode: SendMode::Skip as i32,
    response_header_mode: SendMode::Send as i32,
    request_body_mode: BodyMode::None as i32,
    response_body_mode: BodyMode::None as i32,
    request_trailer_mode: SendMode::Skip as i32,
    response_trailer_mode: SendMode::Skip as i32,
};

fn nothing_more() -> ProcessingResponse {
    let response = answer(Answer::ResponseHeaders(CommonAnswer::default()));
    ProcessingResponse { mode_override: Some(NOTHING_MORE), ..response }
}

fn answer(answer: Answer) -> ProcessingResponse {
    ProcessingResponse { answer: Some(answer), dynamic_metadata: None, mode_override: None }
}

fn immediate(replacement: Replacement) -> ImmediateResponse {
    let set_headers = vec![
        RawHeaderOption::set("content-type", "application/json"),
        RawHeaderOption::set("cache-control", "no-store"),
    ];
    ImmediateResponse {
        status: Some(HttpStatus { code: i32::from(replacement.status) }),
        headers: Some(HeaderMutation { set_headers, remove_headers: Vec::new() }),
        body: replacement.body.into(),
        details: "mcp_authz_withheld".to_owned(),
    }
}

/// What the access log brings back beside token and ticket.
fn told(fields: Struct) -> Struct {
    let mut metadata = Struct::default();
    metadata.push(OUTCOME_NAMESPACE, Kind::Struct(fields));
    metadata
}
