//! What every table needs: processes that end with their owner, waits with deadlines, raw clients, and recording servers.

pub(crate) mod authz;
pub(crate) mod client;
pub(crate) mod collector;
pub(crate) mod envoy;
pub(crate) mod fixture;
pub(crate) mod hand;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod message;
pub(crate) mod process;
pub(crate) mod rude;
pub(crate) mod shop;
pub(crate) mod stack;
pub(crate) mod stub;
pub(crate) mod upstream;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Long enough for a loaded machine; a wait that needs it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file that `tests/tools/install.sh <tool>` provides; fails the test with the command to run.
pub(crate) fn tool(tool: &str, file: &str) -> PathBuf {
    let path = root().join(".tools").join(file);
    assert!(path.exists(), "{} is missing: run tests/tools/install.sh {tool}", path.display());
    path
}

/// Polls until `condition` gives a value; panics with `what` once [`PATIENCE`] is used up.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

/// An address that the OS just said is free. The socket is closed again, since another process will bind it.
pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound")
}
