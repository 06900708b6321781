//! The scripts of the Redis ledger in a real `redis-server`, and the machine of the embedded one: the same answers, and the
//! promises that both must keep.
//!
//! Needs `tests/tools/install.sh redis`. Time is the test's own: the line of the scripts that is marked `--@clock` takes it from
//! two more arguments. `LEDGER_SEQUENCES=10000` makes the random tests longer.
#![expect(clippy::arithmetic_side_effects, reason = "sums over small tables; an overflow would only fail a test")]

#[cfg(test)]
mod books;
#[cfg(test)]
mod cases;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod directed;
#[cfg(test)]
mod mutants;
#[cfg(test)]
mod scripts;
#[cfg(test)]
mod world;
