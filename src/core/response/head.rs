//! How the body of a response is to be read, from its head alone.

use super::{Head, Withheld, judge::Judge};
use crate::http::is_utf8_of;

/// How a body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// As a stream of events.
    Events,
    /// There is none, or it is nobody's concern.
    Nothing,
    /// Not at all.
    Unreadable(Withheld),
    /// As one text.
    Whole(Form),
}

/// What one text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Nothing may come.
    Empty,
    /// A message that answers the request; the status says whether the server agrees.
    Json {
        /// 2xx: only an answer to the request may come.
        is_success: bool,
    },
    /// Words about an HTTP error.
    Text,
}

impl Framing {
    /// Reads the head strictly: of two lines, two clients could take one each.
    pub(super) fn of(head: &Head<'_>, judge: &Judge) -> Self {
        // These statuses have no body by definition (RFC 9110 section 15); Envoy lets none pass.
        let is_bodiless = head.is_end || head.content_length == Some(0) || matches!(head.status, 100..=199 | 204 | 304);
        if is_bodiless || judge.is_idle() {
            return Self::Nothing;
        }
        if !head.content_encodings.iter().all(|line| is_identity(line)) {
            return Self::Unreadable(Withheld::Encoding);
        }
        let is_success = (200..300).contains(&head.status);
        let limit = u64::try_from(judge.job.limits.bytes_max).unwrap_or(u64::MAX);
        let is_too_long = head.content_length.is_some_and(|bytes| bytes > limit);
        let types: Vec<Option<&str>> = head.content_types.iter().map(|line| std::str::from_utf8(line).ok()).collect();
        let whole = |form| if is_too_long { Self::Unreadable(Withheld::Size) } else { Self::Whole(form) };
        match types.as_slice() {
            [Some(one)] if is_utf8_of(one, "application/json") => whole(Form::Json { is_success }),
            [Some(one)] if is_utf8_of(one, "text/event-stream") => Self::Events,
            // A server that took a notification says so and no more.
            [] if head.status == 202 => Self::Whole(Form::Empty),
            [] | [Some(_)] if !is_success && judge.only_records() => Self::Nothing,
            [] if !is_success => whole(Form::Text),
            [Some(one)] if !is_success && is_readable_text(one) => whole(Form::Text),
            _ => Self::Unreadable(Withheld::MediaType),
        }
    }
}

/// A line of `content-encoding` that changes nothing.
fn is_identity(line: &[u8]) -> bool {
    line.split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .all(|one| one.is_empty() || one.eq_ignore_ascii_case(b"identity"))
}

/// Text of any kind whose ASCII characters are their own bytes.
fn is_readable_text(content_type: &str) -> bool {
    const CHARSETS: [&str; 5] = ["utf-8", "utf8", "us-ascii", "iso-8859-1", "windows-1252"];
    content_type.split(';').skip(1).all(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim_matches([' ', '\t', '"']);
        !name.trim().eq_ignore_ascii_case("charset") || CHARSETS.iter().any(|known| value.eq_ignore_ascii_case(known))
    })
}
