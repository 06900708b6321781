//! The section `response:` of `config.yaml`.

use mcp_authz_core::{document::Fields, response::Limits};
use serde_json::{Value, json};

use super::read::Section;
use crate::response::Recording;

/// What becomes of responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Of which responses there is a record although no policy asks for one; default `calls`.
    pub record: Recording,
    /// Bounds on one response. `bytes_max`: 1 KiB to 64 MiB, default 4 MiB. `depth_max`: 8 to 512, default 128. `nodes_max`: 100 to
    /// 10,000,000, default 1,000,000. `list_ttl_max_ms`: 0 to 1 day, default 60 s.
    pub limits: Limits,
    /// Responses that are looked at at once: 1 to 1,000,000, default 4,096.
    pub streams_max: usize,
    /// Bytes that are held back of all responses together: 64 MiB to 64 GiB, default 256 MiB.
    pub memory_bytes_max: usize,
}

const KEYS: [&str; 7] =
    ["record", "body_bytes_max", "depth_max", "nodes_max", "list_ttl_max_ms", "streams_max", "memory_bytes_max"];

pub(super) fn response(parent: &Fields<'_>) -> Option<Response> {
    let section = Section::of(parent, "response", &KEYS)?;
    let names = [Recording::Policy, Recording::Calls, Recording::All].map(Recording::name);
    let record = section.optional("record").map_or(Some("calls"), |value| value.one_of(&names));
    let bytes_max = section.size("body_bytes_max", 4_194_304, 1_024, 67_108_864);
    let depth_max = section.size("depth_max", 128, 8, 512);
    let nodes_max = section.size("nodes_max", 1_000_000, 100, 10_000_000);
    let list_ttl_max_ms = section.number("list_ttl_max_ms", 60_000, 0, 86_400_000);
    let streams_max = section.size("streams_max", 4_096, 1, 1_000_000);
    let memory_bytes_max = section.size("memory_bytes_max", 268_435_456, 67_108_864, 68_719_476_736);
    let record = match record? {
        "all" => Recording::All,
        "policy" => Recording::Policy,
        _ => Recording::Calls,
    };
    let limits = Limits {
        bytes_max: bytes_max?,
        depth_max: depth_max?,
        nodes_max: nodes_max?,
        list_ttl_max_ms: list_ttl_max_ms?,
    };
    Some(Response { record, limits, streams_max: streams_max?, memory_bytes_max: memory_bytes_max? })
}

pub(super) fn shown(response: &Response) -> Value {
    json!({
        "record": response.record.name(),
        "body_bytes_max": response.limits.bytes_max,
        "depth_max": response.limits.depth_max,
        "nodes_max": response.limits.nodes_max,
        "list_ttl_max_ms": response.limits.list_ttl_max_ms,
        "streams_max": response.streams_max,
        "memory_bytes_max": response.memory_bytes_max,
    })
}
