//! Quotas under fire: the real engine on real `redis-server` processes that stall, lose, fail over, and clients that are killed.
//!
//! Every scenario lets clients write down what they were told and what ran, and holds that against the limits and against what
//! the store counts afterwards. Each prints its seed; `QUOTA_SEED` repeats it, `QUOTA_SOAK` makes it longer. Nothing here sleeps
//! for luck: every wait polls a condition and has a deadline.
#![expect(clippy::arithmetic_side_effects, reason = "sums over small tables; an overflow would only fail a test")]

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod failover;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod loss;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod order;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod sentinel;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod stress;
