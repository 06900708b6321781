//! Sinks that take whole batches and say when they have them.

use std::{fmt, future::Future, io};

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::telemetry::lines::Output;

/// Bytes of one batch, unless a single record is longer.
pub const BATCH_BYTES_MAX: usize = 262_144;

/// A place that keeps records and acknowledges them.
pub trait BatchSink: Send + 'static {
    /// Delivers lines, each with its line feed, and blocks until they are kept. After an error the same batch comes again, the
    /// same bytes, maybe with more behind them: whoever can tell which of them it has keeps each once.
    ///
    /// # Errors
    /// Nothing is known to be kept.
    fn deliver(&mut self, lines: &[u8]) -> io::Result<()>;
}

/// A sink whose client is asynchronous: runs on the runtime of the process, called from the thread that writes.
pub struct Remote<F> {
    handle: Handle,
    deliver: F,
}

impl<F> fmt::Debug for Remote<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

impl<F> Remote<F> {
    /// Delivers by calling `deliver`; its future has to end by itself, also if nobody answers.
    pub const fn new(handle: Handle, deliver: F) -> Self {
        Self { handle, deliver }
    }
}

impl<F, R, E> BatchSink for Remote<F>
where
    F: FnMut(Bytes) -> R + Send + 'static,
    R: Future<Output = Result<(), E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn deliver(&mut self, lines: &[u8]) -> io::Result<()> {
        self.handle.block_on((self.deliver)(Bytes::copy_from_slice(lines))).map_err(io::Error::other)
    }
}

/// A batch sink as an output of lines.
pub(super) struct Batches(pub(super) Box<dyn BatchSink>);

impl Output for Batches {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = whole_lines(bytes, BATCH_BYTES_MAX);
        self.0.deliver(bytes.get(..end).unwrap_or_default())?;
        Ok(end)
    }

    fn reopen(&mut self) -> io::Result<bool> {
        Ok(false)
    }
}

/// Bytes of the whole lines at the beginning that fit, but at least of the first line.
pub(super) fn whole_lines(bytes: &[u8], bytes_max: usize) -> usize {
    let fitting = bytes.get(..bytes_max.min(bytes.len())).unwrap_or_default();
    let last = fitting.iter().rposition(|byte| *byte == b'\n');
    let end = last.or_else(|| bytes.iter().position(|byte| *byte == b'\n'));
    end.map_or(bytes.len(), |at| at.saturating_add(1))
}
