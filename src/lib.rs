//! Policy decision point for MCP traffic behind Envoy.

pub mod clock;
pub mod quota;
pub mod telemetry;
