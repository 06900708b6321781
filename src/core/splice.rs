//! Changes to a text that somebody else wrote: pieces are cut out and others put in; every byte outside them stays as it was.
//!
//! Owns the order and the nesting of the pieces only. What a piece means, and that the text is still JSON afterwards, is the
//! caller's: a range must be that of whole values, or of whole members or elements with one comma.

use std::ops::Range;

/// Pieces to be changed, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splices(Vec<Splice>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Splice {
    range: Range<usize>,
    with: Box<str>,
}

impl Splices {
    /// Puts `with` in the place of these bytes. A piece inside another one has no effect: the outer one wins, and of two that
    /// are equal the first.
    pub fn replace(&mut self, range: Range<usize>, with: impl Into<Box<str>>) {
        self.0.push(Splice { range, with: with.into() });
    }

    /// Cuts these bytes out.
    pub fn cut(&mut self, range: Range<usize>) {
        self.replace(range, "");
    }

    /// Whether nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text with every change made. `None` if two pieces overlap and neither holds the other, or if one lies outside the
    /// text or cuts a character: then the caller must not pass the text on.
    #[must_use]
    pub fn apply(mut self, text: &str) -> Option<String> {
        // Stable: of two equal ranges the first stays the first.
        self.0.sort_by(|a, b| a.range.start.cmp(&b.range.start).then(b.range.end.cmp(&a.range.end)));
        let mut out = String::with_capacity(text.len());
        let mut done = 0usize;
        for Splice { range, with } in &self.0 {
            if range.start < done {
                if range.end <= done {
                    continue;
                }
                return None;
            }
            out.push_str(text.get(done..range.start)?);
            text.get(range.clone())?;
            out.push_str(with);
            done = range.end;
        }
        out.push_str(text.get(done..)?);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn apply(text: &str, list: &[(Range<usize>, &str)]) -> Option<String> {
        let mut splices = Splices::default();
        list.iter().for_each(|(range, with)| splices.replace(range.clone(), *with));
        splices.apply(text)
    }

    #[test]
    fn order_does_not_matter_and_the_outer_piece_wins() {
        assert_eq!(apply("abcdef", &[]).unwrap(), "abcdef");
        assert_eq!(apply("abcdef", &[(4..5, "E"), (0..2, "")]).unwrap(), "cdEf");
        assert_eq!(apply("abcdef", &[(2..3, "x"), (1..5, "-"), (4..5, "y")]).unwrap(), "a-f");
        assert_eq!(apply("abcdef", &[(1..5, "-"), (1..5, "+")]).unwrap(), "a-f");
        assert_eq!(apply("abcdef", &[(0..3, "1"), (3..6, "2")]).unwrap(), "12", "neighbors do not overlap");
    }

    #[test]
    fn what_cannot_be_done_is_not_done_by_half() {
        assert_eq!(apply("abcdef", &[(0..3, ""), (2..5, "")]), None, "overlap");
        assert_eq!(apply("abc", &[(2..4, "")]), None, "outside");
        assert_eq!(apply("aéb", &[(2..3, "")]), None, "half a character");
    }

    proptest! {
        #[test]
        fn bytes_outside_the_pieces_are_untouched(
            parts in proptest::collection::vec(("[a-zé]{0,6}", any::<bool>()), 0..12),
        ) {
            let (mut text, mut expected, mut splices) = (String::new(), String::new(), Splices::default());
            for (part, changed) in &parts {
                let start = text.len();
                text.push_str(part);
                if *changed && !part.is_empty() {
                    splices.replace(start..text.len(), "#");
                    expected.push('#');
                } else {
                    expected.push_str(part);
                }
            }
            prop_assert_eq!(splices.apply(&text), Some(expected));
        }
    }
}
