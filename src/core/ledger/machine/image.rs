//! A machine as bytes and back, and the one correction that only whoever keeps it over restarts needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::apply::reindex;
use super::{Bounds, Counter, End, Machine, Pending, Phase, Record, Row, State};
use crate::ledger::bytes::{Reader, put_len, put_option, put_text, put_u64, put_u128};
use crate::ledger::{Attempt, CounterId};
use crate::quota::Fingerprint;

impl Machine {
    /// Everything that the machine holds. Equal machines give equal bytes.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let counters: BTreeMap<_, _> = self.counters.iter().collect();
        put_len(&mut out, counters.len());
        for ((id, letter), counter) in counters {
            put_u128(&mut out, id.0);
            out.push(u8::try_from(u32::from(*letter)).unwrap_or(0));
            counter.write(&mut out);
        }
        let records: BTreeMap<_, _> = self.records.iter().collect();
        put_len(&mut out, records.len());
        for (id, record) in records {
            put_text(&mut out, id);
            record.write(&mut out);
        }
        out
    }

    /// The machine of an image; `None` if the bytes are none. It may hold more than the bounds allow, and then takes nothing
    /// new until enough has ended.
    #[must_use]
    pub fn of_image(bytes: &[u8], bounds: Bounds) -> Option<Self> {
        let mut machine = Self::new(bounds);
        let mut reader = Reader(bytes);
        let counters = reader.list(|reader| {
            let (id, letter) = (CounterId(reader.u128()?), char::from(reader.u8()?));
            Some(((id, letter), Counter::read(reader, letter)?))
        })?;
        for (key, mut counter) in counters {
            reindex(&mut machine.ends, &mut counter, key);
            machine.counters.insert(key, counter);
        }
        let records = reader.list(|reader| Some((Arc::<str>::from(reader.text()?), Record::read(reader)?)))?;
        for (id, record) in records {
            machine.ends.insert((record.ends_ms, End::Record(Arc::clone(&id))));
            machine.records.insert(id, record);
        }
        reader.is_done().then_some(machine)
    }

    /// Changes the bounds; what is held stays.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Tells the machine that its clock was ahead by so much: everything has as long to go as it had. Starts of calendar
    /// windows stay, since nobody knows which window was meant; what is used of them ends with the time that they had left.
    pub fn set_back(&mut self, ms: u64) {
        self.ends.clear();
        for (key, counter) in &mut self.counters {
            counter.set_back(ms);
            reindex(&mut self.ends, counter, *key);
        }
        for (id, record) in &mut self.records {
            record.ends_ms = record.ends_ms.saturating_sub(ms);
            record.since_ms = record.since_ms.saturating_sub(ms);
            self.ends.insert((record.ends_ms, End::Record(Arc::clone(id))));
        }
    }
}

impl Counter {
    fn set_back(&mut self, ms: u64) {
        let back = |time_ms: u64| time_ms.saturating_sub(ms);
        // Zero means that it was forgotten already.
        self.ends_ms = self.ends_ms.map(|ends_ms| if ends_ms == 0 { 0 } else { back(ends_ms).max(1) });
        self.pending_ends_ms = self.pending_ends_ms.map(back);
        self.indexed_ms = None;
        let pending = std::mem::take(&mut self.pending).into_iter();
        let pending =
            pending.map(|((ends_ms, id), row)| ((back(ends_ms), id), Pending { since_ms: back(row.since_ms), ..row }));
        self.pending = pending.collect();
        match &mut self.state {
            State::InFlight { slots } => slots.values_mut().for_each(|end| *end = back(*end)),
            State::TokenBucket { full_at_us } => *full_at_us = full_at_us.saturating_sub(ms.saturating_mul(1_000)),
            State::Calendar { .. } | State::Lifetime { .. } | State::Rolling { .. } | State::Streak { .. } => {}
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match &self.state {
            State::Calendar { window, used } => [*window, *used].into_iter().for_each(|number| put_u64(out, number)),
            State::InFlight { slots } => {
                put_len(out, slots.len());
                for (id, end) in slots {
                    put_text(out, id);
                    put_u64(out, *end);
                }
            }
            State::Lifetime { used } => put_u64(out, *used),
            State::Rolling { buckets } => {
                put_len(out, buckets.len());
                buckets.iter().flat_map(|(bucket, used)| [*bucket, *used]).for_each(|number| put_u64(out, number));
            }
            State::Streak { fingerprint, count } => {
                out.extend_from_slice(&fingerprint.0);
                put_u64(out, *count);
            }
            State::TokenBucket { full_at_us } => put_u64(out, *full_at_us),
        }
        put_option(out, self.ends_ms);
        put_len(out, self.pending.len());
        for ((ends_ms, id), row) in &self.pending {
            put_u64(out, *ends_ms);
            put_text(out, id);
            [row.amount, row.window, row.since_ms].into_iter().for_each(|number| put_u64(out, number));
        }
        put_option(out, self.pending_ends_ms);
    }

    fn read(reader: &mut Reader<'_>, letter: char) -> Option<Self> {
        let state = match letter {
            'c' => State::Calendar { window: reader.u64()?, used: reader.u64()? },
            'f' => {
                let slots = reader.list(|reader| Some((Arc::from(reader.text()?), reader.u64()?)))?;
                State::InFlight { slots: slots.into_iter().collect() }
            }
            'l' => State::Lifetime { used: reader.u64()? },
            'r' => {
                let buckets = reader.list(|reader| Some((reader.u64()?, reader.u64()?)))?;
                State::Rolling { buckets: buckets.into_iter().collect() }
            }
            's' => State::Streak { fingerprint: Fingerprint(reader.bytes_16()?), count: reader.u64()? },
            'g' => State::TokenBucket { full_at_us: reader.u64()? },
            _ => return None,
        };
        let ends_ms = reader.option()?;
        let pending: Vec<(Row, Pending)> = reader.list(|reader| {
            let row = (reader.u64()?, Arc::from(reader.text()?));
            Some((row, Pending { amount: reader.u64()?, window: reader.u64()?, since_ms: reader.u64()? }))
        })?;
        let pending_ends_ms = reader.option()?;
        Some(Self { state, ends_ms, pending: pending.into_iter().collect(), pending_ends_ms, indexed_ms: None })
    }
}

impl Record {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(match self.phase {
            Phase::Held => b'h',
            Phase::RolledBack => b'x',
            Phase::Settled => b'c',
            Phase::Shared => b'p',
        });
        let numbers = [self.digest, self.attempt.0, self.since_ms, self.ends_ms];
        numbers.into_iter().for_each(|number| put_u64(out, number));
        put_len(out, self.lines.len());
        self.lines.iter().flat_map(|(amount, window)| [*amount, *window]).for_each(|number| put_u64(out, number));
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let phase = match reader.u8()? {
            b'h' => Phase::Held,
            b'x' => Phase::RolledBack,
            b'c' => Phase::Settled,
            b'p' => Phase::Shared,
            _ => return None,
        };
        let (digest, attempt) = (reader.u64()?, Attempt(reader.u64()?));
        let (since_ms, ends_ms) = (reader.u64()?, reader.u64()?);
        let lines = reader.list(|reader| Some((reader.u64()?, reader.u64()?)))?;
        Some(Self { phase, digest, attempt, since_ms, lines: lines.into(), ends_ms })
    }
}
