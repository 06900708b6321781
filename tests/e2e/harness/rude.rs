//! An upstream that counts what reached it and then behaves as it is told, down to the socket.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What it does once a request has arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Answers well.
    Answer,
    /// Closes the connection without a word.
    Close,
    /// Answers HTTP 500.
    Fail,
    /// Says nothing until the peer goes away.
    Hang,
    /// Begins an event stream and says nothing more until the peer goes away.
    Stream,
    /// Stops listening, then closes the connection without a word.
    Vanish,
}

#[derive(Debug)]
struct Shared {
    arrived: AtomicUsize,
    left: AtomicUsize,
    /// Set to end listening, and again once nobody listens.
    vanished: tokio::sync::watch::Sender<u8>,
    manner: Mutex<Manner>,
}

/// The running upstream.
pub(crate) struct Rude {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Rude {
    /// Starts on a port that the OS chooses, and answers well.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let manner = Mutex::new(Manner::Answer);
        let (arrived, left) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let shared = Arc::new(Shared { arrived, left, vanished: tokio::sync::watch::Sender::new(0), manner });
        let for_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            let mut vanished = for_task.vanished.subscribe();
            loop {
                let stream = tokio::select! {
                    _ = vanished.wait_for(|state| *state > 0) => break,
                    accepted = listener.accept() => accepted.expect("loopback").0,
                };
                let shared = Arc::clone(&for_task);
                connections.spawn(async move { drop(serve(stream, &shared).await) });
                while connections.try_join_next().is_some() {}
            }
            drop(listener);
            for_task.vanished.send_replace(2);
            while connections.join_next().await.is_some() {}
        });
        Self { address, shared, task }
    }

    /// Chooses what it does from now on.
    pub(crate) fn behave(&self, manner: Manner) {
        *self.shared.manner.lock().expect("no panic under the lock") = manner;
    }

    /// Requests that arrived whole so far.
    pub(crate) fn arrived(&self) -> usize {
        self.shared.arrived.load(Ordering::SeqCst)
    }

    /// Requests whose peer went away before they had a whole answer.
    pub(crate) fn left(&self) -> usize {
        self.shared.left.load(Ordering::SeqCst)
    }
}

impl Drop for Rude {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let Some(length) = whole(&bytes) else {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            continue;
        };
        bytes.drain(..length);
        shared.arrived.fetch_add(1, Ordering::SeqCst);
        let manner = *shared.manner.lock().expect("no panic under the lock");
        match manner {
            Manner::Answer => {
                let body = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[]}}"#;
                stream.write_all(response("200 OK", "application/json", body).as_bytes()).await?;
            }
            Manner::Close => return Ok(()),
            Manner::Vanish => {
                shared.vanished.send_modify(|state| *state = (*state).max(1));
                drop(shared.vanished.subscribe().wait_for(|state| *state == 2).await);
                return Ok(());
            }
            Manner::Fail => {
                stream.write_all(response("500 Internal Server Error", "text/plain", "no").as_bytes()).await?;
            }
            Manner::Hang | Manner::Stream => {
                if manner == Manner::Stream {
                    let head =
                        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                    stream.write_all(format!("{head}e\r\n: it begins.\n\n\r\n").as_bytes()).await?;
                }
                // Both a read of nothing and an error mean that the peer is gone.
                drop(stream.read_buf(&mut bytes).await);
                shared.left.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
        }
    }
}

fn response(status: &str, content_type: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Length of the request at the beginning, once all of it is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let whole = head + length.unwrap_or_default();
    (bytes.len() >= whole).then_some(whole)
}
