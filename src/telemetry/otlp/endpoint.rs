//! Where a collector is, and how it is spoken to.

use std::{fmt, net::IpAddr};

use http::{HeaderName, HeaderValue, Uri};

use crate::telemetry::metrics::Signal;

/// Header lines of one request, those of operators and ours.
pub const HEADERS_MAX: usize = 32;
/// Bytes of their names and values together.
pub const HEADERS_BYTES_MAX: usize = 8 * 1024;

/// How telemetry travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Protocol Buffers in the bodies of HTTP/1.1 requests.
    HttpProtobuf,
}

impl Protocol {
    /// Both names.
    pub const NAMES: [&'static str; 2] = [Self::Grpc.name(), Self::HttpProtobuf.name()];

    /// The name that operators write, which is that of the OpenTelemetry specification.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        }
    }

    /// The protocol of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Grpc, Self::HttpProtobuf].into_iter().find(|protocol| protocol.name() == name)
    }
}

/// A base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    is_encrypted: bool,
    authority: String,
    /// Without a slash at its end; empty for none.
    path: String,
}

/// Why a text is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It holds a user or a password, which would end up in logs. The text must not be shown.
    #[error("a user or password in an address would end up in logs")]
    Credentials,
    /// It is no URL with `http` or `https`, a host and at most a path.
    #[error("is no address of a collector")]
    Malformed,
}

impl Endpoint {
    /// Reads `http://host:4317`, `https://host/path`. `without_scheme` is taken where the text has none; `None` refuses it.
    ///
    /// # Errors
    /// See [`EndpointError`].
    pub fn parse(text: &str, without_scheme: Option<&str>) -> Result<Self, EndpointError> {
        if text.contains('@') {
            return Err(EndpointError::Credentials);
        }
        let text = match (text.contains("://"), without_scheme) {
            (false, Some(scheme)) => format!("{scheme}://{text}"),
            (_, _) => text.to_owned(),
        };
        let uri: Uri = text.parse().map_err(|_| EndpointError::Malformed)?;
        let is_encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(EndpointError::Malformed),
        };
        let authority = uri.authority().ok_or(EndpointError::Malformed)?;
        let is_odd_port = authority.port_u16().is_none() && authority.as_str() != authority.host();
        // A query may hold a secret, and no collector asks for one.
        if authority.host().is_empty() || is_odd_port || uri.query().is_some() || text.contains('#') {
            return Err(EndpointError::Malformed);
        }
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { is_encrypted, authority: authority.as_str().to_owned(), path })
    }

    /// Where collectors listen unless somebody says otherwise.
    #[must_use]
    pub fn of_protocol(protocol: Protocol) -> Self {
        let port = match protocol {
            Protocol::Grpc => 4317,
            Protocol::HttpProtobuf => 4318,
        };
        Self { is_encrypted: false, authority: format!("localhost:{port}"), path: String::new() }
    }

    /// Whether nobody on the way can read along.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Whether it is this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            Some(_) | None => &self.authority,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }

    /// Whether it has a path, of which gRPC has no use.
    #[must_use]
    pub const fn has_path(&self) -> bool {
        !self.path.is_empty()
    }

    /// The port, if it is written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
    }

    /// With a path behind it.
    #[must_use]
    pub fn join(&self, path: &str) -> String {
        format!("{self}{path}")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// The path of HTTP/protobuf below an endpoint for all signals.
#[must_use]
pub const fn http_path(signal: Signal) -> &'static str {
    match signal {
        Signal::Logs => "/v1/logs",
        Signal::Metrics => "/v1/metrics",
        Signal::Traces => "/v1/traces",
    }
}

/// The path of the gRPC method.
#[must_use]
pub const fn grpc_path(signal: Signal) -> &'static str {
    match signal {
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    }
}

/// Header lines that operators add to each request; they may hold secrets, and are never shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderLines(Vec<(HeaderName, HeaderValue)>);

/// Why a header line is not taken. Never holds its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Name or value hold what no header may.
    #[error("line {0} is no header: a name, and a value of printable characters")]
    Malformed(usize),
    /// We set it.
    #[error("`{0}` is set by mcp-authz itself")]
    Reserved(HeaderName),
    /// More than the limits.
    #[error("more than {HEADERS_MAX} headers or {HEADERS_BYTES_MAX} bytes of them")]
    TooMany,
}

impl HeaderLines {
    /// Takes names and values.
    ///
    /// # Errors
    /// The first line that cannot be taken.
    pub fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(lines: impl IntoIterator<Item = (N, V)>) -> Result<Self, HeaderError> {
        const RESERVED: [&str; 12] = [
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "grpc-encoding",
            "grpc-timeout",
            "host",
            "keep-alive",
            "te",
            "transfer-encoding",
            "upgrade",
            "user-agent",
        ];
        let (mut out, mut bytes) = (Vec::new(), 0_usize);
        for (index, (name, value)) in lines.into_iter().enumerate() {
            let (name, value) = (name.as_ref(), value.as_ref());
            bytes = bytes.saturating_add(name.len()).saturating_add(value.len());
            if index >= HEADERS_MAX || bytes > HEADERS_BYTES_MAX {
                return Err(HeaderError::TooMany);
            }
            let malformed = HeaderError::Malformed(index.saturating_add(1));
            let name = HeaderName::from_bytes(name).map_err(|_| malformed.clone())?;
            let mut value = HeaderValue::from_bytes(value).map_err(|_| malformed)?;
            if RESERVED.contains(&name.as_str()) {
                return Err(HeaderError::Reserved(name));
            }
            value.set_sensitive(true);
            out.push((name, value));
        }
        Ok(Self(out))
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// The names, which are no secret.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_back() {
        for (text, shown, is_loopback) in [
            ("http://localhost:4317", "http://localhost:4317", true),
            ("http://127.8.9.1:4317/", "http://127.8.9.1:4317", true),
            ("http://[::1]:4318", "http://[::1]:4318", true),
            ("https://otel.example", "https://otel.example", false),
            ("https://otel.example/tenant/a/", "https://otel.example/tenant/a", false),
            ("http://127.0.0.1.example:1", "http://127.0.0.1.example:1", false),
        ] {
            let endpoint = Endpoint::parse(text, None).unwrap();
            assert_eq!((endpoint.to_string().as_str(), endpoint.is_loopback()), (shown, is_loopback));
        }
        let bare = Endpoint::parse("collector:4317", Some("https")).unwrap();
        assert_eq!((bare.to_string().as_str(), bare.port()), ("https://collector:4317", Some(4317)));
        assert_eq!(bare.join(http_path(Signal::Traces)), "https://collector:4317/v1/traces");
    }

    #[test]
    fn nothing_else_is_an_endpoint_and_no_password_is() {
        for text in [
            "",
            "collector:4317",
            "ftp://a",
            "http://",
            "http://a:x",
            "http://a:70000",
            "http://a?b=c",
            "http://a/#b",
            "http://a b",
        ] {
            assert_eq!(Endpoint::parse(text, None), Err(EndpointError::Malformed), "{text}");
        }
        assert_eq!(Endpoint::parse("https://u:p@a", None), Err(EndpointError::Credentials));
    }

    #[test]
    fn header_lines_are_limited_and_never_shown() {
        let lines =
            |count: usize, bytes: usize| HeaderLines::new((0..count).map(|n| (format!("x-{n:02}"), "v".repeat(bytes))));
        assert_eq!(lines(HEADERS_MAX, 1).unwrap().names().len(), HEADERS_MAX);
        assert_eq!(lines(HEADERS_MAX + 1, 1), Err(HeaderError::TooMany));
        assert!(lines(1, HEADERS_BYTES_MAX - 4).is_ok());
        assert_eq!(lines(1, HEADERS_BYTES_MAX - 3), Err(HeaderError::TooMany));
        let shown = format!("{:?}", HeaderLines::new([("authorization", "Bearer canary")]).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
        assert_eq!(HeaderLines::new([("a b", "c")]), Err(HeaderError::Malformed(1)));
        assert_eq!(HeaderLines::new([("a", "b"), ("c", "d\n")]), Err(HeaderError::Malformed(2)));
        assert!(matches!(HeaderLines::new([("Content-Type", "a")]), Err(HeaderError::Reserved(_))));
    }
}
