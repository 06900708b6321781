//! A TCP proxy that misbehaves on demand, one direction at a time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Each piece waits for so long.
    Delay(Duration),
    /// They vanish; the connection stays open.
    Drop,
    /// They go through.
    Pass,
    /// They wait until the flow changes.
    Stall,
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    target: SocketAddr,
    /// From the one who connected to the server.
    up: Flow,
    down: Flow,
    /// New connections are closed at once.
    closed: bool,
    /// Counts the orders to cut all connections.
    severed: u64,
}

/// See the module. Ends with its owner.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    rules: watch::Sender<Rules>,
    down_left: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens, and forwards to `target`.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let rules = Rules { target, up: Flow::Pass, down: Flow::Pass, closed: false, severed: 0 };
        let (rules, watched) = watch::channel(rules);
        let down_left = Arc::new(AtomicU64::new(u64::MAX));
        let accepting = tokio::spawn(accept(listener, watched, Arc::clone(&down_left)));
        Self { address, rules, down_left, accepting }
    }

    /// What happens to commands from now on.
    pub(crate) fn up(&self, flow: Flow) {
        self.rules.send_modify(|rules| rules.up = flow);
    }

    /// What happens to replies from now on.
    pub(crate) fn down(&self, flow: Flow) {
        self.rules.send_modify(|rules| rules.down = flow);
    }

    /// Both directions.
    pub(crate) fn both(&self, flow: Flow) {
        self.rules.send_modify(|rules| (rules.up, rules.down) = (flow, flow));
    }

    /// Cuts every connection; what waits in the proxy is lost.
    pub(crate) fn sever(&self) {
        self.rules.send_modify(|rules| rules.severed += 1);
    }

    /// Cuts every connection and refuses new ones, or lets them in again.
    pub(crate) fn close(&self, closed: bool) {
        self.rules.send_modify(|rules| {
            rules.closed = closed;
            rules.severed += 1;
        });
    }

    /// Cuts each connection as soon as `bytes` more of replies have gone through: in the middle of one, most of the time.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.down_left.store(bytes, Ordering::SeqCst);
    }

    /// Sends everybody to another server, as a service name does that points to the new master.
    pub(crate) fn retarget(&self, target: SocketAddr) {
        self.rules.send_modify(|rules| {
            rules.target = target;
            rules.severed += 1;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.sever();
    }
}

async fn accept(listener: TcpListener, rules: watch::Receiver<Rules>, down_left: Arc<AtomicU64>) {
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        let (rules, down_left) = (rules.clone(), Arc::clone(&down_left));
        let now = *rules.borrow();
        if now.closed {
            continue;
        }
        tokio::spawn(async move {
            let mut gone = rules.clone();
            let work = async {
                let Ok(far) = TcpStream::connect(now.target).await else { return };
                if near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).is_err() {
                    return;
                }
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                let unbounded = Arc::new(AtomicU64::new(u64::MAX));
                // The first of the two directions to end takes the other along: no half-open connections.
                tokio::select! {
                    () = pump(near_in, far_out, rules.clone(), |rules| rules.up, unbounded) => {}
                    () = pump(far_in, near_out, rules.clone(), |rules| rules.down, down_left) => {}
                }
            };
            tokio::select! {
                () = work => {}
                _ = gone.wait_for(|rules| rules.severed != now.severed) => {}
            }
        });
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut rules: watch::Receiver<Rules>,
    flow: fn(&Rules) -> Flow,
    left: Arc<AtomicU64>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        if rules.wait_for(|rules| flow(rules) != Flow::Stall).await.is_err() {
            return;
        }
        let now = flow(&rules.borrow());
        match now {
            Flow::Drop => continue,
            Flow::Delay(time) => tokio::time::sleep(time).await,
            Flow::Pass | Flow::Stall => {}
        }
        let allowed = left.load(Ordering::SeqCst);
        let cut = u64::try_from(length).expect("a small number") > allowed;
        let send = if cut { usize::try_from(allowed).expect("less than a buffer") } else { length };
        if to.write_all(&buffer[..send]).await.is_err() || cut {
            if cut {
                left.store(u64::MAX, Ordering::SeqCst);
            }
            return;
        }
        if allowed != u64::MAX {
            left.store(allowed - u64::try_from(send).expect("a small number"), Ordering::SeqCst);
        }
    }
}
