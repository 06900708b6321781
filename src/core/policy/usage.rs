//! What the answer to a call says of what it cost.

use std::sync::Arc;

use super::Policy;
use super::limit::Limit;
use crate::json::{Document, Kind as Shape, Value};
use crate::quota::Actual;
use crate::response::{Came, Kind};

/// JSON-RPC codes of requests that were not executed: parse error, invalid request, method not found, invalid params.
const NOT_EXECUTED: [&str; 4] = ["-32700", "-32600", "-32601", "-32602"];

impl Policy {
    /// Whether calls of that tool cannot be settled without the body of the answer.
    #[must_use]
    pub fn settles_by_body(&self, tool: &str) -> bool {
        self.limits_of(tool).any(|limit| limit.terms.needs_body())
    }

    /// The units that the answer to a call of that tool tells, by the name of the counter; each name once. `message` is the
    /// whole JSON-RPC message. A counter that is not there was told nothing: what is held for it stays.
    #[must_use]
    pub fn usage(&self, tool: &str, message: &Document<'_>) -> Vec<(Arc<str>, u64)> {
        let mut told: Vec<(Arc<str>, u64)> = Vec::new();
        // Beside an error a result is none.
        let answered = Some(message.root()).filter(|root| root.get("error").is_none());
        let result = answered.and_then(|root| root.get("result")).filter(|result| result.kind() == Shape::Object);
        let Some(result) = result else { return told };
        for limit in self.limits_of(tool).filter(|limit| limit.terms.actual == Actual::Usage) {
            let name = &limit.terms.name;
            if !told.iter().any(|(known, _)| known == name)
                && let Some(units) = limit.amount.told(result)
            {
                told.push((Arc::clone(name), units));
            }
        }
        told
    }

    /// What the answer to a call of that tool was, as settling has to know it; `None` for a message that is no answer.
    #[must_use]
    pub fn came(&self, tool: &str, message: &Document<'_>) -> Option<Came> {
        let kind = Kind::of_answer(message.root())?;
        let bytes = u64::try_from(message.bytes()).unwrap_or(u64::MAX);
        Some(Came { kind, bytes, usage: self.usage(tool, message) })
    }

    /// The limits that a call of that tool has.
    fn limits_of(&self, tool: &str) -> impl Iterator<Item = &Limit> {
        let (own, all) = match self.find(tool) {
            Ok(Some(rules)) => (&*rules.limits, &*self.limits),
            Ok(None) => (&[][..], &*self.limits),
            Err(_) => (&[][..], &[][..]),
        };
        own.iter().chain(all)
    }
}

impl Kind {
    /// Every name, sorted.
    pub const NAMES: &'static [&'static str] = &["ok", "protocol_error", "server_error", "tool_error"];

    /// The name in metadata and audit records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Ok => "ok",
            Kind::ProtocolError => "protocol_error",
            Kind::ServerError => "server_error",
            Kind::ToolError => "tool_error",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Kind::Ok, Kind::ProtocolError, Kind::ServerError, Kind::ToolError].into_iter().find(|kind| kind.name() == name)
    }

    /// The kind of an answer to a call of a tool; `None` for a message that is no answer. What is not plainly a refusal was
    /// executed: a code that is not spelled as the specification spells it, or a result beside an error.
    #[must_use]
    pub fn of_answer(message: Value<'_>) -> Option<Self> {
        match (message.get("result"), message.get("error")) {
            (Some(_), Some(_)) => Some(Kind::ServerError),
            (Some(result), None) => {
                let failed = result.get("isError").and_then(Value::as_bool) == Some(true);
                Some(if failed { Kind::ToolError } else { Kind::Ok })
            }
            (None, Some(error)) => {
                let code = error.get("code").and_then(Value::number_text);
                let refused = code.is_some_and(|code| NOT_EXECUTED.contains(&code));
                Some(if refused { Kind::ProtocolError } else { Kind::ServerError })
            }
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests;
