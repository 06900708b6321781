//! An upstream in this process that keeps exactly what reached it and answers like an MCP server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    /// HTTP method.
    pub(crate) method: String,
    /// Path with query.
    pub(crate) target: String,
    /// Every header line, names in lower case.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// The body, byte for byte.
    pub(crate) body: Vec<u8>,
}

impl Hit {
    /// Every value of a header.
    pub(crate) fn values(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(have, _)| have == name);
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// The tool that an ordinary JSON parser sees, if any.
    pub(crate) fn tool(&self) -> Option<String> {
        let message: Value = serde_json::from_slice(&self.body).ok()?;
        message.pointer("/params/name")?.as_str().map(str::to_owned)
    }
}

/// How the upstream answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// Like an MCP server, in JSON.
    Json = 0,
    /// HTTP 500.
    Broken = 1,
    /// Like an MCP server, with results in an event stream.
    Sse = 2,
    /// Like an MCP server that has tools.
    Tools = 3,
}

#[derive(Debug, Default)]
struct Shared {
    hits: Mutex<Vec<Hit>>,
    mode: AtomicU8,
}

/// The running upstream.
pub(crate) struct Upstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Upstream {
    /// Starts on a port that the OS chooses.
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared::default());
        let app = axum::Router::new().fallback(serve).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            axum::serve(listener, app).await.expect("serving on loopback does not end");
        });
        Self { address, shared, task }
    }

    /// Requests so far.
    pub(crate) fn count(&self) -> usize {
        self.shared.hits.lock().expect("no panic under the lock").len()
    }

    /// Takes all that arrived since the last time.
    pub(crate) fn take(&self) -> Vec<Hit> {
        std::mem::take(&mut *self.shared.hits.lock().expect("no panic under the lock"))
    }

    /// Chooses how to answer from now on.
    pub(crate) fn answer(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::SeqCst);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let hit = Hit {
        method: method.to_string(),
        target: uri.to_string(),
        headers: headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect(),
        body: body.to_vec(),
    };
    let answer = reply(&hit, shared.mode.load(Ordering::SeqCst));
    shared.hits.lock().expect("no panic under the lock").push(hit);
    answer
}

fn reply(hit: &Hit, mode: u8) -> Response {
    if mode == Mode::Broken as u8 {
        return respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "broken on purpose".to_owned());
    }
    if hit.method == "GET" {
        return respond(StatusCode::OK, "text/event-stream", ": the stream of a session\n\n".to_owned());
    }
    let message: Value = serde_json::from_slice(&hit.body).unwrap_or_default();
    let Some(id) = message.get("id").filter(|_| message.get("method").is_some()) else {
        return respond(StatusCode::ACCEPTED, "application/json", String::new());
    };
    let result = match message.get("method").and_then(Value::as_str).unwrap_or_default() {
        "initialize" => json!({
            "protocolVersion": message.pointer("/params/protocolVersion").unwrap_or(&json!("2025-11-25")),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "recorder", "version": "1.0.0"},
        }),
        "tools/call" => json!({
            "resultType": "complete",
            "content": [{"type": "text", "text": format!("ran {}", hit.tool().unwrap_or_default())}],
        }),
        "tools/list" if mode == Mode::Tools as u8 => {
            let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
            json!({"tools": [tool("tool"), tool("secret_tool")]})
        }
        "tools/list" => json!({"resultType": "complete", "tools": [], "ttlMs": 0, "cacheScope": "private"}),
        _ => json!({"resultType": "complete"}),
    };
    let text = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
    if mode == Mode::Sse as u8 {
        return respond(StatusCode::OK, "text/event-stream", format!("event: message\ndata: {text}\n\n"));
    }
    respond(StatusCode::OK, "application/json", text)
}

fn respond(status: StatusCode, content_type: &str, body: String) -> Response {
    Response::builder().status(status).header("content-type", content_type).body(Body::from(body)).expect("sound")
}
