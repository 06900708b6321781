//! What the response phase asks of the store of pinned tool definitions.

use std::{fmt, future::Future, pin::Pin};

use mcp_authz_core::pins::{Sighting, View};

use crate::pins::{Pinboard, store::Store};

/// The answer of a store, some time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, PinsError>> + Send + 'a>>;

/// Why the pins of a server cannot be told or changed. Its text is for the operator's log.
#[derive(Debug, thiserror::Error)]
#[error("pins are not available")]
pub struct PinsError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Where pinned definitions are.
pub trait PinStore: fmt::Debug + Send + Sync + 'static {
    /// The pins of a server whose tools are compared with any; `None` where they are trusted as they come.
    ///
    /// # Errors
    /// The store does not answer or its data is damaged: responses of the server are withheld.
    fn book<'a>(&'a self, server: &'a str) -> Answer<'a, Option<View>>;

    /// The same as it was last known, for what is no list.
    ///
    /// # Errors
    /// Nothing is known, or the data is damaged: responses of the server that are not only recorded are withheld.
    fn last<'a>(&'a self, server: &'a str) -> Answer<'a, Option<View>> {
        self.book(server)
    }

    /// Takes down what a page of a list showed, and gives the pins as they are then.
    ///
    /// # Errors
    /// It is not taken down: the list must not leave.
    fn record<'a>(&'a self, server: &'a str, sighting: Sighting) -> Answer<'a, View>;
}

impl<S: Store> PinStore for Pinboard<S> {
    fn book<'a>(&'a self, server: &'a str) -> Answer<'a, Option<View>> {
        Box::pin(async move { Pinboard::book(self, server).await.map_err(|error| PinsError(error.into())) })
    }

    fn last<'a>(&'a self, server: &'a str) -> Answer<'a, Option<View>> {
        Box::pin(async move { Pinboard::last(self, server).await.map_err(|error| PinsError(error.into())) })
    }

    fn record<'a>(&'a self, server: &'a str, sighting: Sighting) -> Answer<'a, View> {
        Box::pin(async move { Pinboard::record(self, server, sighting).await.map_err(|error| PinsError(error.into())) })
    }
}

/// There is no place for pins: whatever needs one fails.
#[derive(Clone, Copy, Debug)]
pub struct NoPins;

impl PinStore for NoPins {
    fn book<'a>(&'a self, _: &'a str) -> Answer<'a, Option<View>> {
        Box::pin(async { Err(PinsError("there is no store of pins".into())) })
    }

    fn record<'a>(&'a self, _: &'a str, _: Sighting) -> Answer<'a, View> {
        Box::pin(async { Err(PinsError("there is no store of pins".into())) })
    }
}
