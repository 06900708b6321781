//! What operators see of the process: metrics, the audit stream and the log. Decides nothing.

pub mod audit;
mod lines;
pub mod log;
pub mod metrics;
pub mod seldom;
