//! The gRPC side towards Envoy: messages, server and transport security. It decides nothing.

pub mod server;
pub mod tls;
pub mod wire;
