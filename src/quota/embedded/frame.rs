//! How entries lie in a log: each with its length, its number and a checksum, so that a torn end can be told from damage.

use sha2::{Digest as _, Sha256};

/// Length, number, checksum.
const HEAD_BYTES: usize = 20;
/// Longest entry: far above what [`LINES_MAX`](mcp_authz_core::quota::LINES_MAX) lines take.
const PAYLOAD_BYTES_MAX: usize = 1 << 16;
/// How far ahead a number may lie to be taken for one of this log, when what follows damage is looked at.
const AHEAD_MAX: u64 = 1 << 32;

/// Appends an entry; `payload` writes its bytes. `false` if they are too many, and then nothing is appended.
pub(super) fn append(out: &mut Vec<u8>, generation: u64, number: u64, payload: impl FnOnce(&mut Vec<u8>)) -> bool {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    payload(out);
    let Some((head, body)) = out.get_mut(start..).and_then(<[u8]>::split_first_chunk_mut::<HEAD_BYTES>) else {
        return false;
    };
    let len = match u32::try_from(body.len()) {
        Ok(len) if body.len() <= PAYLOAD_BYTES_MAX => len,
        _ => {
            out.truncate(start);
            return false;
        }
    };
    let sum = checksum(generation, number, body);
    let bytes = len.to_le_bytes().into_iter().chain(number.to_le_bytes()).chain(sum);
    head.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    true
}

/// What a log holds after its header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// It ends with a whole entry.
    Clean,
    /// The last write never came to its end; nobody was answered. So many bytes are good.
    Torn { good: usize },
    /// Something is broken after so many good bytes, and whole entries follow.
    Damaged { good: usize },
}

/// Hands every entry in turn to `apply`, which may end it with an error.
pub(super) fn read<E>(
    bytes: &[u8],
    generation: u64,
    mut apply: impl FnMut(&[u8], usize) -> Result<(), E>,
) -> Result<(u64, Tail), E> {
    let (mut rest, mut number) = (bytes, 0_u64);
    while !rest.is_empty() {
        let good = bytes.len().saturating_sub(rest.len());
        let Some((payload, after)) = one(rest, generation, |found| found == number) else {
            // A write that broke off is followed by nothing.
            let later = |found: u64| found > number && found.saturating_sub(number) < AHEAD_MAX;
            let follows =
                (1..rest.len()).any(|skip| rest.get(skip..).and_then(|at| one(at, generation, later)).is_some());
            return Ok((number, if follows { Tail::Damaged { good } } else { Tail::Torn { good } }));
        };
        apply(payload, good)?;
        (rest, number) = (after, number.saturating_add(1));
    }
    Ok((number, Tail::Clean))
}

/// The entry at the front and what follows it.
fn one(bytes: &[u8], generation: u64, right: impl FnOnce(u64) -> bool) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let (len, number) = (usize::try_from(u32::from_le_bytes(*len)).ok()?, u64::from_le_bytes(*number));
    if len > PAYLOAD_BYTES_MAX || !right(number) {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(len)?;
    (checksum(generation, number, payload) == *sum).then_some((payload, rest))
}

/// Of the log's generation and the entry's number as well: an entry is good in its own place only.
fn checksum(generation: u64, number: u64, payload: &[u8]) -> [u8; 8] {
    let mut hash = Sha256::new();
    hash.update(generation.to_le_bytes());
    hash.update(number.to_le_bytes());
    hash.update(payload);
    let sum: [u8; 32] = hash.finalize().into();
    sum.first_chunk().copied().unwrap_or_default()
}
