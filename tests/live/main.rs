//! Policies that change while the real binary serves: mounts that are swapped as the kubelet swaps them, replicas that are compared
//! with a folder, events and the admission webhook.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test program: a panic is its way to say no")]
#![expect(clippy::arithmetic_side_effects, reason = "small numbers of a test program")]

mod events;
mod kubelet;
mod process;
mod reload;
mod tls;
mod verify;
mod webhook;
