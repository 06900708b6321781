//! HTTP/2 with prior knowledge, one DATA frame at a time.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::PATIENCE;

/// How a body is cut into DATA frames and how it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'f> {
    /// Length of each frame; their sum is the length of the body.
    pub(crate) frames: &'f [usize],
    /// What carries END_STREAM.
    pub(crate) end: End,
}

/// Which frame ends the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// An empty DATA frame after the last one.
    EmptyData,
    /// The last DATA frame.
    LastData,
    /// A HEADERS frame with trailers.
    Trailers,
}

/// A sound POST, to which a case may add more headers.
pub(crate) fn request(path: &str, token: &str) -> http::request::Builder {
    http::Request::post(format!("http://mcp.test{path}"))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("authorization", format!("Bearer {token}"))
}

/// Posts `body` in that shape and gives status and body of the response.
pub(crate) async fn post(to: SocketAddr, path: &str, token: &str, body: &[u8], shape: Shape<'_>) -> (u16, Vec<u8>) {
    send(to, request(path, token), body, shape).await
}

/// Sends the request with `body` in that shape.
pub(crate) async fn send(
    to: SocketAddr,
    request: http::request::Builder,
    body: &[u8],
    shape: Shape<'_>,
) -> (u16, Vec<u8>) {
    let request = request.body(()).expect("a sound request");
    tokio::time::timeout(PATIENCE, try_send(to, request, body, shape))
        .await
        .expect("the response comes in time")
        .expect("the exchange works")
}

async fn try_send(
    to: SocketAddr,
    request: http::Request<()>,
    body: &[u8],
    shape: Shape<'_>,
) -> Result<(u16, Vec<u8>), h2::Error> {
    let stream = TcpStream::connect(to).await.expect("Envoy accepts");
    let (sender, connection) = h2::client::handshake(stream).await?;
    let driver = tokio::spawn(connection);
    let mut sender = sender.ready().await?;
    let (response, mut stream) = sender.send_request(request, false)?;
    let mut rest = body;
    for (at, length) in shape.frames.iter().enumerate() {
        let (frame, tail) = rest.split_at_checked(*length).expect("the frames cover the body");
        rest = tail;
        let is_last = at + 1 == shape.frames.len();
        // Envoy may have answered and reset the stream already; the answer is what counts.
        let sent = stream.send_data(Bytes::copy_from_slice(frame), is_last && shape.end == End::LastData);
        if sent.is_err() {
            break;
        }
    }
    assert!(rest.is_empty(), "the frames cover the body");
    let ended = match shape.end {
        End::EmptyData => stream.send_data(Bytes::new(), true),
        End::LastData => Ok(()),
        End::Trailers => stream.send_trailers(forged_trailers()),
    };
    drop(ended);
    let response = response.await?;
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        bytes.extend_from_slice(&chunk?);
    }
    driver.abort();
    Ok((status, bytes))
}

/// Headers that come after the body was judged.
fn forged_trailers() -> http::HeaderMap {
    let forged = || http::HeaderValue::from_static("forged");
    let names = ["authorization", "mcp-name", "x-mcp-authz-subject"];
    names.into_iter().map(|name| (http::HeaderName::from_static(name), forged())).collect()
}
