//! One changed value, word by word.

use mcp_authz_core::text::is_unsafe;

/// Words that are compared on each side; longer texts are shown whole.
const WORDS_MAX: usize = 2_000;

/// The text with what cannot be seen written out: `⟦U+200B⟧`.
pub(super) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) { out.push_str(&format!("⟦U+{:04X}⟧", u32::from(c))) } else { out.push(c) }
    }
    out
}

/// The same, at most so many characters of it.
pub(super) fn visible_cut(text: &str, chars_max: usize) -> String {
    let cut: String = text.chars().take(chars_max).collect();
    if cut.len() == text.len() { visible(text) } else { visible(&cut) + "…" }
}

/// Whether a character is not seen, or is taken for another one that is.
fn is_hidden(c: char) -> bool {
    is_unsafe(c)
        || matches!(c, '\u{a0}' | '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{2800}' | '\u{3000}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}')
}

/// Writes a change: texts line by line, with changed words in `[-…-]` and `{+…+}`; everything else as JSON.
pub(super) fn push_change(out: &mut String, old: Option<&str>, new: Option<&str>) {
    let read = |json: &str| serde_json::from_str::<String>(json).ok();
    match (old.map(|old| (old, read(old))), new.map(|new| (new, read(new)))) {
        (Some((_, Some(old))), Some((_, Some(new)))) => push_texts(out, &old, &new),
        (old, new) => {
            for (mark, side) in [('-', old), ('+', new)] {
                if let Some((json, text)) = side {
                    push_lines(out, mark, &text.unwrap_or_else(|| json.to_owned()));
                }
            }
        }
    }
}

fn push_lines(out: &mut String, mark: char, text: &str) {
    for line in text.split('\n') {
        out.push_str(&format!("    {mark} {}\n", visible(line)));
    }
}

fn push_texts(out: &mut String, old: &str, new: &str) {
    let (before, after) = (words(old), words(new));
    if before.len() > WORDS_MAX || after.len() > WORDS_MAX {
        push_lines(out, '-', old);
        push_lines(out, '+', new);
        return;
    }
    let mut line = String::from("    ~ ");
    for (kind, text) in compared(&before, &after) {
        let (open, close) = match kind {
            Kind::Gone => ("[-", "-]"),
            Kind::New => ("{+", "+}"),
            Kind::Same => ("", ""),
        };
        for (at, part) in text.split('\n').enumerate() {
            if at > 0 {
                line.push_str("\n    ~ ");
            }
            if !part.is_empty() || (at == 0 && kind != Kind::Same) {
                line.push_str(&format!("{open}{}{close}", visible(part)));
            }
        }
    }
    out.push_str(&line);
    out.push('\n');
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gone,
    New,
    Same,
}

/// Words, and what stands between them.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = first.is_alphanumeric();
        let end = rest.find(|c: char| c.is_alphanumeric() != is_word).unwrap_or(rest.len());
        // Between words each character stands alone, so that one that was added is seen as one.
        let end = if is_word { end } else { first.len_utf8() };
        let (word, more) = rest.split_at_checked(end).unwrap_or((rest, ""));
        words.push(word);
        rest = more;
    }
    words
}

/// What is the same, gone and new, by the longest common sequence.
fn compared(before: &[&str], after: &[&str]) -> Vec<(Kind, String)> {
    let width = after.len().saturating_add(1);
    let mut lengths = vec![0_u16; before.len().saturating_add(1).saturating_mul(width)];
    let at = |row: usize, column: usize| row.saturating_mul(width).saturating_add(column);
    for (row, old) in before.iter().enumerate().rev() {
        for (column, new) in after.iter().enumerate().rev() {
            let of = |row, column| lengths.get(at(row, column)).copied().unwrap_or(0);
            let (down, right) = (row.saturating_add(1), column.saturating_add(1));
            let best =
                if old == new { of(down, right).saturating_add(1) } else { of(down, column).max(of(row, right)) };
            if let Some(slot) = lengths.get_mut(at(row, column)) {
                *slot = best;
            }
        }
    }
    let of = |row, column| lengths.get(at(row, column)).copied().unwrap_or(0);
    let mut out: Vec<(Kind, String)> = Vec::new();
    let (mut row, mut column) = (0_usize, 0_usize);
    loop {
        let (kind, word) = match (before.get(row), after.get(column)) {
            (Some(old), Some(new)) if old == new => (Kind::Same, old),
            (Some(old), Some(_)) if of(row.saturating_add(1), column) >= of(row, column.saturating_add(1)) => {
                (Kind::Gone, old)
            }
            (_, Some(new)) => (Kind::New, new),
            (Some(old), None) => (Kind::Gone, old),
            (None, None) => return out,
        };
        row = row.saturating_add(usize::from(kind != Kind::New));
        column = column.saturating_add(usize::from(kind != Kind::Gone));
        match out.last_mut() {
            Some((last, text)) if *last == kind => text.push_str(word),
            _ => out.push((kind, (*word).to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(old: Option<&str>, new: Option<&str>) -> String {
        let json = |text: &str| serde_json::to_string(text).unwrap();
        let mut out = String::new();
        push_change(&mut out, old.map(json).as_deref(), new.map(json).as_deref());
        out
    }

    #[test]
    fn changed_words_are_marked() {
        assert_eq!(
            change(Some("Makes a refund."), Some("Makes one big refund.")),
            "    ~ Makes [-a-]{+one+} {+big +}refund.\n"
        );
        assert_eq!(change(Some("a"), Some("a\nb")), "    ~ a{++}\n    ~ {+b+}\n");
        assert_eq!(change(None, Some("x\ny")), "    + x\n    + y\n");
        assert_eq!(change(Some("x"), None), "    - x\n");
        let mut out = String::new();
        push_change(&mut out, Some("1"), Some("{\"a\":2}"));
        assert_eq!(out, "    - 1\n    + {\"a\":2}\n");
    }

    #[test]
    fn what_cannot_be_seen_is_shown() {
        assert_eq!(change(Some("a b"), Some("a\u{200b} b\u{1b}[2J")), "    ~ a{+⟦U+200B⟧+} b{+⟦U+001B⟧[2J+}\n");
        assert_eq!(visible("\u{e0041}\u{202e}é\u{ad}\u{fe0f}"), "⟦U+E0041⟧⟦U+202E⟧é⟦U+00AD⟧⟦U+FE0F⟧");
        assert_eq!(visible_cut("abc", 3), "abc");
        assert_eq!(visible_cut("abcd", 3), "abc…");
    }

    #[test]
    fn long_texts_are_shown_whole() {
        let long = |n: usize| "a ".repeat(n / 2);
        assert!(change(Some(&long(WORDS_MAX)), Some("b")).starts_with("    ~ "));
        assert!(change(Some(&long(WORDS_MAX + 2)), Some("b")).starts_with("    - "));
    }
}
