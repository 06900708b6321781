//! What the writer thread makes of drafts: records in their chain, with checkpoints between them.

use std::{io::BufRead as _, sync::Arc, time::Duration};

use mcp_authz_core::audit::chain::Chain;
use tokio::time::Instant;

use super::Checkpoints;
use crate::{clock::Clock, telemetry::lines::Stage};

/// See the module.
#[derive(Debug)]
pub(super) struct Sealing {
    chain: Chain,
    checkpoints: Checkpoints,
    clock: Arc<dyn Clock>,
    /// Number of the record from which on the next checkpoint is counted.
    since: u64,
    /// When the first record since then was written.
    first: Option<Instant>,
}

impl Sealing {
    pub(super) fn new(chain: Chain, checkpoints: Checkpoints, clock: Arc<dyn Clock>) -> Self {
        Self { chain, checkpoints, clock, since: 0, first: None }
    }

    /// The start of the chain promises that there are never more records between two.
    fn checkpoint_if_due(&mut self, out: &mut Vec<u8>) {
        if self.chain.is_signed() && self.chain.seq().saturating_sub(self.since) >= self.checkpoints.records {
            self.checkpoint(out);
        }
    }

    fn checkpoint(&mut self, out: &mut Vec<u8>) {
        self.chain.checkpoint(self.clock.now_ms(), out);
        self.since = self.chain.seq();
        self.first = None;
    }
}

impl Stage for Sealing {
    fn pass(&mut self, taken: &mut Vec<u8>, lost: u64, out: &mut Vec<u8>) {
        // A line gets about this much longer.
        out.reserve(taken.len().saturating_mul(3) / 2);
        let mut rest = &taken[..];
        while !rest.is_empty() {
            // Reading from memory does not fail; this way is many times as fast as one byte after the other.
            let (all, Ok(length)) = (rest, rest.skip_until(b'\n')) else { break };
            let line = all.get(..length).unwrap_or_default();
            let draft = line.strip_suffix(b"\n").unwrap_or(line);
            if !self.chain.seal(draft, out) {
                self.chain.gap(self.clock.now_ms(), 1, out);
            }
            self.checkpoint_if_due(out);
        }
        // Refused because of what was just taken, so they belong behind it.
        if lost > 0 {
            self.chain.gap(self.clock.now_ms(), lost, out);
            self.checkpoint_if_due(out);
        }
        if !self.chain.is_signed() || self.chain.seq() == self.since {
            return;
        }
        let first = *self.first.get_or_insert_with(Instant::now);
        if first.elapsed() >= self.checkpoints.every {
            self.checkpoint(out);
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        let records = Some(self.checkpoints.records);
        self.chain.start(self.clock.now_ms(), env!("CARGO_PKG_VERSION"), records, out);
        self.since = self.chain.seq();
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.chain.end(self.clock.now_ms(), out);
    }

    fn patience(&self) -> Option<Duration> {
        let first = self.first.filter(|_| self.chain.is_signed())?;
        Some(self.checkpoints.every.saturating_sub(first.elapsed()))
    }
}
