//! What every scenario needs: servers, a proxy, engines as replicas use them, worker processes, and the judges of their logs.

pub(crate) mod linear;
pub(crate) mod load;
pub(crate) mod log;
pub(crate) mod proxy;
pub(crate) mod replica;
pub(crate) mod resp;
pub(crate) mod server;
pub(crate) mod store;
pub(crate) mod worker;

use std::time::Duration;

/// Long enough for a loaded machine; a wait that needs it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// How much longer than usual a soak run is: `QUOTA_SOAK=20` makes every phase that is bounded by time or count so many times
/// as long.
pub(crate) fn soak() -> u32 {
    std::env::var("QUOTA_SOAK").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Polls until `condition` gives a value; panics with `what` once [`PATIENCE`] is used up.
pub(crate) async fn until<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    poll(condition).await.unwrap_or_else(|| panic!("waited in vain until {what}"))
}

/// Polls until `condition` gives a value; `None` once [`PATIENCE`] is used up.
pub(crate) async fn poll<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let polling = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.ok()
}

/// Random numbers that can be had again: splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The dice of one test: from `QUOTA_SEED` if it is set, and told, so that a failure can be repeated.
    pub(crate) fn for_test(name: &str) -> Self {
        let given = std::env::var("QUOTA_SEED").ok().map(|seed| seed.parse().expect("QUOTA_SEED is a number"));
        let seed = given.unwrap_or_else(|| Self::from_os().next());
        eprintln!("{name}: QUOTA_SEED={seed}");
        Self(seed)
    }

    /// Dice that nobody can repeat.
    pub(crate) fn from_os() -> Self {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the operating system has randomness");
        Self(u64::from_le_bytes(bytes))
    }

    /// Dice from a number.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to below `high`.
    pub(crate) const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    /// True in so many of a hundred cases.
    pub(crate) const fn percent(&mut self, cases: u64) -> bool {
        self.next() % 100 < cases
    }
}
