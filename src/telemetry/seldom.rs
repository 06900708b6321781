//! Room in the log for what goes wrong with one request, and then with thousands.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Between two messages. What is left out is counted by the metric beside each.
const EVERY: Duration = Duration::from_secs(10);

/// Lets one message pass every ten seconds.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// One that lets the first message pass.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether the log has room for the message now. Who asks must write it.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= EVERY);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_passes_every_ten_seconds() {
        let (seldom, start) = (Seldom::new(), Instant::now());
        let at = |ms| seldom.is_due_at(start + Duration::from_millis(ms));
        assert_eq!(
            [0, 0, 9_999, 10_000, 10_001, 19_999, 20_000].map(at),
            [true, false, false, true, false, false, true]
        );
    }
}
