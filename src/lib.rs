//! Policy decision point for MCP traffic behind Envoy: identity, policy and quota on every call.
#![doc = include_str!("ARCHITECTURE.md")]

pub mod admin;
pub mod clock;
pub mod command;
pub mod config;
pub mod credential;
pub mod doctor;
pub mod engine;
pub mod envoy;
pub mod files;
pub mod kubernetes;
pub mod outbound;
pub mod pins;
pub mod quota;
pub mod response;
pub mod retired;
pub mod settle;
pub mod snapshot;
pub mod state;
pub mod telemetry;
pub mod watch;
pub mod webhook;
