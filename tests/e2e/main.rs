//! The whole system on loopback: real Envoy, the real `mcp-authz`, upstreams that keep what reached them, and real clients.
//!
//! Needs `tests/tools/install.sh all`. Nothing here sleeps for luck: every wait polls a condition and has a deadline.
#![expect(clippy::arithmetic_side_effects, reason = "sums over small tables; an overflow would only fail a test")]

#[cfg(test)]
mod als;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod corpus_cases;
#[cfg(test)]
mod denials;
#[cfg(test)]
mod envoy_facts;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod headers;
#[cfg(test)]
mod hidden;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod pins;
#[cfg(test)]
mod processor;
#[cfg(test)]
mod recipes;
#[cfg(test)]
mod response;
#[cfg(test)]
mod response_facts;
#[cfg(test)]
mod sdk;
#[cfg(test)]
mod settle;
#[cfg(test)]
mod settle_answer;
#[cfg(test)]
mod settle_body;
#[cfg(test)]
mod telemetry;
#[cfg(test)]
mod upstreams;
