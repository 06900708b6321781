//! Audit records on their way to a collector: each batch is taken, or the writer of the audit is told that it was not.

use std::io;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::logs::LineExport;
use crate::telemetry::audit::{BatchSink, Remote};

/// What the audit writes into. An attempt ends within the timeout of the collector.
pub fn sink(export: LineExport, runtime: Handle) -> impl BatchSink {
    Remote::new(runtime, move |batch: Bytes| {
        let export = export.clone();
        async move {
            let lines: Vec<&[u8]> = batch.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
            export.export_lines(&lines).await.map_err(io::Error::other)
        }
    })
}

#[cfg(test)]
mod tests;
