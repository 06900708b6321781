//! Who is calling, already authenticated.

use std::sync::Arc;

/// The authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Stable subject for audit; `grant:<label>` unless the grant names one.
    pub subject: Arc<str>,
    /// Label of the grant under which the call is made; unique among all grants. Counters of `scope: grant` use it.
    pub grant: Arc<str>,
}
