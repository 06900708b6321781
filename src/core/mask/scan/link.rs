//! Links: where one starts and ends in a text, and which host it leads to.

use std::ops::Range;

use super::{Text, whole};

/// Bytes of a link that are looked at; the rest of a longer one belongs to it too, as far as this.
const LINK_MAX: usize = 8 * 1024;

/// Bytes of user, host and port where no scheme says that a link begins; one with more is a link to nowhere that is known.
const HOST_MAX: usize = 512;

const fn is_part(b: u8) -> bool {
    b > b' ' && b != 0x7f && !matches!(b, b'"' | b'<' | b'>' | b'`' | b'\'' | b'|' | b'{' | b'}' | b'^')
}

/// A link at the colon of `http:` or `https:`, in any case. Browsers also take one slash, more of them, and backslashes.
pub(super) fn with_scheme(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    if !matches!(text.at(at.saturating_add(1)), b'/' | b'\\') {
        return None;
    }
    let start = text.run_back(at, 16, |b| b.is_ascii_alphanumeric());
    let scheme = text.slice(start..at).to_ascii_lowercase();
    // `xhttps://…` and `git+https://…` lead there as well.
    let known = ["https", "http", "wss", "ws", "ftp"].iter().find(|known| scheme.ends_with(**known))?;
    let (start, next) = (at.saturating_sub(known.len()), at.saturating_add(1));
    let range = whole(text, start..end(text, next, text.run(next, LINK_MAX, is_part)));
    // A scheme that somebody writes about leads nowhere.
    let leads = !text.slice(range.clone()).get(known.len().saturating_add(1)..)?.trim_matches(['/', '\\']).is_empty();
    leads.then_some(range)
}

/// `//host/…` at its first slash, where a page or a markdown text takes it for a link.
pub(super) fn without_scheme(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    let opens = matches!(text.before(at, 1), b'(' | b'<' | b'"' | b'\'' | b'=')
        || (text.before(at, 1) == b' ' && matches!(text.before(at, 2), b':' | b'('));
    if !opens || !matches!(text.at(at.saturating_add(1)), b'/' | b'\\') {
        return None;
    }
    // `// a remark` and `"//"` are none. Only what may be the host is read: the rest may hold thousands of such beginnings.
    let start = text.run(at, LINK_MAX, |b| matches!(b, b'/' | b'\\'));
    let most = text.run(start, HOST_MAX, |b| is_part(b) && !matches!(b, b'/' | b'\\' | b'?' | b'#'));
    let is_long = most.saturating_sub(start) >= HOST_MAX;
    let name = whole(text, at..end(text, start, most));
    if !is_long {
        host(text.slice(name)).filter(|host| host.contains('.'))?;
    }
    Some(whole(text, at..end(text, at, text.run(at, LINK_MAX, is_part))))
}

/// The end of the link, at most that far: what ends a sentence or closes a parenthesis that stood before the link is no part of
/// it.
fn end(text: &Text<'_>, at: usize, most: usize) -> usize {
    let mut open = 0usize;
    let mut end = at;
    for byte in text.bytes.get(at..most).unwrap_or_default() {
        match byte {
            b'(' | b'[' => open = open.saturating_add(1),
            b')' | b']' if open == 0 => break,
            b')' | b']' => open = open.saturating_sub(1),
            _ => {}
        }
        end = end.saturating_add(1);
    }
    while end > at && matches!(text.before(end, 1), b'.' | b',' | b';' | b':' | b'!' | b'?' | b'*') {
        end = end.saturating_sub(1);
    }
    end
}

/// The host of a link, in lower case, without user, port and the dot at its end; `None` for one that cannot be read.
pub(super) fn host(link: &str) -> Option<String> {
    let rest = link.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '+');
    let rest = rest.strip_prefix(':').unwrap_or(rest).trim_start_matches(['/', '\\']);
    let authority = rest.split(['/', '\\', '?', '#']).next().unwrap_or_default();
    let place = authority.rsplit('@').next().unwrap_or_default();
    let name = match place.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) | None => place,
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_plain = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'[' | b']' | b':'));
    is_plain.then_some(name)
}
