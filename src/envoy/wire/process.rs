//! The messages of `envoy.service.ext_proc.v3` that the response phase reads and writes. Same rules as the parent module.
//!
//! Headers differ from those of ext_authz: here Envoy fills and reads `raw_value` only, and takes a `value` for an empty one.

use std::fmt;

use bytes::Bytes;

use super::{Entry, HeaderMap, HttpStatus, Metadata, Struct};

/// Path of the one method of `envoy.service.ext_proc.v3.ExternalProcessor`.
pub const PROCESS_PATH: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// One message of Envoy's about one request or response.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessingRequest {
    /// What it is about; absent in messages of kinds that are newer than this program.
    #[prost(oneof = "Part", tags = "2, 3, 4, 5, 6, 7")]
    pub part: Option<Part>,
    /// What filters before this one left, in the namespaces that `metadata_options.forwarding_namespaces` names.
    #[prost(message, optional, tag = "8")]
    pub metadata_context: Option<Metadata>,
    /// `google.protobuf.Struct` by filter: what `response_attributes` asks for.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<Entry>,
    /// Envoy does not wait for answers, and heeds none.
    #[prost(bool, tag = "10")]
    pub observability_mode: bool,
    /// How bodies are sent, as configured; in the first message of a stream only.
    #[prost(message, optional, tag = "11")]
    pub protocol_config: Option<ProtocolConfig>,
}

/// Which part of a request or a response.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Part {
    /// Head of a request.
    #[prost(message, tag = "2")]
    RequestHeaders(HttpHeaders),
    /// Head of a response.
    #[prost(message, tag = "3")]
    ResponseHeaders(HttpHeaders),
    /// Bytes of a request's body.
    #[prost(message, tag = "4")]
    RequestBody(HttpBody),
    /// Bytes of a response's body.
    #[prost(message, tag = "5")]
    ResponseBody(HttpBody),
    /// Trailers of a request.
    #[prost(message, tag = "6")]
    RequestTrailers(HttpTrailers),
    /// Trailers of a response.
    #[prost(message, tag = "7")]
    ResponseTrailers(HttpTrailers),
}

/// `ProtocolConfiguration`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ProtocolConfig {
    /// [`BodyMode`] of requests.
    #[prost(enumeration = "BodyMode", tag = "1")]
    pub request_body_mode: i32,
    /// [`BodyMode`] of responses.
    #[prost(enumeration = "BodyMode", tag = "2")]
    pub response_body_mode: i32,
    /// Bodies come before the answer to the head is there.
    #[prost(bool, tag = "3")]
    pub send_body_without_waiting_for_header_response: bool,
}

/// A head. Attributes in it are of an old version of the protocol and not read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HttpHeaders {
    /// The lines, `:status` among them; values in `raw_value`.
    #[prost(message, optional, tag = "1")]
    pub headers: Option<HeaderMap>,
    /// There is no body.
    #[prost(bool, tag = "3")]
    pub end_of_stream: bool,
}

/// Some bytes of a body.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct HttpBody {
    /// The bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
    /// The body ends with them.
    #[prost(bool, tag = "2")]
    pub end_of_stream: bool,
}

impl fmt::Debug for HttpBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBody")
            .field("bytes", &self.body.len())
            .field("end_of_stream", &self.end_of_stream)
            .finish_non_exhaustive()
    }
}

/// Trailers, of which nothing is read.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct HttpTrailers {}

/// How a body is sent, `ProcessingMode.BodySendMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum BodyMode {
    /// Not at all.
    None = 0,
    /// Piece by piece, each answered before the next.
    Streamed = 1,
    /// Whole; Envoy answers 500 where it does not fit into its buffer.
    Buffered = 2,
    /// Whole, or its beginning.
    BufferedPartial = 3,
    /// Piece by piece, answered in pieces of other sizes.
    FullDuplexStreamed = 4,
    /// Messages of gRPC.
    Grpc = 5,
}

/// Whether a head or trailers are sent, `ProcessingMode.HeaderSendMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SendMode {
    /// As the kind has it: heads are sent, trailers are not.
    Default = 0,
    /// Sent.
    Send = 1,
    /// Not sent.
    Skip = 2,
}

/// `envoy.extensions.filters.http.ext_proc.v3.ProcessingMode`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ProcessingMode {
    /// Heads of requests.
    #[prost(enumeration = "SendMode", tag = "1")]
    pub request_header_mode: i32,
    /// Heads of responses.
    #[prost(enumeration = "SendMode", tag = "2")]
    pub response_header_mode: i32,
    /// Bodies of requests.
    #[prost(enumeration = "BodyMode", tag = "3")]
    pub request_body_mode: i32,
    /// Bodies of responses.
    #[prost(enumeration = "BodyMode", tag = "4")]
    pub response_body_mode: i32,
    /// Trailers of requests.
    #[prost(enumeration = "SendMode", tag = "5")]
    pub request_trailer_mode: i32,
    /// Trailers of responses.
    #[prost(enumeration = "SendMode", tag = "6")]
    pub response_trailer_mode: i32,
}

/// Our answer to one message: of the same kind, or an immediate response.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessingResponse {
    /// What is to be done.
    #[prost(oneof = "Answer", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub answer: Option<Answer>,
    /// Metadata by namespace, taken where `metadata_options.receiving_namespaces` names it.
    #[prost(message, optional, tag = "8")]
    pub dynamic_metadata: Option<Struct>,
    /// How the rest of this response is sent; heeded in the answer to a head and where `allow_mode_override` is on.
    #[prost(message, optional, tag = "9")]
    pub mode_override: Option<ProcessingMode>,
}

/// The answers; each has the kind of its message.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answer {
    /// To the head of a request.
    #[prost(message, tag = "1")]
    RequestHeaders(CommonAnswer),
    /// To the head of a response.
    #[prost(message, tag = "2")]
    ResponseHeaders(CommonAnswer),
    /// To bytes of a request.
    #[prost(message, tag = "3")]
    RequestBody(CommonAnswer),
    /// To bytes of a response.
    #[prost(message, tag = "4")]
    ResponseBody(CommonAnswer),
    /// To trailers of a request.
    #[prost(message, tag = "5")]
    RequestTrailers(TrailersAnswer),
    /// To trailers of a response.
    #[prost(message, tag = "6")]
    ResponseTrailers(TrailersAnswer),
    /// Answer the client with this; where a head has left already, Envoy cuts the response off.
    #[prost(message, tag = "7")]
    Immediate(ImmediateResponse),
}

/// `HeadersResponse` and `BodyResponse`, which are the same on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommonAnswer {
    /// What changes; absent for nothing.
    #[prost(message, optional, tag = "1")]
    pub response: Option<CommonResponse>,
}

/// Changes to one part. The status stays at its 0, `CONTINUE`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommonResponse {
    /// Changes to the head.
    #[prost(message, optional, tag = "2")]
    pub header_mutation: Option<HeaderMutation>,
    /// Changes to the body.
    #[prost(message, optional, tag = "3")]
    pub body_mutation: Option<BodyMutation>,
}

/// Changes to a head.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderMutation {
    /// Set, in place of others of their names.
    #[prost(message, repeated, tag = "1")]
    pub set_headers: Vec<RawHeaderOption>,
    /// Removed.
    #[prost(string, repeated, tag = "2")]
    pub remove_headers: Vec<String>,
}

/// A header that is set. Envoy ignores the append action on responses of this service.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RawHeaderOption {
    /// The header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<RawHeaderValue>,
}

impl RawHeaderOption {
    /// The header `key` with exactly this value.
    #[must_use]
    pub fn set(key: &str, value: &str) -> Self {
        Self { header: Some(RawHeaderValue { key: key.to_owned(), raw_value: value.to_owned() }) }
    }
}

/// A header that we write for this service.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RawHeaderValue {
    /// Name, lower case.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value: what Envoy reads as bytes.
    #[prost(string, tag = "3")]
    pub raw_value: String,
}

/// A change to the bytes of one message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BodyMutation {
    /// What the bytes become.
    #[prost(oneof = "Mutation", tags = "1, 2")]
    pub mutation: Option<Mutation>,
}

/// What bytes of a body become.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Mutation {
    /// These.
    #[prost(bytes = "bytes", tag = "1")]
    Body(Bytes),
    /// None, if true.
    #[prost(bool, tag = "2")]
    Clear(bool),
}

/// `TrailersResponse` without changes.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct TrailersAnswer {}

/// The response that the client gets instead of the upstream's.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct ImmediateResponse {
    /// Status.
    #[prost(message, optional, tag = "1")]
    pub status: Option<HttpStatus>,
    /// Headers.
    #[prost(message, optional, tag = "2")]
    pub headers: Option<HeaderMutation>,
    /// Body.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
    /// What the access log says in `response_code_details`.
    #[prost(string, tag = "5")]
    pub details: String,
}

impl fmt::Debug for ImmediateResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImmediateResponse")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .field("details", &self.details)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
