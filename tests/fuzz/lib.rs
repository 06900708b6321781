//! Fuzz targets as plain functions: each takes any bytes and asserts what must hold of them.
//!
//! `corpus.rs` runs them over the committed corpus and over mutations of it in every `cargo test`; the binaries hand them
//! to libFuzzer (`run.sh`). A property is asserted against another implementation or a second way to the same answer
//! wherever there is one; that nothing panics is the least of them.

mod check;
#[cfg(test)]
mod corpus;
mod evaluate;
mod headers;
mod mask;
mod model;
#[cfg(test)]
mod mutate;
mod parse;
mod policy;
mod response;
mod settle;
mod world;

pub use check::check;
pub use evaluate::evaluate;
pub use headers::headers;
pub use mask::mask;
pub use parse::parse;
pub use policy::policy;
pub use response::response;
pub use settle::settle;

/// A target.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus folder.
pub const TARGETS: &[(&str, Target)] = &[
    ("check", check),
    ("evaluate", evaluate),
    ("headers", headers),
    ("mask", mask),
    ("parse", parse),
    ("policy", policy),
    ("response", response),
    ("settle", settle),
];
