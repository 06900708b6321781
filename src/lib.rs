//! Policy decision point for MCP traffic behind Envoy.

pub mod admin;
pub mod clock;
pub mod envoy;
pub mod quota;
pub mod telemetry;
