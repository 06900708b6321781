//! The stream of audit records: one JSON line per decision, off the request path.
//!
//! Owns where the lines go and what happens when they cannot; what a record says is the core's business. That a record was
//! taken means that it is in the buffer, not that it is on a disk.

use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::telemetry::{
    lines::{AppendFile, Event, Lines, Output, Refused, Stream, WhileFailing},
    metrics::{AuditOutcome, ErrorKind, Metrics},
};

/// Where audit records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Appended to this file, which is made readable for its owner only, and opened anew by [`AuditSink::reopen`].
    File(PathBuf),
    /// Nowhere.
    None,
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

/// Why a record was not kept.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The buffer is full: whoever reads the sink is too slow.
    #[error("audit buffer is full")]
    Full,
    /// Writes are failing, or the sink is closed.
    #[error("audit sink is not writable")]
    NotWritable,
    /// The record is not one line. A defect of ours.
    #[error("audit record holds a line feed")]
    NotOneLine,
    /// The sink could not be opened.
    #[error("audit sink cannot be opened: {sink:?}")]
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
    /// Opens the sink and starts its writer thread. `buffer_bytes_max` bounds what waits to be written, in bytes.
    ///
    /// # Errors
    /// [`AuditError::Open`]; the operator has to mend the path or its permissions.
    pub fn open(
        sink: &Sink,
        when_unavailable: WhenUnavailable,
        buffer_bytes_max: usize,
        metrics: Metrics,
    ) -> Result<Self, AuditError> {
        let failed = |source| AuditError::Open { sink: sink.clone(), source };
        let start = |lines: io::Result<Lines>| lines.map(Some).map_err(failed);
        let lines = match sink {
            Sink::File(path) => start(AppendFile::open(path).and_then(|file| lines(file, buffer_bytes_max, &metrics)))?,
            Sink::None => None,
            Sink::Stderr => start(Stream::stderr().and_then(|stream| lines(stream, buffer_bytes_max, &metrics)))?,
            Sink::Stdout => start(Stream::stdout().and_then(|stream| lines(stream, buffer_bytes_max, &metrics)))?,
        };
        Ok(Self { lines, when_unavailable, metrics })
    }

    /// Takes one record, serialized, without its line feed. Copies it and returns; never waits for the sink.
    ///
    /// # Errors
    /// Only under [`WhenUnavailable::Deny`]: the record was not kept, and the caller denies. Otherwise it is counted as dropped.
    pub fn append(&self, record: &[u8]) -> Result<(), AuditError> {
        let Some(lines) = &self.lines else { return Ok(()) };
        let while_failing = match self.when_unavailable {
            WhenUnavailable::Count => WhileFailing::Buffer,
            WhenUnavailable::Deny => WhileFailing::Refuse,
        };
        let error = if record.contains(&b'\n') {
            AuditError::NotOneLine
        } else {
            match lines.append(record, while_failing) {
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

fn lines(output: impl Output, bytes_max: usize, metrics: &Metrics) -> io::Result<Lines> {
    let metrics = metrics.clone();
    let failing = AtomicBool::new(false);
    Lines::start("audit", output, bytes_max, move |event| match event {
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
mod tests;
