//! Names of traces and spans.

use std::{
    hash::{BuildHasher as _, DefaultHasher, Hasher as _, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use mcp_authz_core::trace::TraceContext;

/// Makes ids that nobody else makes: numbers in turn, hashed with a key that is random for each process. Asking the system for each
/// would cost more than the rest of a span.
#[derive(Debug, Default)]
pub(super) struct Ids {
    key: RandomState,
    next: AtomicU64,
}

impl Ids {
    fn number(&self) -> u64 {
        self.key.hash_one(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The id of a span.
    pub(super) fn span(&self) -> [u8; 8] {
        never_zero(self.number()).to_be_bytes()
    }

    /// A trace of its own.
    pub(super) fn root(&self) -> TraceContext {
        of(self.number(), self.number(), self.number())
    }

    /// The trace of a request that Envoy does not trace, and its first span: the same in every process, for as long as they are
    /// built alike.
    pub(super) fn of_stream(stream_id: &[u8]) -> TraceContext {
        let number = |part: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(part);
            hasher.write(stream_id);
            hasher.finish()
        };
        of(number(0), number(1), number(2))
    }
}

/// All zeros is no id.
const fn never_zero(number: u64) -> u64 {
    if number == 0 { 1 } else { number }
}

fn of(high: u64, low: u64, span: u64) -> TraceContext {
    let trace_id = u128::from(high) << 64 | u128::from(never_zero(low));
    TraceContext { trace_id: trace_id.to_be_bytes(), span_id: never_zero(span).to_be_bytes(), sampled: true }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_id_comes_twice_in_a_process_or_in_two() {
        let (one, other) = (Ids::default(), Ids::default());
        let ids: BTreeSet<[u8; 8]> = (0..1_000).flat_map(|_| [one.span(), other.span()]).collect();
        assert_eq!(ids.len(), 2_000);
        assert_ne!(one.root().trace_id, one.root().trace_id);
    }

    #[test]
    fn a_stream_has_one_trace_everywhere_and_no_other_stream_has_it() {
        assert_eq!(Ids::of_stream(b"123"), Ids::of_stream(b"123"));
        let all: BTreeSet<[u8; 16]> = (0..1_000_u32).map(|n| Ids::of_stream(&n.to_be_bytes()).trace_id).collect();
        assert_eq!(all.len(), 1_000);
        assert_ne!(Ids::of_stream(b"123").span_id, Ids::of_stream(b"124").span_id);
    }

    #[test]
    fn zeros_are_no_id() {
        let context = of(0, 0, 0);
        assert_eq!(TraceContext::parse(context.traceparent().as_bytes()), Some(context));
    }
}
