//! Text as a detector should see it: without characters that nobody sees, and with look-alikes of separators and digits as
//! what they look like. A zero-width space in the middle of an address must not hide the address.

use std::ops::Range;

/// A text and where its pieces come from.
#[derive(Debug)]
pub(crate) struct Folded {
    pub(crate) text: String,
    /// Pieces in order; each goes on to the start of the next.
    pieces: Vec<Piece>,
    /// Characters of the source that nobody sees, one range for neighbors.
    pub(crate) hidden: Vec<Range<usize>>,
}

/// A piece of the folded text.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it starts.
    start: usize,
    /// Where it comes from.
    source: usize,
    /// The end of what it comes from, for a character that is written otherwise; `None` for text as it was.
    source_end: Option<usize>,
}

/// Folds a text; `None` for one that stays as it is, as nearly every one does.
pub(crate) fn fold(text: &str) -> Option<Folded> {
    if is_simple(text) {
        return None;
    }
    let mut fold = Fold { source: text, out: None, copied: 0 };
    let mut at = 0usize;
    while let Some(ahead) = text.as_bytes().get(at..).and_then(|rest| rest.iter().position(|b| may_fold(*b))) {
        at = fold.character(at.saturating_add(ahead));
    }
    let Fold { out, copied, .. } = fold;
    let mut folded = out?;
    folded.copy(text, copied..text.len());
    Some(folded)
}

/// A text on its way.
struct Fold<'t> {
    source: &'t str,
    /// Made when the first character changes.
    out: Option<Folded>,
    /// How much of the source is done.
    copied: usize,
}

impl Fold<'_> {
    /// Looks at the character at the position; gives the position behind it.
    fn character(&mut self, at: usize) -> usize {
        let rest = self.source.get(at..).unwrap_or_default();
        let mut chars = rest.chars();
        let Some(c) = chars.next() else { return self.source.len() };
        let end = at.saturating_add(c.len_utf8());
        if c == FLAG
            && let Some(length) = flag_tags(rest)
        {
            // The flags of England, Scotland and Wales are written with tag characters.
            return at.saturating_add(length);
        }
        if let Some((shown, length)) = unescaped(rest) {
            let end = at.saturating_add(length);
            self.put(at..end, Some(shown));
            return end;
        }
        let before = || self.source.get(..at).unwrap_or_default().chars().next_back();
        if is_hidden(c, before, || chars.next()) {
            self.put(at..end, None);
        } else {
            let shown = plain(c);
            if shown != c {
                self.put(at..end, Some(shown));
            }
        }
        end
    }

    /// Writes another character, or none, for a piece of the source.
    fn put(&mut self, range: Range<usize>, shown: Option<char>) {
        let out = self.out.get_or_insert_with(|| Folded {
            text: String::with_capacity(self.source.len()),
            pieces: Vec::new(),
            hidden: Vec::new(),
        });
        out.copy(self.source, self.copied..range.start);
        self.copied = range.end;
        match shown {
            Some(shown) => {
                out.pieces.push(Piece { start: out.text.len(), source: range.start, source_end: Some(range.end) });
                out.text.push(shown);
            }
            None => match out.hidden.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                Some(_) | None => out.hidden.push(range),
            },
        }
    }
}

impl Folded {
    fn copy(&mut self, source: &str, range: Range<usize>) {
        if !range.is_empty() {
            self.pieces.push(Piece { start: self.text.len(), source: range.start, source_end: None });
            self.text.push_str(source.get(range).unwrap_or_default());
        }
    }

    /// The range of the source for one of the folded text. Characters that nobody sees at its ends stay outside.
    pub(crate) fn source(&self, range: &Range<usize>) -> Range<usize> {
        let start = self.piece(range.start).map_or(0, |(piece, within)| match piece.source_end {
            Some(_) => piece.source,
            None => piece.source.saturating_add(within),
        });
        let last = range.end.checked_sub(1).and_then(|last| self.piece(last));
        let end = last.map_or(start, |(piece, within)| {
            piece.source_end.unwrap_or_else(|| piece.source.saturating_add(within).saturating_add(1))
        });
        start..end.max(start)
    }

    /// The piece of a position, and how far it lies in it.
    fn piece(&self, at: usize) -> Option<(Piece, usize)> {
        let count = self.pieces.partition_point(|piece| piece.start <= at);
        let piece = *self.pieces.get(count.checked_sub(1)?)?;
        Some((piece, at.saturating_sub(piece.start)))
    }
}

/// Printable ASCII, white space and no backslash. No early exit, so that many bytes are compared at a time.
fn is_simple(text: &str) -> bool {
    text.bytes().fold(true, |simple, b| simple & !may_fold(b))
}

/// Whether a character that starts with this byte may be written otherwise.
const fn may_fold(b: u8) -> bool {
    !(b >= b' ' && b <= b'~' || b == b'\n' || b == b'\t' || b == b'\r') || b == b'\\'
}

/// Text that holds a piece of JSON is no JSON text, and its escapes are still there: `\u0040` and `\/` are what they say.
fn unescaped(text: &str) -> Option<(char, usize)> {
    let rest = text.strip_prefix('\\')?;
    if rest.starts_with('/') {
        return Some(('/', 2));
    }
    let digits = rest.strip_prefix('u')?.get(..4)?;
    let code = u32::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    char::from_u32(code).filter(char::is_ascii_graphic).map(|c| (c, 6))
}

const FLAG: char = '\u{1f3f4}';

/// Bytes of the flag at the start of the text that is followed by one of the three tag sequences that Unicode knows.
fn flag_tags(text: &str) -> Option<usize> {
    const KNOWN: [&str; 3] = ["gbeng", "gbsct", "gbwls"];
    let tags: String = text
        .chars()
        .skip(1)
        .take(6)
        .filter_map(|c| u32::from(c).checked_sub(0xe_0000).and_then(char::from_u32))
        .collect();
    let name = tags.strip_suffix('\u{7f}')?;
    // Seven characters of four bytes each.
    KNOWN.contains(&name).then_some(28)
}

/// Whether nobody sees the character: controls, marks of direction, characters without width, tags, and selectors that select
/// nothing. Joiners between letters of scripts that need them, or in a picture made of several, are no hidden text.
fn is_hidden(c: char, before: impl FnOnce() -> Option<char>, after: impl FnOnce() -> Option<char>) -> bool {
    match c {
        '\u{a0}'..='\u{ac}' | '\u{ae}'..='\u{2ff}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' => false,
        '\u{200c}' | '\u{200d}' => {
            let after = after();
            !(joins(before()) && joins(after) && !after.is_some_and(is_joiner))
        }
        // One selector after a picture, a letter of a script that has variants, or a keycap.
        '\u{fe00}'..='\u{fe0f}' => {
            !before().is_some_and(|c| (joins(Some(c)) && !is_selector(c)) || c.is_ascii_digit() || c == '#' || c == '*')
        }
        c => is_unseen(c),
    }
}

/// Whether a joiner makes sense beside the character.
fn joins(c: Option<char>) -> bool {
    c.is_some_and(|c| !c.is_ascii() && !c.is_whitespace() && !is_unseen(c))
}

/// Whether nobody sees the character, wherever it stands.
pub(super) fn is_unseen(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => false,
        '\u{ad}'
        | '\u{34f}'
        | '\u{61c}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'
        | '\u{200e}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{3164}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}' => true,
        c => c.is_control(),
    }
}

const fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

const fn is_selector(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}')
}

/// The ASCII character that a reader takes it for: spaces, dashes, full-width forms, dots and digits of common keyboards.
fn plain(c: char) -> char {
    match c {
        '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => ' ',
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' => '-',
        '\u{ff01}'..='\u{ff5e}' => {
            u32::from(c).checked_sub(0xfee0).and_then(char::from_u32).filter(char::is_ascii_graphic).unwrap_or(c)
        }
        '\u{3002}' | '\u{ff61}' => '.',
        '\u{fe6b}' => '@',
        '\u{660}'..='\u{669}' => digit(c, 0x660),
        '\u{6f0}'..='\u{6f9}' => digit(c, 0x6f0),
        '\u{966}'..='\u{96f}' => digit(c, 0x966),
        c => c,
    }
}

fn digit(c: char, zero: u32) -> char {
    u32::from(c).checked_sub(zero).and_then(|value| char::from_digit(value, 10)).unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str) -> (String, Vec<Range<usize>>) {
        fold(text).map_or_else(|| (text.to_owned(), Vec::new()), |folded| (folded.text, folded.hidden))
    }

    #[test]
    fn ordinary_text_stays() {
        for text in [
            "",
            "plain\n\ttext\r",
            "naïve — «été»",
            "日本語",
            "👩\u{200d}👩\u{200d}👧",
            "❤\u{fe0f}",
            "1\u{fe0f}\u{20e3}",
            "می\u{200c}خواهم",
            "C:\\dir",
        ] {
            let (shown, hidden) = folded(text);
            assert!(hidden.is_empty(), "{text:?} {hidden:?}");
            assert!(!shown.contains('—'));
        }
        assert!(fold("🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}!").is_none(), "the flag of England");
    }

    #[test]
    fn what_nobody_sees_is_found() {
        for (text, shown, hidden) in [
            ("a\u{200b}b", "ab", 1..4),
            ("a\u{202e}\u{2066}b", "ab", 1..7),
            ("a\u{1b}[0m", "a[0m", 1..2),
            ("a\u{e0041}\u{e0042}", "a", 1..9),
            ("🏴\u{e0041}\u{e007f}", "🏴", 4..12),
            ("a\u{200d}b", "ab", 1..4),
            ("é\u{200d}\u{200d}é", "é\u{200d}é", 2..5),
            ("a\u{fe0f}", "a", 1..4),
            ("\u{feff}x", "x", 0..3),
            ("x\u{e0100}", "x", 1..5),
            ("a\0b", "ab", 1..2),
        ] {
            let (found, ranges) = folded(text);
            assert_eq!((found.as_str(), ranges.first()), (shown, Some(&hidden)), "{text:?}");
        }
        assert_eq!(folded("❤\u{fe0f}\u{fe0f}").1.first(), Some(&(6..9)), "the second selector selects nothing");
    }

    #[test]
    fn look_alikes_are_what_they_look_like() {
        for (text, shown) in [
            ("4111\u{a0}1111", "4111 1111"),
            ("4111\u{2011}1111", "4111-1111"),
            ("４１１１", "4111"),
            ("a＠b．c", "a@b.c"),
            ("٤١١١", "4111"),
            (r#"{"a":"bob\u0040example.com"#, r#"{"a":"bob@example.com"#),
            (r"https:\/\/a", "https://a"),
            (r"\u000a \u00e9 \uZZZZ \u", r"\u000a \u00e9 \uZZZZ \u"),
        ] {
            assert_eq!(folded(text).0, shown, "{text:?}");
        }
    }

    #[test]
    fn ranges_lead_back() {
        let text = "x\u{200b}４１\u{200b}１\u{200b} \\u0040";
        let folded = fold(text).unwrap();
        assert_eq!(folded.text, "x411 @");
        assert_eq!(text.get(folded.source(&(1..4))), Some("４１\u{200b}１"));
        assert_eq!(text.get(folded.source(&(5..6))), Some("\\u0040"));
    }
}
