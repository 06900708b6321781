//! Who is calling, already authenticated.

use std::sync::Arc;

/// The authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Stable subject for audit; `grant:<label>` unless the grant names one. Counters of `scope: identity` use it.
    pub subject: Arc<str>,
    /// Label of the grant under which the call is made; unique among all grants. Counters of `scope: grant` use it.
    pub grant: Arc<str>,
    /// Groups of the subject: sorted, each once, mostly none. Counters of `scope: group` use them.
    pub groups: Arc<[Arc<str>]>,
}

impl Principal {
    /// The holder of a grant that says nothing of its subject and its groups.
    #[must_use]
    pub fn of_grant(label: &str) -> Self {
        Self { subject: format!("grant:{label}").into(), grant: label.into(), groups: Arc::default() }
    }
}
