//! Mutations of a corpus: the same ones in every run.

/// Marsaglia's xorshift64.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Starts at a seed; zero would stay zero.
    #[must_use]
    pub(crate) const fn new(seed: u64) -> Self {
        Self(if seed == 0 { 1 } else { seed })
    }

    fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, or zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        usize::try_from(self.word().checked_rem(end).unwrap_or(0)).unwrap_or(0)
    }
}

/// Pieces that mean something to one of the readers.
const PIECES: &[&[u8]] = &[
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"-0",
    b"1e400",
    b"1.0",
    b"9007199254740993",
    b"\n",
    b"\n\n",
    b"\n%%\n",
    b"\xff",
    b"\xc0\xaf",
    b"\xef\xbb\xbf",
    "\u{17f}".as_bytes(),
    "\u{202e}".as_bytes(),
    b"\"id\":1",
    b"\"method\":\"ping\"",
    b"\"name\":\"gone\"",
    b"\"result\":{}",
    b"_",
    b"%2e",
    b"..",
    b"//",
    b"x-mcp-authz-x: 1\n",
    b"authorization: Bearer mcpa_OPEN\n",
    b"=authorization: x\n",
    b"@server: other\n",
    b"%size: 0\n",
    b"mcp-name: gone\n",
    b"- ",
    b"  ",
    b"true",
    b"&a ",
    b"\"mode\":\"gate\",",
    b"\"scale\":2,",
    b"\"version\":\"2\"",
    b"*a",
    b"<<",
    b"\r",
    b"\t",
    b"\r\n",
    b"data: ",
    b"\ndata: ",
    b": x\n",
    b"\"tools\":[{\"name\":\"gone\"}]",
    b"{\"jsonrpc\":\"2.0\",\"id\":1,",
    "\u{2028}data: ".as_bytes(),
];

/// Changes one to four places; splices in a part of `other`.
#[must_use]
pub(crate) fn mutate(data: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = data.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(out.len().saturating_add(1));
        let end = at.saturating_add(random.below(16)).min(out.len());
        match random.below(7) {
            0 => drop(out.splice(at..end, std::iter::empty())),
            1 => {
                let piece = PIECES.get(random.below(PIECES.len())).copied().unwrap_or_default();
                drop(out.splice(at..at, piece.iter().copied()));
            }
            2 => {
                let copy = out.get(at..end).unwrap_or_default().to_vec();
                let to = random.below(out.len().saturating_add(1));
                drop(out.splice(to..to, copy));
            }
            3 => {
                let from = random.below(other.len());
                let part = other.iter().skip(from).take(random.below(48)).copied();
                drop(out.splice(at..end, part));
            }
            4 => out.truncate(at),
            _ => {
                let bit = 1_u8.checked_shl(u32::try_from(random.below(8)).unwrap_or(0)).unwrap_or(1);
                out.get_mut(at).into_iter().for_each(|byte| *byte ^= bit);
            }
        }
    }
    out
}
