//! The gRPC side towards Envoy: messages, server, transport security, and the adapter between wire and core.

pub mod check;
mod logged;
mod process;
mod respond;
pub mod server;
pub mod tls;
pub mod wire;
