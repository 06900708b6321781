//! The stream of audit records: numbered, linked and written off the request path.
//!
//! Owns where the lines go and what happens when they cannot; what a record says is the core's business. That a record was
//! taken means that it is in the buffer, not that it is on a disk. The one thread that writes also gives each record its place in
//! the chain, so a batch that fails half way is sent again as it is, and what was never taken is told by a record of its own.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mcp_authz_core::audit::chain::{Chain, Hash, LINE_BYTES_MAX, Signer};

use crate::{
    clock::{Clock, SystemClock},
    quota::random_bytes,
    telemetry::{
        lines::{Event, Lines, Output, Refused, Stream, WhileFailing},
        metrics::{AuditOutcome, ErrorKind, Metrics},
    },
};

mod batch;
mod file;
pub mod key;
#[cfg(test)]
pub(crate) mod read_back;
mod seal;

pub use batch::{BATCH_BYTES_MAX, BatchSink, Remote};
pub use file::{Rotation, rotated};

use batch::Batches;
use file::AuditFile;
use seal::Sealing;

/// Where audit records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Appended to this file, which is made readable for its owner only, and opened anew by [`AuditSink::reopen`].
    File(PathBuf),
    /// Nowhere.
    None,
    /// To an OpenTelemetry collector, as logs.
    Otlp,
    /// Into a stream of the Redis that has the counters.
    Redis,
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
}

/// What happens to a decision whose record cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnavailable {
    /// The record is dropped and counted.
    Count,
    /// [`AuditSink::append`] fails and the caller denies: the setting `audit.fail_closed`.
    Deny,
}

/// When a record about the chain itself is written, so that little is open to doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    /// After so many records.
    pub records: u64,
    /// After so long, if there are records since the last one.
    pub every: Duration,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { records: 1_000, every: Duration::from_secs(60) }
    }
}

/// What a sink is opened with.
pub struct Settings {
    /// What happens when it cannot be written.
    pub when_unavailable: WhenUnavailable,
    /// Bytes that wait to be written.
    pub buffer_bytes_max: usize,
    /// When files end.
    pub rotation: Rotation,
    /// When checkpoints are written; only with a signer.
    pub checkpoints: Checkpoints,
    /// Signs them.
    pub signer: Option<Box<dyn Signer>>,
    /// Dates records about the chain.
    pub clock: Arc<dyn Clock>,
    /// The other end of [`Sink::Otlp`] and [`Sink::Redis`].
    pub remote: Option<Box<dyn BatchSink>>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("buffer_bytes_max", &self.buffer_bytes_max).finish_non_exhaustive()
    }
}

/// What could not be opened, and what it needs.
fn unopened(sink: &Sink) -> String {
    match sink {
        Sink::File(path) => format!(
            "the audit file `{}` cannot be opened: its folder must be there, and the user of this process may write there",
            path.display()
        ),
        other @ (Sink::None | Sink::Otlp | Sink::Redis | Sink::Stderr | Sink::Stdout) => {
            format!("the audit sink {other:?} cannot be opened")
        }
    }
}

/// Why a record was not kept.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The buffer is full: whoever reads the sink is too slow.
    #[error("audit buffer is full")]
    Full,
    /// Writes are failing, or the sink is closed.
    #[error("audit sink is not writable")]
    NotWritable,
    /// The record is not one line of a bounded length. A defect of ours.
    #[error("audit record is not one line")]
    NotOneLine,
    /// The sink could not be opened.
    #[error("{}", unopened(sink))]
    Open {
        /// What was to be opened.
        sink: Sink,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Some records were not written when the time was over.
    #[error("audit records were not all written in {within_ms} ms")]
    Unwritten {
        /// Time given, in milliseconds.
        within_ms: u128,
    },
}

/// Takes audit records. Share it behind an `Arc`; close it at the end.
#[derive(Debug)]
pub struct AuditSink {
    lines: Option<Lines>,
    when_unavailable: WhenUnavailable,
    metrics: Metrics,
}

impl AuditSink {
    /// Opens the sink with nothing but the necessary: no signature, no end of files.
    ///
    /// # Errors
    /// [`AuditError::Open`]; the operator has to mend the path or its permissions.
    pub fn open(
        sink: &Sink,
        when_unavailable: WhenUnavailable,
        buffer_bytes_max: usize,
        metrics: Metrics,
    ) -> Result<Self, AuditError> {
        let settings = Settings {
            when_unavailable,
            buffer_bytes_max,
            rotation: Rotation::default(),
            checkpoints: Checkpoints::default(),
            signer: None,
            clock: Arc::new(SystemClock::new()),
            remote: None,
        };
        Self::open_with(sink, settings, metrics)
    }

    /// Opens the sink and starts its writer thread.
    ///
    /// # Errors
    /// [`AuditError::Open`]; the operator has to mend the path or its permissions.
    pub fn open_with(sink: &Sink, settings: Settings, metrics: Metrics) -> Result<Self, AuditError> {
        let when_unavailable = settings.when_unavailable;
        let lines = Self::start(sink, settings, &metrics);
        let lines = lines.map_err(|source| AuditError::Open { sink: sink.clone(), source })?;
        Ok(Self { lines, when_unavailable, metrics })
    }

    fn start(sink: &Sink, mut settings: Settings, metrics: &Metrics) -> io::Result<Option<Lines>> {
        let remote = settings.remote.take();
        let lines = match sink {
            Sink::File(path) => {
                let (file, previous) = AuditFile::open(path, settings.rotation)?;
                lines(file, settings, previous, metrics)?
            }
            Sink::None => return Ok(None),
            Sink::Otlp | Sink::Redis => {
                let remote = remote.ok_or_else(|| io::Error::other("this sink has nothing to send through"))?;
                lines(Batches(remote), settings, None, metrics)?
            }
            Sink::Stderr => lines(Stream::stderr()?, settings, None, metrics)?,
            Sink::Stdout => lines(Stream::stdout()?, settings, None, metrics)?,
        };
        Ok(Some(lines))
    }

    /// Takes the draft of one record, without a line feed. Copies it and returns; never waits for the sink.
    ///
    /// # Errors
    /// Only under [`WhenUnavailable::Deny`]: the record was not kept, and the caller denies. Otherwise it is counted as dropped.
    pub fn append(&self, draft: &[u8]) -> Result<(), AuditError> {
        let Some(lines) = &self.lines else { return Ok(()) };
        let while_failing = match self.when_unavailable {
            WhenUnavailable::Count => WhileFailing::Buffer,
            WhenUnavailable::Deny => WhileFailing::Refuse,
        };
        let error = if draft.contains(&b'\n') || draft.len() > LINE_BYTES_MAX {
            lines.refuse();
            AuditError::NotOneLine
        } else {
            match lines.append(draft, while_failing) {
                Ok(()) => return Ok(()),
                Err(Refused::Full) => AuditError::Full,
                Err(Refused::Closed | Refused::Failing) => AuditError::NotWritable,
            }
        };
        self.metrics.audit_records(AuditOutcome::Dropped, 1);
        match self.when_unavailable {
            WhenUnavailable::Count => Ok(()),
            WhenUnavailable::Deny => Err(error),
        }
    }

    /// Opens the file anew, for log rotation on SIGHUP. Lines already handed over stay in the old file. Nothing happens to the
    /// other kinds of sink.
    pub fn reopen(&self) {
        if let Some(lines) = &self.lines {
            lines.reopen();
        }
    }

    /// Takes no more records and writes out those it has, at most for `within`. Blocks; call it last, off the runtime.
    ///
    /// # Errors
    /// [`AuditError::Unwritten`] if the sink stalled or failed to the end.
    pub fn close(&self, within: Duration) -> Result<(), AuditError> {
        match &self.lines {
            Some(lines) if !lines.close(within) => Err(AuditError::Unwritten { within_ms: within.as_millis() }),
            Some(_) | None => Ok(()),
        }
    }
}

fn lines(output: impl Output, settings: Settings, previous: Option<Hash>, metrics: &Metrics) -> io::Result<Lines> {
    let id = random_bytes().map_err(io::Error::other)?;
    let chain = Chain::new(id, previous, settings.signer);
    let sealing = Sealing::new(chain, settings.checkpoints, settings.clock);
    let metrics = metrics.clone();
    let failing = AtomicBool::new(false);
    Lines::start("audit", output, sealing, settings.buffer_bytes_max, move |event| match event {
        Event::Dropped(n) => metrics.audit_records(AuditOutcome::Dropped, n),
        Event::Failed(error) => {
            metrics.audit_records(AuditOutcome::Failed, 1);
            if !failing.swap(true, Ordering::Relaxed) {
                metrics.error(ErrorKind::Audit);
                tracing::error!(error = %error, "audit records cannot be written");
            }
        }
        Event::Written(n) => {
            metrics.audit_records(AuditOutcome::Written, n);
            if failing.swap(false, Ordering::Relaxed) {
                tracing::info!("audit records are written again");
            }
        }
    })
}

#[cfg(test)]
pub(crate) mod tests;
