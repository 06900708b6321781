//! The time of day. The only module that asks the operating system for it.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Tells the time and never goes back, so that no window of a quota can open twice.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Unix milliseconds; never less than an earlier answer of the same clock.
    fn now_ms(&self) -> u64;

    /// Unix nanoseconds as the machine has them now, for spans: they stand beside those of other processes, and may go back.
    fn unix_ns(&self) -> u64 {
        self.now_ms().saturating_mul(1_000_000)
    }
}

/// Unix milliseconds for people and machines; empty for times that no calendar knows.
#[must_use]
pub fn rfc3339(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(String::new, |time| time.to_string())
}

/// The same with exactly six digits of a second, as Kubernetes wants it.
#[must_use]
pub fn rfc3339_micros(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(String::new, |time| format!("{time:.6}"))
}

/// The clock of the machine, protected against steps back.
///
/// A step forward is followed at once. After a step back the time goes on from where it was, at the rate of the monotonic
/// clock: stopping it instead would keep windows and leases open for as long as the step was. A process that ever saw a
/// time far ahead stays there until it is started again.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    // INVARIANT: only grows. The largest difference ever seen between the wall clock and the milliseconds since `started`.
    offset_ms: AtomicU64,
}

impl SystemClock {
    /// Starts from the time of the machine.
    #[must_use]
    pub fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks of the machine")]
        let started = Instant::now();
        Self { started, offset_ms: AtomicU64::new(0) }
    }

    /// The answer for one reading of both clocks; `elapsed` is monotonic.
    fn advance(&self, elapsed: Duration, wall: Duration) -> u64 {
        let elapsed_ms = whole_ms(elapsed);
        let seen = whole_ms(wall).saturating_sub(elapsed_ms);
        let offset_ms = self.offset_ms.fetch_max(seen, Ordering::Relaxed).max(seen);
        elapsed_ms.saturating_add(offset_ms)
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks of the machine")]
        let wall = SystemTime::now();
        // A time before 1970 reads as 1970: the offset only grows, so the last good time goes on.
        self.advance(self.started.elapsed(), wall.duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn unix_ns(&self) -> u64 {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks of the machine")]
        let wall = SystemTime::now();
        u64::try_from(wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A clock that stands still until it is moved: for tests.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicU64,
}

impl ManualClock {
    /// Stands at `now_ms`.
    #[must_use]
    pub const fn new(now_ms: u64) -> Self {
        Self { now_ms: AtomicU64::new(now_ms) }
    }

    /// Moves forward by `ms`.
    pub fn advance_ms(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Moves forward to `now_ms`; a time in the past changes nothing.
    pub fn set_ms(&self, now_ms: u64) {
        self.now_ms.fetch_max(now_ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_step_back_is_ignored_and_the_time_goes_on() {
        let clock = SystemClock::new();
        assert_eq!(clock.advance(ms(0), ms(10_000)), 10_000);
        assert_eq!(clock.advance(ms(5), ms(4_000)), 10_005);
        assert_eq!(clock.advance(ms(1_000), ms(4_995)), 11_000);
    }

    #[test]
    fn a_step_forward_is_followed_at_once() {
        let clock = SystemClock::new();
        assert_eq!(clock.advance(ms(0), ms(10_000)), 10_000);
        assert_eq!(clock.advance(ms(1), ms(99_000)), 99_000);
    }

    #[test]
    fn the_system_clock_is_after_2020_and_does_not_go_back() {
        let clock = SystemClock::new();
        let first = clock.now_ms();
        assert!(first > 1_577_836_800_000);
        assert!(clock.now_ms() >= first);
    }

    #[test]
    fn a_manual_clock_moves_only_forward() {
        let clock = ManualClock::new(100);
        clock.advance_ms(5);
        clock.set_ms(50);
        assert_eq!(clock.now_ms(), 105);
        clock.set_ms(200);
        assert_eq!(clock.now_ms(), 200);
    }
}
