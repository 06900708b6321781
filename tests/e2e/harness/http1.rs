//! HTTP/1.1 by hand: exactly these bytes go out, and one response comes back.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::PATIENCE;

/// One response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    /// Status code.
    pub(crate) status: u16,
    /// Names in lower case, in order.
    pub(crate) headers: Vec<(String, String)>,
    /// Decoded of chunking.
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The value of the only header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str());
        let value = found.next();
        assert!(found.next().is_none(), "more than one {name}");
        value
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null where it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A request to be written byte by byte.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    framing: Framing,
}

/// How the length of the body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `transfer-encoding: chunked`, in pieces of seven bytes.
    Chunked,
    /// `content-length`.
    Length,
    /// Not at all, or by a header that the case brings itself.
    Unsaid,
}

impl Request {
    /// A request without body, with a host that no server list names.
    pub(crate) fn new(method: &str, target: &str) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        let host = (b"host".to_vec(), b"mcp.test".to_vec());
        Self { method, target, headers: vec![host], body: Vec::new(), framing: Framing::Unsaid }
    }

    /// A POST of JSON as an MCP client sends it.
    pub(crate) fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut request = Self::new("POST", target)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        request.body = body.into();
        request.framing = Framing::Length;
        request
    }

    /// Adds a header; a second one of the same name stays beside the first.
    #[must_use]
    pub(crate) fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Removes every header of that name.
    #[must_use]
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(have, _)| !have.eq_ignore_ascii_case(name.as_bytes()));
        self
    }

    /// Replaces every header of that name.
    #[must_use]
    pub(crate) fn with(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.without(name).header(name, value)
    }

    /// Adds the token of a grant.
    #[must_use]
    pub(crate) fn bearer(self, token: &str) -> Self {
        self.with("authorization", format!("Bearer {token}"))
    }

    /// Sets the method.
    #[must_use]
    pub(crate) fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// Sets the framing.
    #[must_use]
    pub(crate) fn framed(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// The bytes on the wire; the connection ends after the response.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        let has_connection = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"connection"));
        let mut push = |name: &[u8], value: &[u8]| {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        };
        for (name, value) in &self.headers {
            push(name, value);
        }
        if !has_connection {
            push(b"connection", b"close");
        }
        match self.framing {
            Framing::Chunked => push(b"transfer-encoding", b"chunked"),
            Framing::Length => push(b"content-length", self.body.len().to_string().as_bytes()),
            Framing::Unsaid => {}
        }
        out.extend_from_slice(b"\r\n");
        if self.framing == Framing::Chunked {
            for piece in self.body.chunks(7) {
                out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n\r\n");
        } else {
            out.extend_from_slice(&self.body);
        }
        out
    }

    /// Sends it on a connection of its own.
    pub(crate) async fn send(&self, to: SocketAddr) -> Response {
        exchange(to, &self.bytes()).await
    }
}

/// Writes the bytes on a new connection and reads one response.
pub(crate) async fn exchange(to: SocketAddr, bytes: &[u8]) -> Response {
    try_exchange(to, bytes).await.unwrap_or_else(|error| panic!("no response from {to}: {error}"))
}

/// As [`exchange`], where a closed connection is an answer too.
pub(crate) async fn try_exchange(to: SocketAddr, bytes: &[u8]) -> std::io::Result<Response> {
    let work = async {
        let (mut reader, mut writer) = TcpStream::connect(to).await?.into_split();
        let mut buffer = Buffer { stream: &mut reader, bytes: Vec::new() };
        // A server may answer and close before it has read everything, so a failed write is not the end.
        let write = async {
            let written = writer.write_all(bytes).await;
            (writer, written)
        };
        let (response, (_writer, written)) = tokio::join!(buffer.response(), write);
        response.map_err(|error| written.err().unwrap_or(error))
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Writes the bytes on a new connection and reads that many responses.
pub(crate) async fn exchange_all(to: SocketAddr, bytes: &[u8], count: usize) -> Vec<Response> {
    let work = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(bytes).await?;
        let mut buffer = Buffer { stream: &mut stream, bytes: Vec::new() };
        let mut responses = Vec::new();
        for _ in 0..count {
            responses.push(buffer.response().await?);
        }
        std::io::Result::Ok(responses)
    };
    tokio::time::timeout(PATIENCE, work).await.expect("the responses come in time").expect("the connection holds")
}

struct Buffer<'s, S> {
    stream: &'s mut S,
    bytes: Vec<u8>,
}

impl<S: tokio::io::AsyncRead + Unpin> Buffer<'_, S> {
    /// Reads one final response; interim ones are skipped.
    async fn response(&mut self) -> std::io::Result<Response> {
        loop {
            let head = self.head().await?;
            let mut lines = head.split("\r\n");
            let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
            let status: u16 = status.ok_or(std::io::ErrorKind::InvalidData)?;
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect();
            if (100..200).contains(&status) {
                continue;
            }
            let mut response = Response { status, headers, body: Vec::new() };
            response.body = self.body(&response).await?;
            return Ok(response);
        }
    }

    async fn more(&mut self) -> std::io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.bytes).await? > 0)
    }

    async fn must_more(&mut self) -> std::io::Result<()> {
        if self.more().await? { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
    }

    async fn through(&mut self, mark: &[u8]) -> std::io::Result<String> {
        loop {
            if let Some(at) = self.bytes.windows(mark.len()).position(|window| window == mark) {
                let taken: Vec<u8> = self.bytes.drain(..at + mark.len()).take(at).collect();
                return Ok(String::from_utf8_lossy(&taken).into_owned());
            }
            self.must_more().await?;
        }
    }

    async fn head(&mut self) -> std::io::Result<String> {
        self.through(b"\r\n\r\n").await
    }

    async fn exactly(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        while self.bytes.len() < length {
            self.must_more().await?;
        }
        Ok(self.bytes.drain(..length).collect())
    }

    async fn body(&mut self, response: &Response) -> std::io::Result<Vec<u8>> {
        if response.status == 204 || response.status == 304 {
            return Ok(Vec::new());
        }
        if let Some(length) = response.header("content-length") {
            return self.exactly(length.parse().map_err(|_| std::io::ErrorKind::InvalidData)?).await;
        }
        if response.header("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                let line = self.through(b"\r\n").await?;
                let length = usize::from_str_radix(line.trim(), 16).map_err(|_| std::io::ErrorKind::InvalidData)?;
                body.extend(self.exactly(length).await?);
                self.exactly(2).await?;
                if length == 0 {
                    return Ok(body);
                }
            }
        }
        while self.more().await? {}
        Ok(std::mem::take(&mut self.bytes))
    }
}
