//! What a place that keeps pins can do. Two operations, several places, one suite of contract tests.

use std::{fmt, future::Future, sync::Arc};

use tokio::time::Instant;

use super::folder::FolderStore;
use crate::quota::{LedgerError, any::AnyLedger, random_bytes};

/// Names one state of what is kept of a server: a number that grows, and random digits, so that two states never have one
/// name even if data was lost in between. Empty for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version(Arc<str>);

impl Version {
    /// A version as a store has it.
    #[must_use]
    pub fn of_store(text: &str) -> Self {
        Self(text.into())
    }

    /// The version after this one and after `at_least`.
    ///
    /// # Errors
    /// If the operating system has no randomness to give.
    pub fn next(&self, at_least: u64) -> Result<Self, LedgerError> {
        let number = self.number().unwrap_or(0).max(at_least).saturating_add(1);
        Ok(Self(format!("{number}-{:016x}", u64::from_be_bytes(random_bytes()?)).into()))
    }

    /// The number; `None` for nothing and for what is no version.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.0.split_once('-')?.0.parse().ok()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is kept of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// What the caller knows.
    Same,
    /// Something else.
    Other {
        /// Its version.
        version: Version,
        /// Its bytes, whatever they are.
        data: Arc<[u8]>,
    },
}

/// The place cannot be asked. Its text is for the operator.
#[derive(Debug, thiserror::Error)]
#[error("the store of pins cannot be used")]
pub struct StoreError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// A place that keeps pins.
pub trait Store: Send + Sync + 'static {
    /// Reads what is kept of each server, in their order, but for what the caller knows. Answers before `deadline`.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known; the caller fails closed.
    fn read(
        &self,
        wanted: &[(Arc<str>, Version)],
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<Found>, StoreError>> + Send;

    /// Keeps data under the version `next` if what is kept is still of the version `known`; whether it was. When it answers,
    /// the data survives the end of this process.
    ///
    /// # Errors
    /// [`StoreError`]: it may be kept or not; the caller reads again.
    fn write(
        &self,
        server: &str,
        known: &Version,
        next: &Version,
        data: &Arc<[u8]>,
        deadline: Instant,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

/// The place that the settings name.
pub enum AnyStore {
    /// Files of this process, or its memory.
    Folder(FolderStore),
    /// The Redis that has the counters.
    Ledger(Arc<AnyLedger>),
}

impl fmt::Debug for AnyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AnyStore::Folder(_) => "Folder",
            AnyStore::Ledger(_) => "Ledger",
        })
    }
}

fn wrong_place() -> StoreError {
    StoreError("the ledger keeps no pins".into())
}

impl Store for AnyStore {
    async fn read(&self, wanted: &[(Arc<str>, Version)], deadline: Instant) -> Result<Vec<Found>, StoreError> {
        match self {
            AnyStore::Folder(store) => store.read(wanted, deadline).await,
            AnyStore::Ledger(ledger) => match &**ledger {
                AnyLedger::Redis(store) => store.read(wanted, deadline).await,
                AnyLedger::Embedded(_) => Err(wrong_place()),
            },
        }
    }

    async fn write(
        &self,
        server: &str,
        known: &Version,
        next: &Version,
        data: &Arc<[u8]>,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        match self {
            AnyStore::Folder(store) => store.write(server, known, next, data, deadline).await,
            AnyStore::Ledger(ledger) => match &**ledger {
                AnyLedger::Redis(store) => store.write(server, known, next, data, deadline).await,
                AnyLedger::Embedded(_) => Err(wrong_place()),
            },
        }
    }
}
