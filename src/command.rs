//! The subcommands. Each has its arguments and one function that runs it and says how it ended.

pub mod audit;
pub mod check;
pub mod doctor;
pub mod eval;
pub mod grant;
pub mod mask;
mod operator;
pub mod pins;
pub mod quota;
pub mod serve;
pub mod test;
pub mod verify;

/// Exit status for a check that failed or a request that is denied.
pub const FAILED: u8 = 1;
/// Exit status for bad usage, unreadable input or bad configuration (EX_USAGE of sysexits.h).
pub const USAGE: u8 = 64;
/// Exit status where somebody else cannot be asked (EX_UNAVAILABLE of sysexits.h).
pub const UNAVAILABLE: u8 = 69;
