//! What is done with the data of a store: its epoch, its secret, and what has to be counted again.

use std::sync::{Arc, atomic::Ordering};

use redis::Value;
use tokio::time::Instant;

use super::{Keeper, Unlinked, part};
use crate::quota::{
    Keys,
    redis::{
        Event,
        connection::Connection,
        failure::Failure,
        journal::{Entry, SPAN_MS},
        link::{Lane, Link},
        script::{Form, Head, SCRIPTS, Script, millis, numbers},
        server::{text, until},
    },
};

/// Bookings that are told in one go.
const BATCH: usize = 200;
/// What a heartbeat can lag behind the data, ms: two looks.
const BEAT_SLACK_MS: u64 = 2_000;

impl Keeper {
    /// Makes the epoch, takes it over, or says that it is not the one we knew.
    pub(super) async fn open(&mut self, control: &Connection, fenced: bool) -> Result<Opened, Unlinked> {
        let shared = Arc::clone(&self.shared);
        let (covers_ms, evicted_ms) = {
            let journal = shared.journal();
            (journal.covers_ms(), journal.evicted_ms())
        };
        let oldest_ms = if fenced { covers_ms.min(SPAN_MS).saturating_sub(BEAT_SLACK_MS).max(1) } else { 0 };
        let fence_ms = if fenced { millis(shared.settings.fence) } else { 0 };
        let word = hex(&random::<8>()?);
        let ours = match (&shared.secret, &*self.known.secret) {
            (Some(file), _) => file.mark.clone(),
            (None, "") => hex(&random::<32>()?),
            (None, known) => known.to_owned(),
        };
        let names = &shared.names;
        let keys = [names.plain("epoch"), names.plain("secret"), names.plain("accepted"), names.plain("beat")];
        let arguments = [
            word,
            self.known.epoch.clone(),
            ours,
            fence_ms.to_string(),
            self.known.beat_ms.to_string(),
            oldest_ms.to_string(),
            millis(shared.settings.fence).to_string(),
            if fenced { evicted_ms } else { 0 }.to_string(),
        ];
        let asked = Instant::now();
        let value = evaluate(control, &SCRIPTS.open, &keys, &arguments).await?;
        let (status, now_ms, rest) = numbers(&value).map_err(|_| Failure::Malformed)?;
        shared.learn_time(now_ms.saturating_add(millis(asked.elapsed()) / 2));
        let [line, secret] = rest else { return Err(Failure::Malformed.into()) };
        let line = text(line).ok_or(Failure::Malformed)?;
        let [epoch, fence, _] =
            <[&str; 3]>::try_from(line.split(' ').collect::<Vec<_>>()).map_err(|_| Failure::Malformed)?;
        let (epoch, fenced_until_ms) = (epoch.to_owned(), fence.parse::<u64>().map_err(|_| Failure::Malformed)?);
        if self.known.epoch.is_empty() {
            let longest_ms = millis(shared.settings.fence);
            let wait_ms = fenced_until_ms.saturating_sub(now_ms).min(longest_ms);
            shared.first_fence_ms.store(wait_ms, Ordering::Relaxed);
        }
        let secret = text(secret).ok_or(Failure::Malformed)?;
        self.take_secret(secret)?;
        let status = match status {
            1 => Status::AsKnown,
            0 | 2 => Status::New,
            3 => Status::Lost,
            _ => return Err(Failure::Malformed.into()),
        };
        if status == Status::Lost {
            tracing::error!(
                "Counts of the quota store were lost. Limits deny until the windows that are concerned have passed; \
                 limits without a window deny until the loss is accepted."
            );
            (shared.observer)(Event::CountsLost);
        }
        // From now on this is the data that we know: if the next step fails, the loss has been told all the same.
        self.known.epoch.clone_from(&epoch);
        Ok(Opened { epoch, status, now_ms })
    }

    /// Names of counters come from the secret; other replicas must have the same.
    fn take_secret(&mut self, secret: &str) -> Result<(), Unlinked> {
        if let Some(file) = &self.shared.secret {
            return if secret == file.mark { Ok(()) } else { Err(Unlinked::OtherSecret) };
        }
        if self.known.secret != secret {
            let bytes = unhex(secret).ok_or(Unlinked::OtherSecret)?;
            self.shared.keys.store(Arc::new(Keys::derive(&bytes)));
            secret.clone_into(&mut self.known.secret);
        }
        Ok(())
    }

    /// Tells the master every booking that it may have missed.
    pub(super) async fn replay(&self, control: &Connection, epoch: &str, fenced: bool) -> Result<(), Unlinked> {
        let keys = self.shared.keys.load_full();
        let entries = self.shared.journal().holds(&keys);
        let head = Head { names: &self.shared.names, epoch, node: "" };
        let mut fenced_at = Instant::now();
        for batch in entries.chunks(BATCH) {
            if fenced && fenced_at.elapsed() > part(self.shared.settings.fence, 2) {
                fenced_at = Instant::now();
                self.fence_again(control, epoch).await?;
            }
            tell(control, &head, batch).await?;
        }
        if !entries.is_empty() {
            tracing::info!(
                bookings = entries.len(),
                "Bookings of the last seconds were told to the quota store again."
            );
        }
        Ok(())
    }

    /// Others must not be let in before we have told everything.
    async fn fence_again(&self, control: &Connection, epoch: &str) -> Result<(), Unlinked> {
        let names = &self.shared.names;
        let keys = [names.plain("epoch"), names.plain("secret"), names.plain("accepted"), names.plain("beat")];
        let secret = self.shared.secret.as_ref().map_or(&self.known.secret, |file| &file.mark).clone();
        let fence_ms = millis(self.shared.settings.fence).to_string();
        let zero = || "0".to_owned();
        let arguments = ["-".to_owned(), epoch.to_owned(), secret, fence_ms, zero(), zero(), zero(), zero()];
        evaluate(control, &SCRIPTS.open, &keys, &arguments).await?;
        Ok(())
    }

    /// Counts calls that were let go while the store was away.
    pub(super) async fn count_unmetered(&self, link: &Arc<Link>) {
        let keys = self.shared.keys.load_full();
        loop {
            let taken = self.shared.journal().take_unmetered(BATCH);
            if taken.is_empty() {
                return;
            }
            let all = taken.len();
            let known: Vec<Entry> = taken.into_iter().filter(|entry| Arc::ptr_eq(&entry.keys, &keys)).collect();
            let lost = all.saturating_sub(known.len());
            if lost > 0 {
                (self.shared.observer)(Event::Uncounted(u64::try_from(lost).unwrap_or(u64::MAX)));
            }
            if tell(link.connection(Lane::Control), &link.head(), &known).await.is_err() {
                self.shared.journal().put_back(known);
                return;
            }
        }
    }
}

pub(super) struct Opened {
    pub(super) epoch: String,
    pub(super) status: Status,
    /// The store's time.
    pub(super) now_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    AsKnown,
    Lost,
    New,
}

/// Tells bookings in one go. Telling one twice changes nothing.
async fn tell(connection: &Connection, head: &Head<'_>, entries: &[Entry]) -> Result<(), Failure> {
    let mut form = Form::Sha;
    loop {
        let mut pipeline = redis::pipe();
        for (index, entry) in entries.iter().enumerate() {
            // The server knows the script from the first one on.
            let form = if index == 0 { form } else { Form::Sha };
            let settled = entry.settled.as_deref();
            pipeline.add_command(head.replay(form, &entry.booking, entry.hold, entry.since_ms, settled));
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        let answers = connection.ask_all(&pipeline, until()).await?;
        let mut unknown = false;
        for answer in answers {
            match answer {
                Ok(value) => match numbers(&value) {
                    Ok((0 | 1, ..)) => {}
                    Ok(_) => return Err(Failure::Disconnected),
                    Err(_) => return Err(Failure::Malformed),
                },
                Err(Failure::NoScript) => unknown = true,
                // A booking that no master takes must not keep us from the others for ever.
                Err(Failure::Refused(code)) if code == "BADARG" => {}
                Err(failure) => return Err(failure),
            }
        }
        match (unknown, form) {
            (false, _) => return Ok(()),
            (true, Form::Sha) => form = Form::Text,
            // Somebody empties the cache of scripts again and again.
            (true, Form::Text) => return Err(Failure::NoScript),
        }
    }
}

/// Runs a script that no call waits for.
pub(in crate::quota::redis) async fn evaluate(
    connection: &Connection,
    script: &Script,
    keys: &[String],
    arguments: &[String],
) -> Result<Value, Failure> {
    let command = |form| {
        let mut command = script.command(form, keys.len());
        command.arg(keys).arg(arguments);
        command
    };
    match connection.ask(&command(Form::Sha), until()).await {
        Err(Failure::NoScript) => connection.ask(&command(Form::Text), until()).await,
        answer => answer,
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    crate::quota::random_bytes().map_err(|_| Failure::Disconnected)
}

pub(in crate::quota::redis) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(in crate::quota::redis) fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0_u8; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok().filter(|_| pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
    }
    Some(bytes)
}
