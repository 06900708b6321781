//! Accept loops: they never end by an error, and they hand connections on without waiting for a handshake.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::worker::{Connection, PoolHandle, Socket};
use super::{Bound, Event, Observer, SocketFile};

/// First pause after a failed accept. A process without free descriptors would otherwise spin.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// Longest pause after failed accepts.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Registers the listener with the runtime and accepts from it until the set is shut down.
pub(super) fn spawn(tasks: &mut JoinSet<()>, bound: Bound, dispatcher: Dispatcher) -> io::Result<()> {
    match bound {
        Bound::Tcp(listener) => {
            tasks.spawn(run(TcpListener::from_std(listener)?, dispatcher));
        }
        Bound::Unix(listener, file) => {
            tasks.spawn(run(Unix { listener: UnixListener::from_std(listener)?, _file: file }, dispatcher));
        }
    }
    Ok(())
}

/// Something that accepts connections.
pub(super) trait Listen: Send + 'static {
    /// The next connection, as a socket that no runtime knows, to be registered with the worker's.
    fn accept(&mut self) -> impl Future<Output = io::Result<Socket>> + Send;
}

impl Listen for TcpListener {
    async fn accept(&mut self) -> io::Result<Socket> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.into_std().map(Socket::Tcp)
    }
}

/// The file is removed when accepting ends.
struct Unix {
    listener: UnixListener,
    _file: SocketFile,
}

impl Listen for Unix {
    async fn accept(&mut self) -> io::Result<Socket> {
        let (stream, _) = self.listener.accept().await?;
        stream.into_std().map(Socket::Unix)
    }
}

/// Gives connections to the workers, up to a limit.
pub(super) struct Dispatcher {
    places: Arc<Semaphore>,
    pool: PoolHandle,
    observer: Observer,
}

impl Dispatcher {
    pub(super) fn new(places: Arc<Semaphore>, pool: PoolHandle, observer: Observer) -> Self {
        Self { places, pool, observer }
    }

    async fn dispatch(&self, socket: Socket) {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => {
                (self.observer)(Event::ConnectionOpened);
                self.pool.send(Connection { socket, place }).await;
            }
            Err(_) => (self.observer)(Event::ConnectionRefused),
        }
    }
}

pub(super) async fn run(mut listener: impl Listen, dispatcher: Dispatcher) {
    let mut pause = PAUSE_MIN;
    loop {
        match listener.accept().await {
            Ok(socket) => {
                if pause > PAUSE_MIN {
                    tracing::info!("accepting connections again");
                }
                pause = PAUSE_MIN;
                dispatcher.dispatch(socket).await;
            }
            // The peer went away while it was queued: nothing is wrong with us.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                (dispatcher.observer)(Event::AcceptFailed);
                if pause == PAUSE_MIN {
                    tracing::warn!(%error, "cannot accept a connection; trying again until it works");
                }
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(PAUSE_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Fails as often as told, then waits forever.
    struct Broken {
        failures: u32,
        kind: ErrorKind,
        done: Arc<tokio::sync::Notify>,
    }

    impl Listen for Broken {
        async fn accept(&mut self) -> io::Result<Socket> {
            let Some(left) = self.failures.checked_sub(1) else {
                self.done.notify_one();
                return std::future::pending().await;
            };
            self.failures = left;
            Err(self.kind.into())
        }
    }

    async fn survive(kind: ErrorKind) -> (u32, Duration) {
        let events = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&events);
        let observer: Observer = Arc::new(move |event| {
            assert_eq!(event, Event::AcceptFailed);
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let done = Arc::new(tokio::sync::Notify::new());
        let listener = Broken { failures: 20, kind, done: Arc::clone(&done) };
        let dispatcher = Dispatcher::new(Arc::new(Semaphore::new(1)), PoolHandle::default(), observer);
        let begun = tokio::time::Instant::now();
        let task = tokio::spawn(run(listener, dispatcher));
        done.notified().await;
        task.abort();
        (events.load(Ordering::Relaxed), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn accepting_goes_on_after_errors_with_growing_pauses() {
        // What a process without free descriptors gets, again and again.
        let (events, elapsed) = survive(ErrorKind::Other).await;
        assert_eq!(events, 20);
        assert!(elapsed > Duration::from_secs(10) && elapsed < Duration::from_secs(20), "{elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_went_away_while_queued_costs_no_pause() {
        assert_eq!(survive(ErrorKind::ConnectionAborted).await, (0, Duration::ZERO));
    }
}
