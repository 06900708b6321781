//! Reading of the page of metrics: as much of the OpenMetrics text format as our own registry writes.

use std::borrow::Cow;

/// What a family measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

impl Kind {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "counter" => Some(Self::Counter),
            "gauge" => Some(Self::Gauge),
            "histogram" => Some(Self::Histogram),
            "info" => Some(Self::Info),
            _ => None,
        }
    }
}

/// All samples of one name, in the order of the page.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Family<'a> {
    pub(super) name: &'a str,
    pub(super) help: &'a str,
    pub(super) kind: Kind,
    pub(super) samples: Vec<Sample<'a>>,
}

pub(super) type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample<'a> {
    /// What follows the name of the family, without the underscore: `bucket`, `total` and so on.
    pub(super) part: &'a str,
    pub(super) labels: Labels<'a>,
    pub(super) value: &'a str,
    pub(super) exemplar: Option<Exemplar<'a>>,
}

/// One observation of those that a bucket counts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exemplar<'a> {
    pub(super) labels: Labels<'a>,
    pub(super) value: f64,
    /// Unix seconds.
    pub(super) time: Option<f64>,
}

/// The families of a page, and how many of its lines could not be read: none, as long as we wrote it.
pub(super) fn read(page: &str) -> (Vec<Family<'_>>, usize) {
    let (mut families, mut unread) = (Vec::<Family<'_>>::new(), 0_usize);
    let mut help = ("", "");
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (word, rest) = comment.split_once(' ').unwrap_or((comment, ""));
            let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
            match (word, Kind::parse(text)) {
                ("HELP", _) => help = (name, text),
                ("TYPE", Some(kind)) => {
                    let help = if help.0 == name { help.1 } else { "" };
                    families.push(Family { name, help, kind, samples: Vec::new() });
                }
                ("EOF", _) => break,
                _ => unread = unread.saturating_add(1),
            }
            continue;
        }
        let taken = families.last_mut().and_then(|family| {
            let sample = sample(line, family.name)?;
            family.samples.push(sample);
            Some(())
        });
        if taken.is_none() {
            unread = unread.saturating_add(1);
        }
    }
    (families, unread)
}

fn sample<'a>(line: &'a str, family: &str) -> Option<Sample<'a>> {
    let rest = line.strip_prefix(family)?;
    let end = rest.find(['{', ' '])?;
    let (part, rest) = rest.split_at_checked(end)?;
    let part = if part.is_empty() { part } else { part.strip_prefix('_')? };
    let (labels, rest) = labels(rest)?;
    let (value, exemplar) = match rest.trim_start().split_once(" # ") {
        Some((value, text)) => (value, Some(exemplar(text)?)),
        None => (rest.trim_start(), None),
    };
    value.parse::<f64>().ok()?;
    Some(Sample { part, labels, value, exemplar })
}

fn exemplar(text: &str) -> Option<Exemplar<'_>> {
    let (labels, rest) = labels(text)?;
    let mut words = rest.split_ascii_whitespace();
    let value = words.next()?.parse().ok()?;
    let time = words.next().map(str::parse).transpose().ok()?;
    words.next().is_none().then_some(Exemplar { labels, value, time })
}

/// The labels in braces, if there are any, and what follows them.
fn labels(text: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Labels::new();
    let Some(mut rest) = text.strip_prefix('{') else { return Some((labels, text)) };
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.push((name, value));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// Text up to its closing quote, and what follows that.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let stop = text.find(['"', '\\'])?;
    let (plain, rest) = text.split_at_checked(stop)?;
    if let Some(rest) = rest.strip_prefix('"') {
        return Some((Cow::Borrowed(plain), rest));
    }
    let mut value = plain.to_owned();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return Some((Cow::Owned(value), chars.as_str())),
            '\\' => value.push(match chars.next()? {
                'n' => '\n',
                c => c,
            }),
            c => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_written() {
        let page = "# HELP a_seconds How long.\n# TYPE a_seconds histogram\n\
                    a_seconds_sum{of=\"x\"} 0.5\na_seconds_count{of=\"x\"} 2\n\
                    a_seconds_bucket{le=\"0.1\",of=\"x\"} 1 # {trace_id=\"ab\"} 0.05 1700000000.25\n\
                    a_seconds_bucket{le=\"+Inf\",of=\"x\"} 2 # {trace_id=\"cd\"} 0.45\n\
                    # HELP b Things.\n# TYPE b counter\nb_total{q=\"say \\\"a, b} # {c\\\" \\\\\\n\",r=\"\"} 7\n\
                    # TYPE c gauge\nc -1.5\n# EOF\n";
        let (families, unread) = read(page);
        assert_eq!((families.len(), unread), (3, 0));
        let [seconds, things, gauge] = families.as_slice() else { panic!() };
        assert_eq!((seconds.name, seconds.help, seconds.kind), ("a_seconds", "How long.", Kind::Histogram));
        let parts: Vec<_> = seconds.samples.iter().map(|sample| (sample.part, sample.value)).collect();
        assert_eq!(parts, [("sum", "0.5"), ("count", "2"), ("bucket", "1"), ("bucket", "2")]);
        let exemplar = seconds.samples[2].exemplar.as_ref().unwrap();
        assert_eq!((exemplar.value, exemplar.time), (0.05, Some(1_700_000_000.25)));
        assert_eq!(exemplar.labels, [("trace_id", "ab".into())]);
        assert_eq!(seconds.samples[3].exemplar.as_ref().unwrap().time, None);
        assert_eq!(things.samples[0].labels, [("q", "say \"a, b} # {c\" \\\n".into()), ("r", "".into())]);
        assert_eq!((gauge.help, gauge.samples[0].part, gauge.samples[0].value), ("", "", "-1.5"));
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_left_out() {
        let page = "a 1\n# TYPE a gauge\nb 1\na one\na{x=\"y} 1\na{x=\"y\"} 1 # {t=\"z\"} \na 2\n# TYPE d summary\n";
        let (families, unread) = read(page);
        assert_eq!(unread, 6);
        assert_eq!(families[0].samples.len(), 1);
    }
}
