//! Pins as bytes, with a checksum: what a store keeps is what was put in, or nothing is believed.

use std::{collections::BTreeMap, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::{Definition, Digest, Pin, Pins};
use crate::{
    json::{Document, Limits, Value},
    text::{push_json_string, push_number},
};

const MAGIC: &str = "mcp-authz pins 1 ";
/// Larger than whatever bounds can let be written.
const LIMITS: Limits = Limits { bytes_max: 256 << 20, depth_max: 8, nodes_max: 1_000_000 };

/// The bytes are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// Another format.
    #[error("it does not begin as pins do")]
    Format,
    /// The bytes were changed or cut.
    #[error("its checksum does not fit")]
    Sum,
    /// What it says cannot be.
    #[error("it cannot be read")]
    Content,
}

impl Pins {
    /// The bytes to keep.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = String::with_capacity(1_024);
        out.push_str(if self.sealed { "{\"sealed\":true,\"tools\":[" } else { "{\"sealed\":false,\"tools\":[" });
        for (at, (name, pin)) in self.tools.iter().enumerate() {
            out.push_str(if at == 0 { "\n{\"name\":" } else { ",\n{\"name\":" });
            push_json_string(&mut out, name);
            push_definition(&mut out, "approved", pin.approved.as_deref());
            push_definition(&mut out, "pending", pin.pending.as_deref());
            out.push('}');
        }
        out.push_str("\n]}\n");
        format!("{MAGIC}{}\n{out}", hex_sum(out.as_bytes())).into_bytes()
    }

    /// Reads bytes that were kept.
    ///
    /// # Errors
    /// [`Corrupt`]: they are not what was written, so nothing in them may be believed.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let rest = bytes.strip_prefix(MAGIC.as_bytes()).ok_or(Corrupt::Format)?;
        let (sum, rest) = rest.split_first_chunk::<64>().ok_or(Corrupt::Format)?;
        let content = rest.strip_prefix(b"\n").ok_or(Corrupt::Format)?;
        if *sum != *hex_sum(content).as_bytes() {
            return Err(Corrupt::Sum);
        }
        let document = Document::parse(content, LIMITS).map_err(|_| Corrupt::Content)?;
        read(document.root()).ok_or(Corrupt::Content)
    }
}

fn hex_sum(content: &[u8]) -> String {
    Digest(Sha256::digest(content).into()).hex()
}

fn push_definition(out: &mut String, name: &str, definition: Option<&Definition>) {
    let Some(definition) = definition else { return };
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":{\"digest\":\"");
    out.push_str(&definition.digest.hex());
    out.push_str("\",\"seen_ms\":");
    push_number(out, definition.seen_ms);
    out.push_str(",\"definition\":");
    push_json_string(out, &definition.text);
    out.push('}');
}

fn read(root: Value<'_>) -> Option<Pins> {
    let sealed = root.get("sealed")?.as_bool()?;
    let mut tools = BTreeMap::new();
    for tool in root.get("tools")?.elements() {
        let approved = tool.get("approved").map(read_definition);
        let pending = tool.get("pending").map(read_definition);
        // A definition that is there and cannot be read is not the same as none.
        let pin = Pin { approved: flat(approved)?, pending: flat(pending)? };
        let is_kept = pin.approved.is_some() || pin.pending.is_some();
        if !is_kept || tools.insert(tool.get("name")?.as_str()?.into(), pin).is_some() {
            return None;
        }
    }
    Some(Pins { sealed, tools })
}

fn flat(read: Option<Option<Arc<Definition>>>) -> Option<Option<Arc<Definition>>> {
    read.map_or(Some(None), |read| read.map(Some))
}

fn read_definition(value: Value<'_>) -> Option<Arc<Definition>> {
    let digest = Digest::of_hex(&value.get("digest")?.as_str()?)?;
    let seen_ms = value.get("seen_ms")?.number_text()?.parse().ok()?;
    let text: Box<str> = value.get("definition")?.as_str()?.into();
    Some(Arc::new(Definition::new(digest, text, seen_ms)))
}
