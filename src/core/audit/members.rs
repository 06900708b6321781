//! Members of an object of a record, written in the order of their names.

use crate::text::{is_unsafe, push_number, push_unicode_escape};

/// An object that is being written. Its members come in the order of their names: whoever calls keeps it, and every record has a
/// test that it does.
pub(super) struct Members<'a> {
    out: &'a mut String,
    is_first: bool,
}

impl Members<'_> {
    /// Writes an object.
    pub(super) fn object(out: &mut String, write: impl FnOnce(&mut Members<'_>)) {
        out.push('{');
        write(&mut Members { out, is_first: true });
        out.push('}');
    }

    fn name(&mut self, name: &str) {
        self.out.push_str(if self.is_first { "\"" } else { ",\"" });
        self.is_first = false;
        self.out.push_str(name);
        self.out.push_str("\":");
    }

    /// A text that may come from the wire; nothing for none.
    pub(super) fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text_cut(name, value, super::NAME_BYTES_MAX);
        }
    }

    pub(super) fn text_cut(&mut self, name: &str, value: &str, bytes_max: usize) {
        self.name(name);
        push_text(self.out, value, bytes_max);
    }

    /// A word of our own, which needs no look.
    pub(super) fn word(&mut self, name: &str, value: &str) {
        self.name(name);
        self.out.push('"');
        self.out.push_str(value);
        self.out.push('"');
    }

    /// A number, as text: SEP-3004 leaves out bare numbers, of which readers make different ones.
    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        self.out.push('"');
        push_number(self.out, value);
        self.out.push('"');
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) {
        self.name(name);
        self.out.push_str(if value { "true" } else { "false" });
    }

    pub(super) fn hex(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        self.out.push('"');
        for byte in bytes {
            for digit in [byte >> 4, byte & 0xf] {
                self.out.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        self.out.push('"');
    }

    /// A list of objects.
    pub(super) fn objects<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Members<'_>, T),
    ) {
        self.name(name);
        self.out.push('[');
        for (at, item) in items.into_iter().enumerate() {
            if at > 0 {
                self.out.push(',');
            }
            Members::object(self.out, |members| write(members, item));
        }
        self.out.push(']');
    }

    /// A list of texts that may come from the wire.
    pub(super) fn texts<'t>(&mut self, name: &str, items: impl IntoIterator<Item = &'t str>, bytes_max: usize) {
        self.name(name);
        self.out.push('[');
        for (at, item) in items.into_iter().enumerate() {
            if at > 0 {
                self.out.push(',');
            }
            push_text(self.out, item, bytes_max);
        }
        self.out.push(']');
    }

    /// How many there were, where not all are named.
    pub(super) fn total(&mut self, name: &str, count: usize, listed_max: usize) {
        if count > listed_max {
            self.number(name, u64::try_from(count).unwrap_or(u64::MAX));
        }
    }
}

/// Appends at most `bytes_max` bytes of a text as a JSON string, cut at a character boundary and marked with `…`.
///
/// The value of the string holds no character that steers a viewer: such a character, and every backslash, is written as JSON
/// would escape it, and so is a space at either end. So the value survives any reader and writer of JSON, and can be read back.
pub(super) fn push_text(out: &mut String, text: &str, bytes_max: usize) {
    let cut = if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.get(..end)
    } else {
        None
    };
    out.push('"');
    let part = cut.unwrap_or(text);
    // What is cut goes on, so nothing of it is at the end.
    push_value(out, part, if cut.is_some() { part.len() } else { part.len().saturating_sub(1) }, true);
    out.push_str(if cut.is_some() { "…\"" } else { "\"" });
}

/// A text as the value of a record has it, for comparison with values that were read.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_value(&mut out, text, text.len().saturating_sub(1), false);
    out
}

/// Appends the value, whose last byte stands at `last`; `as_json` escapes it for JSON on top.
fn push_value(out: &mut String, text: &str, last: usize, as_json: bool) {
    if is_plain(text) {
        return out.push_str(text);
    }
    let backslash = if as_json { "\\\\" } else { "\\" };
    for (at, c) in text.char_indices() {
        match c {
            '"' => out.push_str(if as_json { "\\\"" } else { "\"" }),
            '\\' => {
                out.push_str(backslash);
                out.push_str(backslash);
            }
            ' ' if at > 0 && at < last => out.push(' '),
            c if c == ' ' || is_unsafe(c) => {
                let short = match c {
                    '\n' => Some('n'),
                    '\r' => Some('r'),
                    '\t' => Some('t'),
                    _ => None,
                };
                match short {
                    Some(letter) => {
                        out.push_str(backslash);
                        out.push(letter);
                    }
                    None => push_unicode_escape(out, c, backslash),
                }
            }
            c => out.push(c),
        }
    }
}

/// Printable ASCII that needs no escape and has no space at an end, as nearly every text is.
fn is_plain(text: &str) -> bool {
    // No early exit: without one the compiler compares many bytes at a time.
    let inner = text.bytes().fold(true, |plain, b| plain & (b' '..=b'~').contains(&b) & (b != b'"') & (b != b'\\'));
    inner && !text.starts_with(' ') && !text.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(text: &str, bytes_max: usize) -> String {
        let mut out = String::new();
        push_text(&mut out, text, bytes_max);
        out
    }

    #[test]
    fn what_steers_a_viewer_is_spelled_out_in_the_value_itself() {
        assert_eq!(written("a\"\\\n\u{1b}\u{202e}é", 100), r#""a\"\\\\\\n\\u001b\\u202eé""#);
        assert_eq!(escaped("a\"\\\n\u{1b}\u{202e}é"), r#"a"\\\n\u001b\u202eé"#);
        assert_eq!(
            (escaped(" a b "), escaped(" "), escaped("")),
            (r"\u0020a b\u0020".into(), r"\u0020".into(), "".into())
        );
        assert_eq!(written("\u{e0041}", 4), r#""\\udb40\\udc41""#);
    }

    #[test]
    fn a_cut_falls_on_a_character_boundary() {
        assert_eq!(["abc", "abcd"].map(|text| written(text, 3)), ["\"abc\"", "\"abc…\""]);
        assert_eq!((written("aé", 2), written("a bc", 2)), ("\"a…\"".to_owned(), "\"a …\"".to_owned()));
    }

    proptest! {
        #[test]
        fn every_writer_of_json_writes_it_alike(text in any::<String>()) {
            let line = written(&text, usize::MAX);
            let value: String = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&value, &escaped(&text));
            prop_assert!(!value.chars().any(is_unsafe) && value.trim_matches(' ') == value);
            prop_assert_eq!(serde_json::to_string(&value).unwrap(), line);
            // Nothing is lost: the value reads back as the inside of a JSON string.
            let quoted = format!("\"{}\"", value.replace('"', "\\\""));
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }
    }
}
