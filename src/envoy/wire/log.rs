//! The few messages of `envoy.service.accesslog.v3` that settling reads. Same rules as the parent module.

use bytes::Bytes;

use super::{Entry, Metadata};

/// Path of the one method of `envoy.service.accesslog.v3.AccessLogService`.
pub const LOG_PATH: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// One message of Envoy's stream of access logs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogMessage {
    /// [`LogEntries`], still encoded. Logs of TCP connections are not read.
    #[prost(bytes = "bytes", tag = "2")]
    pub http_logs: Bytes,
}

/// Entries of HTTP requests.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogEntries {
    /// One [`LogEntry`] each, still encoded: an entry takes a hundred times the memory of its shortest encoding, so they are
    /// decoded one at a time.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub log_entry: Vec<Bytes>,
}

/// The answer at the end of the stream.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LogReply {}

/// What Envoy says of one HTTP request, at its end or while it runs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogEntry {
    /// What every kind of log has.
    #[prost(message, optional, tag = "1")]
    pub common: Option<LogCommon>,
    /// The response.
    #[prost(message, optional, tag = "4")]
    pub response: Option<LogResponse>,
}

/// `envoy.data.accesslog.v3.AccessLogCommon`. Times are those of the last attempt that Envoy made, bytes those of all.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogCommon {
    /// There once the first byte was on its way to a server.
    #[prost(message, optional, tag = "7")]
    pub first_upstream_tx: Option<Present>,
    /// There once the last one was.
    #[prost(message, optional, tag = "8")]
    pub last_upstream_tx: Option<Present>,
    /// There once the head of a response has come.
    #[prost(message, optional, tag = "9")]
    pub first_upstream_rx: Option<Present>,
    /// Why Envoy ended the request, if it did.
    #[prost(message, optional, tag = "16")]
    pub response_flags: Option<LogFlags>,
    /// What the filters left; ours among it.
    #[prost(message, optional, tag = "17")]
    pub metadata: Option<Metadata>,
    /// How often Envoy has begun to send the request.
    #[prost(uint32, tag = "24")]
    pub upstream_attempts: u32,
    /// The request still runs; newer versions say it in `log_type` only.
    #[prost(bool, tag = "27")]
    pub intermediate: bool,
    /// Bytes written to servers.
    #[prost(uint64, tag = "31")]
    pub upstream_bytes_sent: u64,
    /// Bytes read from servers.
    #[prost(uint64, tag = "32")]
    pub upstream_bytes_received: u64,
    /// When in the life of the request the entry was written; see [`LogCommon::END`] and its kin.
    #[prost(int32, tag = "33")]
    pub log_type: i32,
}

impl LogCommon {
    /// `AccessLogType::NotSet`: an Envoy that does not say.
    pub const UNSAID: i32 = 0;
    /// `AccessLogType::DownstreamPeriodic`.
    pub const PERIODIC: i32 = 5;
    /// `AccessLogType::DownstreamEnd`.
    pub const END: i32 = 6;
}

/// A message of which only its presence counts.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Present {}

/// The flags that tell how a request failed; of the others none is read.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
#[expect(clippy::struct_excessive_bools, reason = "as Envoy defines it")]
pub struct LogFlags {
    /// The route's timeout.
    #[prost(bool, tag = "3")]
    pub upstream_request_timeout: bool,
    /// The server reset the stream.
    #[prost(bool, tag = "5")]
    pub upstream_remote_reset: bool,
    /// The connection to the server ended.
    #[prost(bool, tag = "7")]
    pub upstream_connection_termination: bool,
    /// The caller's connection ended.
    #[prost(bool, tag = "15")]
    pub downstream_connection_termination: bool,
    /// Nothing moved for too long.
    #[prost(bool, tag = "17")]
    pub stream_idle_timeout: bool,
    /// The caller broke HTTP.
    #[prost(bool, tag = "19")]
    pub downstream_protocol_error: bool,
    /// The stream to the server was open for too long.
    #[prost(bool, tag = "20")]
    pub upstream_max_stream_duration_reached: bool,
    /// The request took too long as a whole.
    #[prost(bool, tag = "23")]
    pub duration_timeout: bool,
    /// The caller reset the stream.
    #[prost(bool, tag = "28")]
    pub downstream_remote_reset: bool,
}

/// `envoy.data.accesslog.v3.HTTPResponseProperties`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogResponse {
    /// `google.protobuf.UInt32Value`; absent or 0 where the caller left before there was one.
    #[prost(message, optional, tag = "1")]
    pub response_code: Option<Code>,
    /// Who made the response: `via_upstream`, or why Envoy did.
    #[prost(bytes = "bytes", tag = "6")]
    pub response_code_details: Bytes,
}

/// `google.protobuf.UInt32Value`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Code {
    /// HTTP status.
    #[prost(uint32, tag = "1")]
    pub value: u32,
}

/// `google.protobuf.Struct` of which one text is looked for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogStruct {
    /// Names, and each value still encoded.
    #[prost(message, repeated, tag = "1")]
    pub fields: Vec<Entry>,
}

/// `google.protobuf.Value`, if it is a text.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogText {
    /// The text; empty for every other kind.
    #[prost(bytes = "bytes", tag = "3")]
    pub text: Bytes,
}
