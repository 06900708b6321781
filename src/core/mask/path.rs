//! Paths into a message: where a rule looks.

/// Names and list steps in one path.
pub const PATH_STEPS_MAX: usize = 32;
/// Characters of one name.
pub const STEP_CHARS_MAX: usize = 256;
/// The members of a message in which rules look.
const ROOTS: &[&str] = &["result", "error", "params"];

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// `[*]`: the elements of a list.
    Elements,
    /// `*`: the members of an object.
    Members,
    /// The member of that name; `json` below a string is the JSON text that it holds.
    Name(Box<str>),
}

/// `result.content[*].text.json.customer.email`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path(pub(crate) Box<[Segment]>);

/// Where a walk goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    Element,
    Member(&'a str),
}

impl Segment {
    pub(crate) fn takes(&self, step: Step<'_>) -> bool {
        match (self, step) {
            (Segment::Elements, Step::Element) | (Segment::Members, Step::Member(_)) => true,
            (Segment::Name(name), Step::Member(key)) => **name == *key,
            (Segment::Elements, Step::Member(_)) | (Segment::Members | Segment::Name(_), Step::Element) => false,
        }
    }
}

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// What is wrong with it, for the author.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut segments = Vec::new();
        for part in text.split('.') {
            let name = part.trim_end_matches("[*]");
            if let Some(fault) = fault(name) {
                return Err(fault.to_owned());
            }
            segments.push(if name == "*" { Segment::Members } else { Segment::Name(name.into()) });
            let lists = part.len().saturating_sub(name.len()) / 3;
            segments.extend(std::iter::repeat_n(Segment::Elements, lists));
        }
        if segments.len() > PATH_STEPS_MAX {
            return Err(format!("the path has {} steps, more than {PATH_STEPS_MAX}", segments.len()));
        }
        let is_rooted = matches!(segments.first(), Some(Segment::Name(name)) if ROOTS.contains(&&**name));
        if !is_rooted {
            return Err("a path starts with `result`, `error` or `params`".to_owned());
        }
        Ok(Self(segments.into()))
    }

    /// The path, and the same one in the copy: a server writes `structuredContent` also as JSON text into `content`.
    pub(crate) fn with_copy(self) -> Vec<Path> {
        let structured = [Segment::Name("result".into()), Segment::Name("structuredContent".into())];
        let text = [
            Segment::Name("result".into()),
            Segment::Name("content".into()),
            Segment::Elements,
            Segment::Name("text".into()),
            Segment::Name("json".into()),
        ];
        let moved = |from: &[Segment], to: &[Segment]| {
            let rest = self.0.strip_prefix(from)?;
            Some(Path([to, rest].concat().into()))
        };
        let copy = moved(&structured, &text).or_else(|| moved(&text, &structured));
        std::iter::once(self).chain(copy).collect()
    }
}

/// What would never match silently is refused: to its author it looks like a rule.
fn fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("a name in the path is empty");
    }
    if name.chars().count() > STEP_CHARS_MAX {
        return Some("a name in the path is too long");
    }
    if name != "*" && name.contains(['[', ']', '*']) {
        return Some("elements of a list are `[*]`, all of them, and the members of an object `*`");
    }
    if name.contains(['"', '\'', '`', '\\', '~']) {
        return Some("names in a path cannot be quoted or escaped");
    }
    if name.trim() != name || name.chars().any(char::is_control) {
        return Some("a name in the path has white space around it, or a control character");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read() {
        let name = |name: &str| Segment::Name(name.into());
        let path = Path::parse("result.content[*].text.json.a[*][*].*").unwrap();
        let expected = [
            name("result"),
            name("content"),
            Segment::Elements,
            name("text"),
            name("json"),
            name("a"),
            Segment::Elements,
            Segment::Elements,
            Segment::Members,
        ];
        assert_eq!(*path.0, expected);
    }

    #[test]
    fn what_would_never_match_is_refused() {
        for text in ["", "a.b", "result..a", "result.a[0]", "result.[*]", "result.\"a\"", "*.a", "result. a", "args.a"]
        {
            assert!(Path::parse(text).is_err(), "{text}");
        }
        let steps = |count: usize| Path::parse(&format!("result{}", ".a".repeat(count)));
        assert!(steps(PATH_STEPS_MAX - 1).is_ok() && steps(PATH_STEPS_MAX).is_err());
        let long = |chars: usize| Path::parse(&format!("result.{}", "é".repeat(chars)));
        assert!(long(STEP_CHARS_MAX).is_ok() && long(STEP_CHARS_MAX + 1).is_err());
    }

    #[test]
    fn structured_content_and_its_copy_go_together() {
        let both = |text: &str| Path::parse(text).unwrap().with_copy();
        let (a, b) = ("result.structuredContent.a.b", "result.content[*].text.json.a.b");
        assert_eq!(both(a), [Path::parse(a).unwrap(), Path::parse(b).unwrap()]);
        assert_eq!(both(b), [Path::parse(b).unwrap(), Path::parse(a).unwrap()]);
        let (a, b) = ("result.structuredContent", "result.content[*].text.json");
        assert_eq!(both(a), [Path::parse(a).unwrap(), Path::parse(b).unwrap()]);
        for alone in ["result.structuredContentOther", "result.content[*].text", "error.data.a"] {
            assert_eq!(both(alone), [Path::parse(alone).unwrap()]);
        }
    }
}
