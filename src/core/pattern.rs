//! Patterns of the `regex` operator: written for Go's RE2, run by the Rust `regex` crate, with one meaning.
//!
//! Policies of the published dialect are written and tested against Go. Nine constructs compile in both engines and mean
//! different things (`\d` is ASCII in Go, `[a&&b]` is an intersection in Rust, ...), so a pattern is never handed over as
//! it stands: it is read by Go's grammar and written anew in a form that can only mean what Go means. What Go refuses is
//! refused here as well, and so is `\<`, which the two engines read differently and no reader can tell which is meant.

use std::borrow::Cow;

mod names;

/// Characters of a pattern.
pub const PATTERN_CHARS_MAX: usize = 1024;
/// Bytes of a compiled pattern.
pub const COMPILED_BYTES_MAX: usize = 1 << 20;
/// The least that a compiled pattern is counted with.
const COMPILED_BYTES_MIN: usize = 1 << 12;
/// Bytes of a subject; a longer one cannot be judged.
pub const SUBJECT_BYTES_MAX: usize = 64 * 1024;
/// Largest count of a repetition, as in Go.
const REPEAT_MAX: u32 = 1000;

/// A compiled pattern. Matching takes time linear in the subject.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: regex::Regex,
    bytes: usize,
    source: Box<str>,
}

/// Why a pattern is refused; the text is for the author of the policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(Cow<'static, str>);

impl Pattern {
    /// Compiles a pattern of Go's syntax.
    ///
    /// # Errors
    /// What is wrong with it, for the author: too long, too large, or not a pattern that Go accepts.
    pub fn compile(text: &str) -> Result<Self, PatternError> {
        let length = text.chars().count();
        if length > PATTERN_CHARS_MAX {
            return refuse(format!("the pattern has {length} characters, more than {PATTERN_CHARS_MAX}"));
        }
        let (regex, bytes) = build(text)?;
        Ok(Self { regex, bytes, source: text.into() })
    }

    /// Bytes that its program takes at most: the first of a few steps that it fits in.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The pattern as the author wrote it.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the pattern matches somewhere in the subject; `None` for a subject longer than [`SUBJECT_BYTES_MAX`].
    #[must_use]
    pub fn is_match(&self, subject: &str) -> Option<bool> {
        (subject.len() <= SUBJECT_BYTES_MAX).then(|| self.regex.is_match(subject))
    }
}

/// Compiles a pattern of Go's syntax; gives the bytes that its program takes at most.
///
/// The library tells no size, only that one is above a limit. So the limit grows in steps: what is small, as nearly every pattern
/// is, is known to be small, and what fails costs no more than the step.
///
/// # Errors
/// What is wrong with it, for the author.
pub(crate) fn build(text: &str) -> Result<(regex::Regex, usize), PatternError> {
    let translated = translate(text)?;
    let mut bytes = COMPILED_BYTES_MIN;
    loop {
        let built = regex::RegexBuilder::new(&translated).size_limit(bytes).dfa_size_limit(COMPILED_BYTES_MAX).build();
        match built {
            Ok(regex) => return Ok((regex, bytes)),
            Err(regex::Error::CompiledTooBig(_)) if bytes < COMPILED_BYTES_MAX => bytes = bytes.saturating_mul(4),
            Err(error) => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                return refuse(last.strip_prefix("error: ").unwrap_or(last).to_owned());
            }
        }
    }
}

/// Writes a pattern of Go's syntax as one of the `regex` crate that means the same.
///
/// # Errors
/// What Go refuses, and what has no clear meaning in both.
pub fn translate(text: &str) -> Result<String, PatternError> {
    let mut reader =
        Reader { rest: text, out: String::new(), groups: 0, previous: Previous::Nothing, names: Vec::new() };
    while let Some(c) = reader.bump() {
        reader.term(c)?;
    }
    if reader.groups > 0 {
        return refuse("missing `)`");
    }
    Ok(reader.out)
}

/// What stands before the place where a repetition could stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Previous {
    Atom,
    Flags,
    Nothing,
    Repetition,
}

struct Reader<'a> {
    rest: &'a str,
    out: String,
    groups: u32,
    previous: Previous,
    names: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    fn term(&mut self, c: char) -> Result<(), PatternError> {
        match c {
            '(' => return self.group(),
            ')' => {
                self.groups = self.groups.checked_sub(1).ok_or(PatternError("unexpected `)`".into()))?;
                self.out.push(')');
            }
            '|' => {
                self.out.push('|');
                self.previous = Previous::Nothing;
                return Ok(());
            }
            '*' | '+' | '?' => {
                self.repetition_allowed(c)?;
                self.out.push(c);
                self.end_repetition();
                return Ok(());
            }
            '{' => {
                if let Some((min, max)) = self.counts() {
                    return self.count(min, max);
                }
                self.literal('{');
            }
            '[' => self.class()?,
            '.' | '^' | '$' => self.out.push(c),
            '\\' => return self.escape(),
            other => self.literal(other),
        }
        self.previous = Previous::Atom;
        Ok(())
    }

    fn repetition_allowed(&self, c: char) -> Result<(), PatternError> {
        match self.previous {
            Previous::Atom => Ok(()),
            Previous::Flags => refuse(format!("`{c}` directly after a group of flags: write the flags further left")),
            Previous::Nothing => refuse(format!("nothing stands before `{c}` that could be repeated")),
            Previous::Repetition => {
                refuse(format!("`{c}` repeats a repetition; Go has no possessive or stacked forms"))
            }
        }
    }

    /// Swallows the `?` of a lazy repetition: which match is found does not matter here, only whether there is one.
    fn end_repetition(&mut self) {
        self.eat('?');
        self.previous = Previous::Repetition;
    }

    fn count(&mut self, min: u32, max: Option<u32>) -> Result<(), PatternError> {
        self.repetition_allowed('{')?;
        if min > REPEAT_MAX || max.is_some_and(|max| max > REPEAT_MAX || max < min) {
            return refuse(format!("invalid repeat count: at most {REPEAT_MAX}, and the smaller number first"));
        }
        self.out.push_str(&match max {
            Some(max) if max == min => format!("{{{min}}}"),
            Some(max) => format!("{{{min},{max}}}"),
            None => format!("{{{min},}}"),
        });
        self.end_repetition();
        Ok(())
    }

    /// Reads `n}`, `n,}` or `n,m}`; anything else leaves the brace a literal, as in Go.
    fn counts(&mut self) -> Option<(u32, Option<u32>)> {
        let (inner, rest) = self.rest.split_once('}')?;
        let number = |text: &str| -> Option<u32> {
            let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let padded = text.len() > 1 && text.starts_with('0');
            (plain && !padded).then(|| text.parse().unwrap_or(u32::MAX))
        };
        let counts = match inner.split_once(',') {
            None => number(inner).map(|min| (min, Some(min)))?,
            Some((min, "")) => (number(min)?, None),
            Some((min, max)) => (number(min)?, Some(number(max)?)),
        };
        self.rest = rest;
        Some(counts)
    }

    /// Reads what follows `(`. No group captures: nobody asks what matched.
    fn group(&mut self) -> Result<(), PatternError> {
        self.previous = Previous::Nothing;
        self.groups = self.groups.saturating_add(1);
        if !self.eat('?') {
            self.out.push_str("(?:");
            return Ok(());
        }
        if self.rest.starts_with("P<") || self.rest.starts_with('<') {
            self.eat('P');
            self.eat('<');
            if self.rest.starts_with(['=', '!']) {
                return refuse("look-behind is not supported");
            }
            return self.group_name();
        }
        if self.rest.starts_with(['=', '!']) {
            return refuse("look-ahead is not supported");
        }
        self.flags()
    }

    fn group_name(&mut self) -> Result<(), PatternError> {
        let Some((name, rest)) = self.rest.split_once('>') else { return refuse("the name of a group has no end") };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return refuse(format!("`{name}` is no name for a group"));
        }
        if self.names.contains(&name) {
            return refuse(format!("two groups are named `{name}`"));
        }
        self.names.push(name);
        self.rest = rest;
        self.out.push_str("(?:");
        Ok(())
    }

    /// Reads `i-s)`, `i:` and the like. `U` only turns greed around and is dropped.
    fn flags(&mut self) -> Result<(), PatternError> {
        let (mut on, mut off, mut negative, mut seen) = (String::new(), String::new(), false, false);
        loop {
            match self.bump() {
                Some(c @ ('i' | 'm' | 's' | 'U')) => {
                    seen = true;
                    on.retain(|flag| flag != c);
                    off.retain(|flag| flag != c);
                    if c != 'U' {
                        if negative { off.push(c) } else { on.push(c) }
                    }
                }
                Some('-') if !negative => (negative, seen) = (true, false),
                Some(end @ (':' | ')')) if !negative || seen => return self.end_flags(&on, &off, end),
                Some(c) => return refuse(format!("`(?{c}` is no group that Go knows; flags are i, m, s and U")),
                None => return refuse("missing `)`"),
            }
        }
    }

    fn end_flags(&mut self, on: &str, off: &str, end: char) -> Result<(), PatternError> {
        let minus = if off.is_empty() { "" } else { "-" };
        if end == ':' {
            self.out.push_str(&format!("(?{on}{minus}{off}:"));
            return Ok(());
        }
        self.groups = self.groups.saturating_sub(1);
        self.previous = Previous::Flags;
        if !on.is_empty() || !off.is_empty() {
            self.out.push_str(&format!("(?{on}{minus}{off})"));
        }
        Ok(())
    }

    /// Reads what follows a backslash outside a class.
    fn escape(&mut self) -> Result<(), PatternError> {
        if self.eat('Q') {
            let (text, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
            self.rest = rest;
            for c in text.chars() {
                self.literal(c);
                self.previous = Previous::Atom;
            }
            return Ok(());
        }
        self.previous = Previous::Atom;
        let Some(c) = self.rest.chars().next() else { return refuse("`\\` at the end") };
        match c {
            'A' | 'z' => self.out.push_str(if c == 'A' { "\\A" } else { "\\z" }),
            'b' => self.out.push_str("(?-u:\\b)"),
            'B' => self.out.push_str("(?-u:\\B)"),
            '<' | '>' => {
                return refuse(format!("`\\{c}` is `{c}` in Go and an edge of a word elsewhere: write `{c}` or `\\b`"));
            }
            _ => {
                if let Some(class) = self.named_class()? {
                    self.out.push_str(&class);
                } else {
                    let c = self.escaped_char()?;
                    self.literal(c);
                }
                return Ok(());
            }
        }
        self.bump();
        Ok(())
    }

    /// Reads `d`, `W`, `pL`, `p{^Greek}` and the like after a backslash.
    fn named_class(&mut self) -> Result<Option<Cow<'static, str>>, PatternError> {
        let Some(c) = self.rest.chars().next() else { return Ok(None) };
        let class = match c {
            'd' => "[0-9]",
            'D' => "[^0-9]",
            's' => "[\\t\\n\\f\\r\\x20]",
            'S' => "[^\\t\\n\\f\\r\\x20]",
            'w' => "[0-9A-Za-z_]",
            'W' => "[^0-9A-Za-z_]",
            'p' | 'P' => {
                self.bump();
                return self.unicode_class(c == 'P').map(|class| Some(class.into()));
            }
            _ => return Ok(None),
        };
        self.bump();
        Ok(Some(class.into()))
    }

    fn unicode_class(&mut self, mut negative: bool) -> Result<String, PatternError> {
        let name = if self.eat('{') {
            let Some((name, rest)) = self.rest.split_once('}') else { return refuse("missing `}` after `\\p{`") };
            self.rest = rest;
            name
        } else {
            let length = self.rest.chars().next().map_or(0, char::len_utf8);
            let (name, rest) = self.rest.split_at_checked(length).unwrap_or_default();
            self.rest = rest;
            name
        };
        let plain = name.strip_prefix('^').unwrap_or(name);
        negative ^= plain.len() < name.len();
        let Some(property) = names::property(plain) else {
            return refuse(format!("`{plain}` is no Unicode category or script that Go knows"));
        };
        Ok(format!("\\{}{{{property}}}", if negative { 'P' } else { 'p' }))
    }

    /// Reads the rest of an escape that stands for one character.
    fn escaped_char(&mut self) -> Result<char, PatternError> {
        let Some(c) = self.bump() else { return refuse("`\\` at the end") };
        Ok(match c {
            'a' => '\u{7}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            'x' => return self.hexadecimal(),
            '0' => self.octal(0),
            '1'..='7' if self.rest.starts_with(|next: char| next.is_digit(8)) => {
                self.octal(c.to_digit(8).unwrap_or_default())
            }
            '1'..='9' => return refuse(format!("`\\{c}`: back-references are not supported")),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => c,
            c => return refuse(format!("`\\{c}` is no escape that Go knows")),
        })
    }

    /// At most two more octal digits.
    fn octal(&mut self, first: u32) -> char {
        let mut code = first;
        for _ in 0..2 {
            let Some(digit) = self.rest.chars().next().and_then(|c| c.to_digit(8)) else { break };
            self.bump();
            code = code.saturating_mul(8).saturating_add(digit);
        }
        char::from_u32(code).unwrap_or_default()
    }

    fn hexadecimal(&mut self) -> Result<char, PatternError> {
        let digits = if self.eat('{') {
            let Some((digits, rest)) = self.rest.split_once('}') else { return refuse("missing `}` after `\\x{`") };
            self.rest = rest;
            digits
        } else {
            let Some((digits, rest)) = self.rest.split_at_checked(2) else {
                return refuse("`\\x` needs two hexadecimal digits or braces");
            };
            self.rest = rest;
            digits
        };
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let code = if plain { u32::from_str_radix(digits, 16).ok() } else { None };
        let Some(c) = code.and_then(char::from_u32) else {
            return refuse(format!("`\\x{{{digits}}}` is no character"));
        };
        Ok(c)
    }

    /// Reads a class after its `[`.
    fn class(&mut self) -> Result<(), PatternError> {
        self.out.push('[');
        if self.eat('^') {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            if !first && self.eat(']') {
                self.out.push(']');
                return Ok(());
            }
            if let Some(class) = self.class_in_class()? {
                self.out.push_str(&class);
            } else {
                self.range()?;
            }
            first = false;
        }
    }

    /// Reads `[:alpha:]`, `\d`, `\pL` and the like inside a class. Nested brackets are a union in the `regex` crate.
    fn class_in_class(&mut self) -> Result<Option<Cow<'static, str>>, PatternError> {
        if let Some((name, rest)) = self.rest.strip_prefix("[:").and_then(|text| text.split_once(":]")) {
            let Some(class) = names::posix(name) else { return refuse(format!("`[:{name}:]` is no class")) };
            self.rest = rest;
            return Ok(Some(class.into()));
        }
        let Some(rest) = self.rest.strip_prefix('\\') else { return Ok(None) };
        let whole = std::mem::replace(&mut self.rest, rest);
        let class = self.named_class()?;
        if class.is_none() {
            self.rest = whole;
        }
        Ok(class)
    }

    fn range(&mut self) -> Result<(), PatternError> {
        let low = self.class_char()?;
        self.literal(low);
        let mut rest = self.rest.chars();
        if rest.next() != Some('-') || matches!(rest.next(), None | Some(']')) {
            return Ok(());
        }
        self.bump();
        let high = self.class_char()?;
        if high < low {
            return refuse(format!("`{low}-{high}` is a range that goes backwards"));
        }
        self.out.push('-');
        self.literal(high);
        Ok(())
    }

    fn class_char(&mut self) -> Result<char, PatternError> {
        match self.bump() {
            None => refuse("missing `]`"),
            Some('\\') => self.escaped_char(),
            Some(c) => Ok(c),
        }
    }

    /// Writes one character so that it can mean nothing but itself, in a class and outside.
    fn literal(&mut self, c: char) {
        if c.is_ascii_alphanumeric() || (!c.is_ascii() && !c.is_control()) {
            self.out.push(c);
        } else {
            self.out.push_str(&format!("\\x{{{:X}}}", u32::from(c)));
        }
    }

    fn bump(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(c)
    }

    fn eat(&mut self, c: char) -> bool {
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

fn refuse<T>(message: impl Into<Cow<'static, str>>) -> Result<T, PatternError> {
    Err(PatternError(message.into()))
}

#[cfg(test)]
mod tests;
