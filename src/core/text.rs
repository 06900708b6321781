//! Text from the wire on its way into JSON that we write.

/// Appends `text` as a JSON string. Beyond what JSON demands it escapes DEL, C1 controls, line separators and
/// bidirectional or invisible marks, so that no terminal, log viewer or model is steered by them.
pub fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    if is_plain(text) {
        out.push_str(text);
        out.push('"');
        return;
    }
    let mut plain = 0usize;
    for (at, c) in text.char_indices() {
        let short = match c {
            '"' => "\\\"",
            '\\' => "\\\\",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            c if is_unsafe(c) => "",
            _ => continue,
        };
        out.push_str(text.get(plain..at).unwrap_or_default());
        plain = at.saturating_add(c.len_utf8());
        if short.is_empty() { push_unicode_escape(out, c, "\\") } else { out.push_str(short) }
    }
    out.push_str(text.get(plain..).unwrap_or_default());
    out.push('"');
}

/// Printable ASCII that needs no escape, as nearly every text is. No early exit: without one the compiler compares many
/// bytes at a time.
fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |plain, b| plain & (b' '..=b'~').contains(&b) & (b != b'"') & (b != b'\\'))
}

/// Appends at most `bytes_max` bytes of `text` as a JSON string, cut at a character boundary and marked with `…`.
pub fn push_json_string_cut(out: &mut String, text: &str, bytes_max: usize) {
    if text.len() <= bytes_max {
        return push_json_string(out, text);
    }
    let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    push_json_string(out, text.get(..end).unwrap_or_default());
    out.pop();
    out.push_str("…\"");
}

/// Whether a character can change how the text around it is shown.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A text of somebody else for a terminal: what steers one is spelled out, and so are line feeds.
#[must_use]
pub fn spelled_out(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if is_unsafe(c) {
            out.extend(c.escape_unicode())
        } else {
            out.push(c)
        }
        out
    })
}

/// Appends the escape of a character, with that for each backslash.
pub(crate) fn push_unicode_escape(out: &mut String, c: char, backslash: &str) {
    let mut units = [0u16; 2];
    for unit in c.encode_utf16(&mut units) {
        out.push_str(backslash);
        out.push('u');
        for shift in [12u32, 8, 4, 0] {
            let digit = u32::from(*unit).wrapping_shr(shift) & 0xf;
            out.push(char::from_digit(digit, 16).unwrap_or('0'));
        }
    }
}

/// Appends a number in at least `width` digits.
pub(crate) fn push_padded(out: &mut String, value: u64, width: u32) {
    if width > 1 || value > 9 {
        push_padded(out, value / 10, width.saturating_sub(1));
    }
    out.push(char::from_digit(u32::try_from(value % 10).unwrap_or(0), 10).unwrap_or('0'));
}

/// Appends a number. By hand: the general printer costs several times more.
pub(crate) fn push_number(out: &mut String, value: u64) {
    push_padded(out, value, 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(text: &str) -> String {
        let mut out = String::new();
        push_json_string(&mut out, text);
        out
    }

    #[test]
    fn nothing_that_steers_a_viewer_is_written_raw() {
        assert_eq!(written("a\"\\\n\u{1b}[0m\u{202e}é\u{e0041}"), r#""a\"\\\n\u001b[0m\u202eé\udb40\udc41""#);
    }

    #[test]
    fn the_short_way_writes_what_the_long_one_does() {
        for c in '\0'..='\u{2ff}' {
            // DEL is never plain, so the second text takes the long way.
            let (short, long) = (written(&c.to_string()), written(&format!("{c}\u{7f}")));
            assert_eq!(short.strip_suffix('"'), long.strip_suffix("\\u007f\""), "{c:?}");
        }
    }

    #[test]
    fn a_cut_falls_on_a_character_boundary() {
        let cut = |text: &str, max| {
            let mut out = String::new();
            push_json_string_cut(&mut out, text, max);
            out
        };
        assert_eq!(cut("abc", 3), "\"abc\"");
        assert_eq!(cut("abcd", 3), "\"abc…\"");
        assert_eq!(cut("aé", 2), "\"a…\"");
    }

    proptest! {
        #[test]
        fn numbers_are_written_as_the_general_printer_does(value in any::<u64>(), width in 1..6_u32) {
            let (mut number, mut padded) = (String::new(), String::new());
            push_number(&mut number, value);
            push_padded(&mut padded, value % 2000, width);
            prop_assert_eq!(number, value.to_string());
            prop_assert_eq!(padded, format!("{:01$}", value % 2000, usize::try_from(width).unwrap()));
        }

        #[test]
        fn what_is_written_reads_back_the_same(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&written(&text)).unwrap(), text);
        }
    }
}
