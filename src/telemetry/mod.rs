//! What operators see of the process: metrics, the audit stream, the log and traces. Decides nothing.

pub mod audit;
mod lines;
pub mod log;
pub mod metrics;
pub mod names;
pub mod otlp;
pub mod seldom;
pub mod trace;
