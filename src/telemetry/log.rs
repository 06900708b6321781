//! The log of the process: text or JSON, to stderr; and to a collector, if there is one (`otlp/logs.rs`).
//!
//! Lines go through a bounded buffer and a thread of their own, so that nobody who reads stderr too slowly can hold up a
//! decision; what does not fit is dropped and counted, and the log says so when there is room again.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt::MakeWriter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::telemetry::{
    lines::{AsTheyAre, Lines, Stream, WhileFailing},
    otlp::logs::LogLayer,
};

/// Bound of what waits to be written, in bytes.
const BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// Longest wait for the last lines at the end.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Longest output of [`safe`], in bytes.
const SAFE_BYTES_MAX: usize = 256;

/// Least severe level that is shown of our own events. Of libraries, warnings at most: they print what is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Per call.
    Debug,
    /// Somebody must act.
    Error,
    /// Life cycle and changes of the configuration.
    Info,
    /// Recovered.
    Warn,
}

impl Level {
    const fn filter(self) -> LevelFilter {
        match self {
            Self::Debug => LevelFilter::DEBUG,
            Self::Error => LevelFilter::ERROR,
            Self::Info => LevelFilter::INFO,
            Self::Warn => LevelFilter::WARN,
        }
    }

    fn targets(self) -> Targets {
        let ours = self.filter();
        Targets::new().with_default(ours.min(LevelFilter::WARN)).with_targets([("mcp_authz", ours)])
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people; in color where stderr is a terminal.
    Text,
}

/// Writes out what is left when dropped, for at most a second. Keep it until the end of `main`.
#[derive(Debug)]
#[must_use = "the last lines are written when this is dropped"]
pub struct LogGuard(Arc<Sink>);

impl Drop for LogGuard {
    fn drop(&mut self) {
        // There is no place left to say that stderr is stuck.
        let _written = self.0.lines.close(CLOSE_WITHIN);
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Stderr is closed, or the thread could not be started.
    #[error("stderr cannot be written to")]
    Stderr(#[source] io::Error),
    /// The process has a log already.
    #[error("the log was set up twice")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up the log of the process. With `collector` messages go there as well.
///
/// # Errors
/// See [`LogError`].
pub fn init(level: Level, format: Format, collector: Option<LogLayer>) -> Result<LogGuard, LogError> {
    let stream = Stream::stderr().map_err(LogError::Stderr)?;
    let lines = Lines::start("log", stream, AsTheyAre, BUFFER_BYTES_MAX, |_| ()).map_err(LogError::Stderr)?;
    let sink = Arc::new(Sink { lines, format, dropped: AtomicU64::new(0) });
    let color = if io::stderr().is_terminal() { Color::Some } else { Color::None };
    subscriber(&sink, level, color, collector).try_init().map_err(LogError::Twice)?;
    Ok(LogGuard(sink))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Color {
    None,
    Some,
}

fn subscriber(
    sink: &Arc<Sink>,
    level: Level,
    color: Color,
    collector: Option<LogLayer>,
) -> impl tracing::Subscriber + Send + Sync + use<> {
    let writer = LineWriter(Arc::clone(sink));
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(color == Color::Some);
    let layer = match sink.format {
        Format::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
        Format::Text => layer.boxed(),
    };
    // The collector comes last: it may have to say that its queue is full, which must not disturb a layer that is yet to come.
    let collector = collector.map(|layer| layer.with_filter(LogLayer::targets(level.filter())));
    tracing_subscriber::registry().with(layer.with_filter(level.targets())).with(collector)
}

#[derive(Debug)]
struct Sink {
    lines: Lines,
    format: Format,
    /// Lines lost since the last note about them.
    dropped: AtomicU64,
}

impl Sink {
    fn append(&self, line: &[u8]) {
        let lost = self.dropped.swap(0, Ordering::Relaxed);
        let taken = if lost == 0 {
            self.lines.append(line, WhileFailing::Buffer)
        } else {
            self.lines.append(&[self.note(lost).as_bytes(), line].join(&b'\n'), WhileFailing::Buffer)
        };
        if taken.is_err() {
            self.dropped.fetch_add(lost.saturating_add(1), Ordering::Relaxed);
        }
    }

    fn note(&self, lost: u64) -> String {
        let text = "log lines dropped: stderr was not read";
        match self.format {
            Format::Json => format!(r#"{{"level":"WARN","message":"{text}","lost":{lost}}}"#),
            Format::Text => format!("WARN {text} lost={lost}"),
        }
    }
}

/// Hands each event to the buffer as a whole.
#[derive(Debug)]
struct LineWriter(Arc<Sink>);

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl io::Write for &LineWriter {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.append(event.strip_suffix(b"\n").unwrap_or(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An error and its causes in one line; the outermost alone often says only that something failed.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Makes text from outside fit for one line of a log: control, bidirectional, invisible and ANSI characters are escaped as
/// `\u{…}`, the backslash as `\\`, and what is longer than 256 bytes is cut and ends in `…`.
#[must_use]
pub fn safe(text: &str) -> Cow<'_, str> {
    if text.len() <= SAFE_BYTES_MAX && !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let room = SAFE_BYTES_MAX.saturating_sub('…'.len_utf8());
    // Longest prefix that leaves room for the mark, should one be needed.
    let mut kept = 0;
    let mut out = String::with_capacity(SAFE_BYTES_MAX);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if is_unsafe(c) => {
                // Writing to a String cannot fail.
                let _ok = write!(out, "\\u{{{:x}}}", u32::from(c)).is_ok();
            }
            c => out.push(c),
        }
        if out.len() <= room {
            kept = out.len();
        }
        if out.len() > SAFE_BYTES_MAX {
            out.truncate(kept);
            out.push('…');
            break;
        }
    }
    Cow::Owned(out)
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\\'
            // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
            | '\u{ad}' | '\u{61c}' | '\u{180e}'
            // Zero width, directional marks, line and paragraph separators, embeddings, overrides, invisible operators, isolates.
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            // Byte order mark, interlinear annotation, tags.
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::telemetry::lines::Output;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Output for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn reopen(&mut self) -> io::Result<bool> {
            Ok(false)
        }
    }

    fn logged(level: Level, format: Format, events: impl FnOnce()) -> String {
        let out = Shared::default();
        let lines = Lines::start("log", out.clone(), AsTheyAre, 4096, |_| ()).unwrap();
        let sink = Arc::new(Sink { lines, format, dropped: AtomicU64::new(0) });
        tracing::subscriber::with_default(subscriber(&sink, level, Color::None, None), events);
        drop(LogGuard(sink));
        String::from_utf8(std::mem::take(&mut out.0.lock().unwrap())).unwrap()
    }

    #[test]
    fn json_lines_parse_and_hold_the_fields() {
        let out = logged(Level::Info, Format::Json, || {
            tracing::info!(target: "mcp_authz::test", tool = %"a\"\n", "policy loaded");
            tracing::debug!(target: "mcp_authz::test", "not shown");
        });
        let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 1);
        assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&"INFO".into(), &"policy loaded".into()));
        assert_eq!(lines[0]["tool"], "a\"\n");
        assert!(lines[0]["timestamp"].is_string());
    }

    #[test]
    fn text_has_no_color_off_a_terminal_and_libraries_are_quiet() {
        let out = logged(Level::Debug, Format::Text, || {
            tracing::debug!(target: "mcp_authz", "ours");
            tracing::info!(target: "h2::codec", "headers with a token");
            tracing::warn!(target: "h2::codec", "theirs");
        });
        assert!(!out.contains('\x1b'));
        assert!(out.contains("ours") && out.contains("theirs") && !out.contains("token"), "{out}");
        let out = logged(Level::Error, Format::Text, || tracing::warn!(target: "h2", "not shown"));
        assert_eq!(out, "");
    }

    #[test]
    fn dropped_lines_are_counted_and_noted() {
        let out = Shared::default();
        let lines = Lines::start("log", out.clone(), AsTheyAre, 90, |_| ()).unwrap();
        let sink = Sink { lines, format: Format::Json, dropped: AtomicU64::new(0) };
        sink.append(&[b'x'; 200]);
        sink.append(&[b'x'; 200]);
        // The note and the line fit now.
        sink.append(b"y");
        assert!(sink.lines.close(Duration::from_secs(60)));
        let out = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(out, "{\"level\":\"WARN\",\"message\":\"log lines dropped: stderr was not read\",\"lost\":2}\ny\n");
    }

    #[test]
    fn untrusted_text_stays_on_one_line_and_is_cut() {
        assert!(matches!(safe("plain text, ünïcode"), Cow::Borrowed(_)));
        assert_eq!(safe("a\nb\u{1b}[31m\u{202e}\\"), "a\\u{a}b\\u{1b}[31m\\u{202e}\\\\");
        assert_eq!(safe("\u{85}\u{2066}\u{e0041}\u{200b}"), "\\u{85}\\u{2066}\\u{e0041}\\u{200b}");
        assert_eq!(safe(&"x".repeat(256)).len(), 256);
        assert_eq!(safe(&"x".repeat(257)), format!("{}…", "x".repeat(253)));
        let cut = safe(&"\u{202e}".repeat(300)).into_owned();
        assert!(cut.len() <= 256 && cut.ends_with("\\u{202e}…"), "{cut}");
        assert_eq!(safe(&"ü".repeat(200)), format!("{}…", "ü".repeat(126)));
    }
}
