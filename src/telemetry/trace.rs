//! Spans of what we do.

pub mod sampler;
