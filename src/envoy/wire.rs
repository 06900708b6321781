//! The few protobuf messages of `envoy.service.auth.v3` that we read and write, by hand; those of access logs are in [`log`],
//! those of responses in [`process`].
//!
//! They are wire-compatible with Envoy's own definitions: the same tags, fewer fields (what we do not read is skipped
//! while decoding), and two deliberate differences of Rust type. First, text that somebody else controls is [`Bytes`],
//! not `String`: a proto3 `string` with a byte that is not UTF-8 fails the whole decode, Envoy then sees a broken
//! authorizer and applies its failure mode, whereas we want to answer a readable refusal. Second, maps are lists of
//! entries: the order of arrival is kept, nothing is hashed, and a repeated key is visible. A [`Bytes`] field shares
//! the buffer of the gRPC message, so a large body is never copied.
//!
//! `Debug` of every message that can hold a token, a credential or a body prints sizes only.

use std::fmt;

use bytes::Bytes;

pub mod log;
pub mod process;

/// `grpc.health` and route name of the service that [`CheckRequest`] belongs to.
pub const SERVICE: &str = "envoy.service.auth.v3.Authorization";

/// Path of the one method of [`SERVICE`].
pub const CHECK_PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What Envoy asks: may this HTTP request go on to its upstream?
#[derive(Clone, PartialEq, prost::Message)]
pub struct CheckRequest {
    /// Everything that Envoy knows about the request. Absent only if the caller is not Envoy.
    #[prost(message, optional, tag = "1")]
    pub attributes: Option<AttributeContext>,
}

/// The request and its surroundings as Envoy saw them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttributeContext {
    /// The peer of Envoy that sent the HTTP request.
    #[prost(message, optional, tag = "1")]
    pub source: Option<Peer>,
    /// The local side of that connection.
    #[prost(message, optional, tag = "2")]
    pub destination: Option<Peer>,
    /// The HTTP request.
    #[prost(message, optional, tag = "4")]
    pub request: Option<Request>,
    /// Settings of the route, written by the operator: the only binding to a server that no client can choose.
    #[prost(message, repeated, tag = "10")]
    pub context_extensions: Vec<Entry>,
    /// Metadata of filters before ours, for example verified token claims.
    #[prost(message, optional, tag = "11")]
    pub metadata_context: Option<Metadata>,
}

/// One end of the connection to Envoy.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Peer {
    /// Network address.
    #[prost(message, optional, tag = "1")]
    pub address: Option<Address>,
    /// Identity from the peer's verified certificate (first URI SAN, else DNS SAN, else subject); empty without mTLS.
    #[prost(bytes = "bytes", tag = "4")]
    pub principal: Bytes,
    /// The peer's certificate, URL-encoded PEM, if Envoy is told to send it.
    #[prost(bytes = "bytes", tag = "5")]
    pub certificate: Bytes,
}

/// A network address; at most one field is set (a `oneof` in Envoy's definition).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Address {
    /// TCP or UDP.
    #[prost(message, optional, tag = "1")]
    pub socket_address: Option<SocketAddress>,
    /// Unix socket.
    #[prost(message, optional, tag = "2")]
    pub pipe: Option<Pipe>,
}

/// Address and port.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SocketAddress {
    /// An IP address as text.
    #[prost(bytes = "bytes", tag = "2")]
    pub address: Bytes,
    /// Port number.
    #[prost(uint32, tag = "3")]
    pub port_value: u32,
}

/// A Unix socket.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pipe {
    /// Path of the socket file.
    #[prost(bytes = "bytes", tag = "1")]
    pub path: Bytes,
}

/// The request in the attribute context.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// The HTTP attributes; absent for a TCP authorization, which we do not serve.
    #[prost(message, optional, tag = "2")]
    pub http: Option<HttpRequest>,
}

/// The HTTP request as Envoy parsed it. All text is as the client sent it: UTF-8 is not checked.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct HttpRequest {
    /// Number of the stream inside Envoy as decimal text: unique for each request, the same when gRPC retries a Check.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// HTTP method.
    #[prost(bytes = "bytes", tag = "2")]
    pub method: Bytes,
    /// Headers with lower-case names, repeated ones joined by commas; empty if `encode_raw_headers` is on.
    #[prost(message, repeated, tag = "3")]
    pub headers: Vec<Entry>,
    /// Path with the query; the fragment is dropped.
    #[prost(bytes = "bytes", tag = "4")]
    pub path: Bytes,
    /// `:authority` or `Host`.
    #[prost(bytes = "bytes", tag = "5")]
    pub host: Bytes,
    /// `http` or `https`.
    #[prost(bytes = "bytes", tag = "6")]
    pub scheme: Bytes,
    /// Always empty in Envoy: the query is part of `path`.
    #[prost(bytes = "bytes", tag = "7")]
    pub query: Bytes,
    /// Always empty in Envoy.
    #[prost(bytes = "bytes", tag = "8")]
    pub fragment: Bytes,
    /// Bytes of the body received so far; -1 if unknown. More than the length of the body means that it was cut.
    #[prost(int64, tag = "9")]
    pub size: i64,
    /// For example `HTTP/1.1`.
    #[prost(bytes = "bytes", tag = "10")]
    pub protocol: Bytes,
    /// The body without `pack_as_bytes`: lossy, Envoy has replaced each byte that is not UTF-8 by `!`.
    #[prost(bytes = "bytes", tag = "11")]
    pub body: Bytes,
    /// The body with `pack_as_bytes`: the exact bytes.
    #[prost(bytes = "bytes", tag = "12")]
    pub raw_body: Bytes,
    /// Headers with `encode_raw_headers`: one entry for each line as received, values in `raw_value`.
    #[prost(message, optional, tag = "13")]
    pub header_map: Option<HeaderMap>,
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("headers", &self.headers.len())
            .field("header_map", &self.header_map)
            .field("size", &self.size)
            .field("body_bytes", &self.body.len())
            .field("raw_body_bytes", &self.raw_body.len())
            .finish_non_exhaustive()
    }
}

/// Header lines in the order of arrival.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderMap {
    /// The lines.
    #[prost(message, repeated, tag = "1")]
    pub headers: Vec<RawHeader>,
}

/// One header line of a request.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct RawHeader {
    /// Name, lower case.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Value if the sender did not use `raw_value`.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// The exact bytes of the value.
    #[prost(bytes = "bytes", tag = "3")]
    pub raw_value: Bytes,
}

impl fmt::Debug for RawHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawHeader").finish_non_exhaustive()
    }
}

/// One entry of a protobuf map whose key is a string and whose value is a string or, left undecoded, a message.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Entry {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value: text, or the encoded message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").finish_non_exhaustive()
    }
}

/// Metadata by namespace.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    /// One `google.protobuf.Struct`, still encoded, for each namespace: nothing pays for what no rule reads, and a
    /// hostile nesting depth costs nothing.
    #[prost(message, repeated, tag = "1")]
    pub filter_metadata: Vec<Entry>,
}

/// Our answer. Never send the default value: Envoy takes a status of 0, even an absent one, as permission.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CheckResponse {
    /// `google.rpc.Status`: code 0 lets the request pass, whatever `http_response` says.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// Details for the HTTP side.
    #[prost(oneof = "HttpResponse", tags = "2, 3, 5")]
    pub http_response: Option<HttpResponse>,
    /// Metadata for access logs and later filters, on permission and denial alike.
    #[prost(message, optional, tag = "4")]
    pub dynamic_metadata: Option<Struct>,
}

/// gRPC code of [`CheckResponse::refused`]: `PERMISSION_DENIED`.
const PERMISSION_DENIED: i32 = 7;

impl CheckResponse {
    /// A refusal without a body: the last resort where nothing better can be said. It is a denial and not a gRPC
    /// error, because Envoy lets an error pass when it is configured with `failure_mode_allow`.
    #[must_use]
    pub fn refused(http_status: i32) -> Self {
        let status = Status { code: PERMISSION_DENIED, message: String::new() };
        let denied = DeniedHttpResponse {
            status: Some(HttpStatus { code: http_status }),
            headers: Vec::new(),
            body: String::new(),
        };
        Self { status: Some(status), http_response: Some(HttpResponse::Denied(denied)), dynamic_metadata: None }
    }
}

/// What Envoy does next.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum HttpResponse {
    /// Answer the client with this; only if the status is not 0.
    #[prost(message, tag = "2")]
    Denied(DeniedHttpResponse),
    /// We could not decide: counted as an error, and let through by `failure_mode_allow`.
    #[prost(message, tag = "5")]
    Error(DeniedHttpResponse),
    /// Change the request and pass it on; only if the status is 0.
    #[prost(message, tag = "3")]
    Ok(OkHttpResponse),
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Status {
    /// gRPC code; 0 is permission.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Never shown by Envoy.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `envoy.type.v3.HttpStatus`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct HttpStatus {
    /// HTTP status code; 0 becomes 403.
    #[prost(int32, tag = "1")]
    pub code: i32,
}

/// The response that the client gets instead of the upstream's.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct DeniedHttpResponse {
    /// Status; absent means 403.
    #[prost(message, optional, tag = "1")]
    pub status: Option<HttpStatus>,
    /// Headers; without a content type Envoy says `text/plain`.
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderValueOption>,
    /// Body.
    #[prost(string, tag = "3")]
    pub body: String,
}

impl fmt::Debug for DeniedHttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeniedHttpResponse")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// Changes to a request that may pass.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OkHttpResponse {
    /// Request headers to set. Envoy reads `value` here and ignores the append action.
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderValueOption>,
    /// Request headers to remove. Removal runs after setting: a name in both lists ends up removed.
    #[prost(string, repeated, tag = "5")]
    pub headers_to_remove: Vec<String>,
    /// Headers for the response to the client.
    #[prost(message, repeated, tag = "6")]
    pub response_headers_to_add: Vec<HeaderValueOption>,
}

/// A header and how to write it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderValueOption {
    /// The header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<HeaderValue>,
    /// What to do with a header of that name that exists already.
    #[prost(enumeration = "AppendAction", tag = "3")]
    pub append_action: i32,
    /// Keep the header if its value is empty.
    #[prost(bool, tag = "4")]
    pub keep_empty_value: bool,
}

impl HeaderValueOption {
    /// The header `key` with exactly this value, in place of any other of that name.
    #[must_use]
    pub fn set(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            header: Some(HeaderValue { key: key.into(), value: value.into() }),
            append_action: AppendAction::OverwriteIfExistsOrAdd.into(),
            keep_empty_value: false,
        }
    }

    /// One more header `key`, beside others of that name (`set-cookie`).
    #[must_use]
    pub fn append(key: impl Into<String>, value: impl Into<String>) -> Self {
        let append_action = AppendAction::AppendIfExistsOrAdd.into();
        Self { append_action, ..Self::set(key, value) }
    }
}

/// A header that we write.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct HeaderValue {
    /// Name, lower case.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value. Envoy would read `raw_value` as empty on this service, so we have none.
    #[prost(string, tag = "2")]
    pub value: String,
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderValue").field("key", &self.key).finish_non_exhaustive()
    }
}

/// How a header meets another of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AppendAction {
    /// Add one more.
    AppendIfExistsOrAdd = 0,
    /// Only if there is none.
    AddIfAbsent = 1,
    /// Replace all, or add.
    OverwriteIfExistsOrAdd = 2,
    /// Replace all, but do not add.
    OverwriteIfExists = 3,
}

/// `google.protobuf.Struct`, its fields in the order written.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Struct {
    /// The fields; a name must not repeat.
    #[prost(message, repeated, tag = "1")]
    pub fields: Vec<Field>,
}

impl Struct {
    /// Adds a field with a text.
    pub fn push_text(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.push(name, Kind::Text(text.into()));
    }

    /// Adds a field.
    pub fn push(&mut self, name: impl Into<String>, kind: Kind) {
        self.fields.push(Field { name: name.into(), value: Some(Value { kind: Some(kind) }) });
    }
}

/// One field of a [`Struct`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Field {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<Value>,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// The value; absent is an error for the reader.
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<Kind>,
}

/// The kinds of a [`Value`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// A boolean.
    #[prost(bool, tag = "4")]
    Bool(bool),
    /// A list.
    #[prost(message, tag = "6")]
    List(List),
    /// `null`; the number is always 0.
    #[prost(int32, tag = "1")]
    Null(i32),
    /// A number; exact only up to 2^53.
    #[prost(double, tag = "2")]
    Number(f64),
    /// A nested structure.
    #[prost(message, tag = "5")]
    Struct(Struct),
    /// A text.
    #[prost(string, tag = "3")]
    Text(String),
}

/// `google.protobuf.ListValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct List {
    /// The values.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Value>,
}

#[cfg(test)]
mod tests;
