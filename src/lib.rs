//! Policy decision point for MCP traffic behind Envoy.

pub mod admin;
pub mod clock;
pub mod config;
pub mod credential;
pub mod envoy;
pub mod files;
pub mod quota;
pub mod snapshot;
pub mod state;
pub mod telemetry;
