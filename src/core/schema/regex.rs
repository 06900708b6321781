//! Patterns of JSON Schema are ECMAScript's; ours are Go's. What both mean alike is written anew, the rest is refused.

use crate::pattern::Pattern;

/// White space of ECMAScript, as members of a class.
const SPACE: &str = r"\t\n\x{b}\f\r \x{a0}\x{feff}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}";

/// Compiles a pattern; `None` for one that cannot be run in linear time or whose meaning is not clear.
pub(super) fn compile(text: &str) -> Option<Pattern> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let mut in_class = false;
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(&mut rest, &mut out, in_class)?,
            // What a class of Go can hold and one of ECMAScript cannot.
            '[' if in_class => match rest.peek() {
                Some(':' | '=' | '.') => return None,
                _ => out.push_str(r"\["),
            },
            '[' => {
                out.push('[');
                in_class = true;
                if rest.peek() == Some(&'^') {
                    out.extend(rest.next());
                }
                // `[]` matches nothing in one and begins with a bracket in the other.
                if rest.peek() == Some(&']') {
                    return None;
                }
            }
            ']' => {
                out.push_str(if in_class { "]" } else { r"\]" });
                in_class = false;
            }
            '.' if !in_class => out.push_str(r"[^\n\r\x{2028}\x{2029}]"),
            '(' if !in_class && rest.peek() == Some(&'?') => {
                out.push('(');
                out.extend(rest.next());
                // Only plain and named groups; flags are not ECMAScript's, and to look around is not linear.
                match rest.next()? {
                    ':' => out.push(':'),
                    '<' if !matches!(rest.peek(), Some('=' | '!')) => out.push_str("P<"),
                    _ => return None,
                }
            }
            other => out.push(other),
        }
    }
    Pattern::compile(&out).ok()
}

fn escape(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String, in_class: bool) -> Option<()> {
    let c = rest.next()?;
    match c {
        'd' | 'D' | 'w' | 'W' | 't' | 'n' | 'r' | 'f' => out.extend(['\\', c]),
        'b' | 'B' if !in_class => out.extend(['\\', c]),
        'b' => out.push_str(r"\x{8}"),
        's' if in_class => out.push_str(SPACE),
        's' => out.push_str(&format!("[{SPACE}]")),
        'S' if !in_class => out.push_str(&format!("[^{SPACE}]")),
        'v' => out.push_str(r"\x{b}"),
        '0' if !rest.peek().is_some_and(char::is_ascii_digit) => out.push_str(r"\x{0}"),
        'x' => push_code(rest, out, 2)?,
        'u' if rest.peek() == Some(&'{') => {
            rest.next();
            let digits: String = rest.by_ref().take_while(|c| *c != '}').collect();
            push_hex(out, &digits)?;
        }
        'u' => push_code(rest, out, 4)?,
        'p' | 'P' if rest.peek() == Some(&'{') => out.extend(['\\', c]),
        c if c.is_ascii_punctuation() && !matches!(c, '<' | '>') => out.extend(['\\', c]),
        _ => return None,
    }
    Some(())
}

fn push_code(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String, digits: usize) -> Option<()> {
    let text: String = rest.by_ref().take(digits).collect();
    if text.len() == digits { push_hex(out, &text) } else { None }
}

/// Half a surrogate pair is no character here.
fn push_hex(out: &mut String, digits: &str) -> Option<()> {
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let code = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)?;
    out.push_str(&format!("\\x{{{:x}}}", u32::from(code)));
    Some(())
}
