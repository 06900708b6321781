//! What the server answered to a call of a case: as much of it as limits settle by.

use super::run::Upstream;
use super::{fields, json_text};
use crate::document::{Cursor, Shape};
use crate::json::{Document, Limits};
use crate::policy::Policy;
use crate::response::Came;

/// The `answer` of a step.
#[derive(Debug)]
pub(super) struct Answer {
    /// The whole message.
    text: String,
    /// Its length, where the case states another one.
    bytes: Option<u64>,
}

/// Reads `answer`. A call that never got there has none.
pub(super) fn read(cursor: &Cursor<'_>, upstream: Option<Upstream>) -> Option<Answer> {
    if let Some(Upstream::Failed | Upstream::FailedAt(_)) = upstream {
        cursor.defect("a call that failed never got there: `answer` is for `upstream: ok` and `ok_at`");
        return None;
    }
    let keys = fields(cursor, &["result", "error", "bytes"])?;
    let bytes = keys.optional("bytes").map_or(Some(None), |cursor| cursor.u64_in(&(0..=u64::MAX)).map(Some));
    let said = match (keys.optional("result"), keys.optional("error")) {
        (Some(_), Some(error)) => {
            error.defect("an answer has `result` or `error`, not both");
            return None;
        }
        (Some(result), None) => format!("\"result\":{}", json_text(result.node())),
        (None, Some(code)) => {
            let Shape::Number(literal) = &code.node().shape else {
                code.expected("a JSON-RPC code, such as -32602");
                return None;
            };
            format!("\"error\":{{\"code\":{literal},\"message\":\"\"}}")
        }
        (None, None) => "\"result\":{}".to_owned(),
    };
    Some(Answer { text: format!("{{\"jsonrpc\":\"2.0\",\"id\":1,{said}}}"), bytes: bytes? })
}

impl Answer {
    /// What settling is told of it.
    pub(super) fn came(&self, policy: &Policy, tool: &str) -> Option<Came> {
        let document = Document::parse(self.text.as_bytes(), Limits::default()).ok()?;
        let came = policy.came(tool, &document)?;
        Some(Came { bytes: self.bytes.unwrap_or(came.bytes), ..came })
    }
}
