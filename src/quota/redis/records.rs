//! Audit records beside the counters: a stream in the same slot, over the same connections.

use std::time::Duration;

use mcp_authz_core::audit::line::place;
use redis::Value;
use tokio::time::Instant;

use super::{
    RedisLedger,
    link::Lane,
    script::{Form, Head, Malformed, SCRIPTS},
};
use crate::quota::LedgerError;

/// For how long a chain is remembered after its last batch, so that none is kept twice: longer than one is sent again.
const CHAIN_KEEP_MS: u64 = 86_400_000;

/// Records of one question: few enough that a reservation behind it waits no longer than behind another settlement.
const RECORDS_AT_ONCE: usize = 64;
/// Name of the stream, behind the prefix of all our keys.
const STREAM: &str = "audit";

impl RedisLedger {
    /// Appends records to the stream and keeps about the last `entries_max`. All lines are of one chain. Asking again with the
    /// same records changes nothing.
    ///
    /// # Errors
    /// See [`LedgerError`]; it is not known whether they are kept.
    pub async fn keep_records(&self, lines: &[u8], entries_max: u64, within: Duration) -> Result<(), LedgerError> {
        let lines = lines.split(|byte| *byte == b'\n');
        let records: Vec<_> = lines.filter_map(|line| Some((place(line)?, line))).collect();
        let deadline = Instant::now().checked_add(within);
        for records in records.chunks(RECORDS_AT_ONCE) {
            let Some((first, _)) = records.first() else { continue };
            let question = |head: &Head<'_>, form: Form| {
                let mut command = SCRIPTS.records.command(form, 2);
                command.arg(head.names.plain(STREAM)).arg(head.names.plain(&format!("{STREAM}:{}", first.chain)));
                command.arg(entries_max).arg(CHAIN_KEEP_MS);
                for (place, line) in records {
                    command.arg(place.seq).arg(*line);
                }
                command
            };
            let read = |value: &Value| if matches!(value, Value::Int(_)) { Ok(()) } else { Err(Malformed) };
            self.shared.ask(Lane::Control, question, read, deadline).await?;
        }
        Ok(())
    }
}
