//! The Helm chart: what it renders is valid and safe, what it refuses it explains, and the program runs as rendered.
//!
//! Needs `tests/tools/install.sh helm kubeconform envoy client-ts1 redis`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test program: a panic is its way to say no")]
#![expect(clippy::indexing_slicing, reason = "a missing field of a manifest fails the test that looks for it")]
#![expect(clippy::print_stderr, reason = "the output of a program is shown where its test fails")]

mod chart;
mod documents;
mod golden;
mod kubelet;
mod layout;
mod names;
mod process;
mod refusals;
mod replica;
mod rollout;
mod safety;
mod scenarios;
mod stack;
mod values;
