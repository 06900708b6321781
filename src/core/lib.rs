//! The decision of mcp-authz, as pure functions of their arguments.
//!
//! No async, no clock, no I/O, no logging: whatever time or file a decision depends on is passed in.
//! `src/ARCHITECTURE.md` holds the invariants; `tests/architecture.rs` checks them.

pub mod answer;
pub mod audit;
pub mod decision;
pub mod document;
pub mod grant;
pub mod http;
pub mod json;
pub mod judge;
pub mod ledger;
pub mod mask;
pub mod mcp;
pub mod number;
pub mod pattern;
pub mod pins;
pub mod policy;
pub mod principal;
pub mod quota;
pub mod response;
pub mod schema;
pub mod selftest;
pub mod server;
pub mod settle;
pub mod splice;
pub mod sse;
pub mod text;
pub mod trace;
