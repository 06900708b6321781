//! Pins beside the counters: a hash for each server, in the same slot, over the same connections.

use std::sync::Arc;

use redis::Value;
use tokio::time::Instant;

use super::{
    RedisLedger,
    link::Lane,
    script::{Form, Head, Malformed, SCRIPTS},
};
use crate::{
    pins::store::{Found, Store, StoreError, Version},
    quota::LedgerError,
};

/// Servers of one question.
const SERVERS_AT_ONCE: usize = 64;

fn key(head: &Head<'_>, server: &str) -> String {
    head.names.plain(&format!("pins:{server}"))
}

impl Store for RedisLedger {
    async fn read(&self, wanted: &[(Arc<str>, Version)], deadline: Instant) -> Result<Vec<Found>, StoreError> {
        let mut all = Vec::with_capacity(wanted.len());
        for wanted in wanted.chunks(SERVERS_AT_ONCE) {
            let question = |head: &Head<'_>, form: Form| {
                let mut command = SCRIPTS.pins_read.command(form, wanted.len());
                for (server, _) in wanted {
                    command.arg(key(head, server));
                }
                for (_, version) in wanted {
                    command.arg(version.as_str());
                }
                command
            };
            let read = |value: &Value| found(value, wanted.len());
            let answer = self.shared.ask(Lane::Control, question, read, Some(deadline)).await;
            all.extend(answer.map_err(error)?.0);
        }
        Ok(all)
    }

    async fn write(
        &self,
        server: &str,
        known: &Version,
        next: &Version,
        data: &Arc<[u8]>,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        let question = |head: &Head<'_>, form: Form| {
            let mut command = SCRIPTS.pins_write.command(form, 1);
            command.arg(key(head, server)).arg(known.as_str()).arg(next.as_str()).arg(&data[..]);
            command
        };
        let read = |value: &Value| {
            let Value::Int(won @ (0 | 1)) = value else { return Err(Malformed) };
            Ok(*won == 1)
        };
        Ok(self.shared.ask(Lane::Control, question, read, Some(deadline)).await.map_err(error)?.0)
    }
}

fn error(error: LedgerError) -> StoreError {
    StoreError(error.into())
}

fn found(value: &Value, servers: usize) -> Result<Vec<Found>, Malformed> {
    let Value::Array(items) = value else { return Err(Malformed) };
    if items.len() != servers {
        return Err(Malformed);
    }
    let one = |item: &Value| {
        let Value::Array(parts) = item else { return Err(Malformed) };
        let version = |text: &[u8]| std::str::from_utf8(text).map(Version::of_store).map_err(|_| Malformed);
        match parts.as_slice() {
            [] => Ok(Found::Nothing),
            [Value::BulkString(_)] => Ok(Found::Same),
            [Value::BulkString(text), Value::BulkString(data)] => {
                Ok(Found::Other { version: version(text)?, data: data.as_slice().into() })
            }
            _ => Err(Malformed),
        }
    };
    items.iter().map(one).collect()
}
