//! What the response phase asks of the store of pinned tool definitions.

use std::{fmt, future::Future, pin::Pin};

use mcp_authz_core::pins::{Observed, View};

/// The answer of a store, some time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, PinsError>> + Send + 'a>>;

/// Why the pins of a server cannot be told or changed. Its text is for the operator's log.
#[derive(Debug, thiserror::Error)]
#[error("pins are not available: {0}")]
pub struct PinsError(pub Box<dyn std::error::Error + Send + Sync>);

/// Where pinned definitions are.
pub trait PinStore: fmt::Debug + Send + Sync + 'static {
    /// Whether the server's tools are compared with pins.
    fn is_on(&self, server: &str) -> bool;

    /// The pins of a server; `None` where its tools are trusted as they come.
    ///
    /// # Errors
    /// The store does not answer or its data is damaged: lists of the server are withheld.
    fn book<'a>(&'a self, server: &'a str) -> Answer<'a, Option<View>>;

    /// Records definitions that were seen for the first time, and gives the pins as they are then.
    ///
    /// # Errors
    /// They are not recorded: the list that holds them is withheld.
    fn record<'a>(&'a self, server: &'a str, seen: Vec<Observed>) -> Answer<'a, View>;
}

/// No server has pins.
#[derive(Clone, Copy, Debug)]
pub struct NoPins;

impl PinStore for NoPins {
    fn is_on(&self, _: &str) -> bool {
        false
    }

    fn book<'a>(&'a self, _: &'a str) -> Answer<'a, Option<View>> {
        Box::pin(async { Ok(None) })
    }

    fn record<'a>(&'a self, _: &'a str, _: Vec<Observed>) -> Answer<'a, View> {
        Box::pin(async { Err(PinsError("there is no store of pins".into())) })
    }
}
