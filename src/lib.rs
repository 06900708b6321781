//! Policy decision point for MCP traffic behind Envoy.

pub mod envoy;
