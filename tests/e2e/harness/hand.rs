//! An upstream that is played by hand, and a client that reads as it comes: for responses whose bytes and moments matter.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::PATIENCE;
use super::http1::Request;

/// The upstream: every request that arrives is handed to the test.
pub(crate) struct Hand {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Asked>,
    task: tokio::task::JoinHandle<()>,
}

/// A request that arrived, and the connection to answer it on.
pub(crate) struct Asked {
    /// Request line and headers.
    pub(crate) head: String,
    stream: TcpStream,
}

impl Hand {
    /// Listens on a port that the OS chooses.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let (sender, requests) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("loopback");
                let sender = sender.clone();
                tokio::spawn(async move {
                    // A connection that Envoy opens and closes again brings nothing.
                    if let Some(asked) = Asked::read(stream).await {
                        sender.send(asked).unwrap_or_default();
                    }
                });
            }
        });
        Self { address, requests, task }
    }

    /// The next request.
    pub(crate) async fn next(&mut self) -> Asked {
        let asked = timeout(PATIENCE, self.requests.recv()).await;
        asked.expect("a request arrives in time").expect("the task runs")
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Asked {
    async fn read(mut stream: TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        loop {
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.trim().parse().expect("a length"));
            if body.len() >= length {
                return Some(Self { head: head.to_owned(), stream });
            }
        }
    }

    /// Sends bytes as they are. Envoy may have left: what counts is what the client gets.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap_or_default();
    }

    /// Sends one chunk of a chunked body.
    pub(crate) async fn chunk(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
        framed.extend_from_slice(bytes);
        framed.extend_from_slice(b"\r\n");
        self.write(framed).await;
    }

    /// Sends the head of a chunked response.
    pub(crate) async fn begin(&mut self, status: &str, content_type: &str) {
        self.write(format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"))
            .await;
    }

    /// Ends a chunked body.
    pub(crate) async fn end(&mut self) {
        self.write("0\r\n\r\n").await;
    }

    /// Sends a whole response of known length.
    pub(crate) async fn answer(&mut self, status: &str, headers: &str, body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let mut out = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len()).into_bytes();
        out.extend_from_slice(body);
        self.write(out).await;
    }
}

/// A client that has sent a request and reads the response bit by bit.
pub(crate) struct Client {
    stream: TcpStream,
    /// Everything that came.
    seen: Vec<u8>,
}

impl Client {
    /// Connects and sends.
    pub(crate) async fn send(request: &Request, to: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(to).await.expect("Envoy listens");
        stream.write_all(&request.bytes()).await.expect("Envoy reads");
        Self { stream, seen: Vec::new() }
    }

    /// Everything that has come, read until `text` is in it.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let reading = async {
            loop {
                let seen = String::from_utf8_lossy(&self.seen).into_owned();
                if seen.contains(text) {
                    return seen;
                }
                assert!(
                    self.stream.read_buf(&mut self.seen).await.expect("a sound end") > 0,
                    "ended before `{text}`: {seen}"
                );
            }
        };
        timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("`{text}` does not come"))
    }

    /// Everything that comes until the connection ends, and whether the last chunk came.
    pub(crate) async fn read_to_end(&mut self) -> (String, bool) {
        let reading = async {
            // A connection that is reset has ended as well.
            while self.stream.read_buf(&mut self.seen).await.is_ok_and(|read| read > 0) {}
        };
        timeout(PATIENCE, reading).await.expect("the connection ends");
        let text = String::from_utf8_lossy(&self.seen).into_owned();
        let whole = text.ends_with("\r\n0\r\n\r\n");
        (text, whole)
    }
}
