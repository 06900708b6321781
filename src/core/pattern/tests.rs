use super::*;

/// Pattern, subject, and whether Go's `regexp` (1.26) matches. Rows marked with a star differ in the untranslated crate.
const MEANINGS: &[(&str, &str, bool)] = &[
    // * Classes of ASCII.
    (r"^\d+$", "٣٤٥", false),
    (r"^\d+$", "345", true),
    (r"^\w+$", "é", false),
    (r"^\w+$", "aZ_9", true),
    (r"^\s$", "\u{a0}", false),
    (r"^\s$", "\u{85}", false),
    (r"^\s$", "\u{b}", false),
    (r"^\s$", "\t", true),
    (r"^\W$", "é", true),
    (r"^\D$", "٣", true),
    (r"^\S$", "\u{a0}", true),
    (r"^[\d]+$", "٣", false),
    (r"^[\w-]+$", "é", false),
    (r"^[^\w]$", "é", true),
    (r"^[\W]$", "é", true),
    (r"^[\s]$", "\u{a0}", false),
    (r"^[\Sa]$", "\u{a0}", true),
    (r"^[^\D]$", "٣", false),
    (r"^[^\D]$", "3", true),
    // * Edges of words of ASCII.
    (r"\bfoo\b", "éfoo", true),
    (r"\bfoo\b", "afoo", false),
    (r"\Bfoo", "éfoo", false),
    (r"\Bfoo", "afoo", true),
    (r"\brm\b", "ls; rm -rf", true),
    (r"\B", "é", true),
    (r"^\B$", "", true),
    (r"é\Bé", "éé", true),
    // * Set operations that are none.
    (r"^[a-c&&b]$", "&", true),
    (r"^[a-c&&b]$", "a", true),
    (r"^[a-c--b]$", "-", true),
    (r"^[a~~b]$", "~", true),
    (r"^[a~~b]$", "a", true),
    (r"^[a&&]$", "&", true),
    (r"^[a[b]$", "[", true),
    (r"^[a[b]]$", "b]", true),
    (r"^[a[b]]$", "b", false),
    (r"^[[a]$", "[", true),
    // Literal braces, octal, quotes.
    (r"^a{,2}$", "a{,2}", true),
    (r"^a{,2}$", "aa", false),
    (r"^a{2$", "a{2", true),
    (r"^a{$", "a{", true),
    (r"^a{x}$", "a{x}", true),
    (r"^a{02}$", "a{02}", true),
    (r"^a{1,x}$", "a{1,x}", true),
    (r"^{2}$", "", true),
    (r"^x{,}$", "x{,}", true),
    (r"a}", "a}", true),
    (r"^\Qa.b\E$", "a.b", true),
    (r"^\Qa.b\E$", "axb", false),
    (r"^\Qab\E+$", "abbb", true),
    (r"^\Qa.b", "a.b", true),
    (r"^\Q\E$", "", true),
    (r"^\101$", "A", true),
    (r"^\0$", "\0", true),
    (r"^\012$", "\n", true),
    (r"^\08$", "\u{0}8", true),
    (r"^\1011$", "A1", true),
    (r"^[\101-\103]$", "B", true),
    // Escapes.
    (r"^\x41\x{42}\x{1F600}$", "AB\u{1f600}", true),
    (r"^\a\f\n\r\t\v$", "\u{7}\u{c}\n\r\t\u{b}", true),
    (r"^\_\-\/\&\~\#\ \!\@\%\:\;\=\,\'\`$", "_-/&~# !@%:;=,'`", true),
    ("^\\\"$", "\"", true),
    (r"^\.\*\+\?\(\)\[\]\{\}\|\^\$\\$", r".*+?()[]{}|^$\", true),
    (r"^[\]\-\\^]+$", r"]-\^", true),
    (r"^[]a]+$", "]a", true),
    (r"^[^]a]$", "b", true),
    (r"^[^]a]$", "]", false),
    (r"^[-a]$", "-", true),
    (r"^[a-]$", "-", true),
    (r"^[\d-z]+$", "1-z", true),
    (r"^[--/]$", ".", true),
    (r"^[a-b-c]+$", "-", true),
    (r"^[#]$", "#", true),
    (r"^[ ]$", " ", true),
    (r"^[.]$", "x", false),
    // Anchors and lines.
    (r"^npm test$", "npm test\n", false),
    (r"^npm test$", "npm test\nrm", false),
    (r"(?m)^rm$", "x\nrm\ny", true),
    (r"\Arm\z", "rm", true),
    (r"(?m)\Arm\z", "x\nrm", false),
    (r"^a.b$", "a\nb", false),
    (r"(?s)^a.b$", "a\nb", true),
    (r"^a.b$", "a\rb", true),
    (r"^[^x]$", "\n", true),
    (r"(?m)^a$", "a\r\n", false),
    // Flags.
    (r"(?i)^k$", "\u{212a}", true),
    (r"(?i)^\w$", "\u{212a}", true),
    (r"(?i)^\w$", "ſ", true),
    (r"(?i)^\W$", "ſ", false),
    (r"(?i)^[[:lower:]]$", "A", true),
    (r"(?i)^[^[:lower:]]$", "A", false),
    (r"(?i)^straße$", "STRASSE", false),
    (r"(?i)^é$", "É", true),
    (r"(?i:a)b", "Ab", true),
    (r"(?i:a)b", "AB", false),
    (r"(?i)a(?-i)b", "Ab", true),
    (r"(?i)a(?-i)b", "AB", false),
    (r"(?U)^a+$", "aaa", true),
    (r"(?U:a+?)", "aaa", true),
    (r"(?:a)", "a", true),
    (r"(?ii)a", "A", true),
    (r"(?i-i)a", "A", false),
    (r"^(a(?i)b|c)d$", "aBd", true),
    (r"^(a(?i)b|c)d$", "Cd", true),
    (r"^(a(?i)b|c)d$", "aBD", false),
    // Groups, repetitions, alternatives.
    (r"^(?P<n>a)(?<m>b)$", "ab", true),
    (r"^(?P<1>a)$", "a", true),
    (r"^()$", "", true),
    (r"^(a|)$", "", true),
    (r"^a{2,3}$", "aaa", true),
    (r"^a{2,3}$", "aaaa", false),
    (r"^a{2,}?$", "aaaa", true),
    (r"^a{0}$", "", true),
    (r"^a*?b+?c??$", "aab", true),
    (r"^^*$$", "", true),
    (r"^a{1000}$", "a", false),
    // Classes by name.
    (r"^[[:alpha:]]+$", "abc", true),
    (r"^[[:alpha:]]+$", "é", false),
    (r"^[[:^alpha:]]$", "é", true),
    (r"^[[:word:][:space:]]+$", "a \u{b}", true),
    (r"^[[:punct:]]+$", "!~[`", true),
    (r"^\pL+$", "é", true),
    (r"^\p{Lu}$", "É", true),
    (r"^\PL$", "é", false),
    (r"^\p{^L}$", "1", true),
    (r"^\P{^L}$", "a", true),
    (r"^\p{Greek}+$", "αβ", true),
    (r"^[\p{Greek}\d]+$", "α1", true),
    (r"^\p{Any}$", "x", true),
    (r"^\p{Cn}$", "\u{378}", true),
    // The patterns of the published examples.
    (r"^https://(docs\.acme\.com|api\.acme\.com|github\.com/acme/)", "https://api.acme.com.evil.example", true),
    (r"^https://(docs\.acme\.com|api\.acme\.com|github\.com/acme/)", "HTTPS://api.acme.com/", false),
    (r"^https://(docs\.acme\.com|api\.acme\.com|github\.com/acme/)", "\nhttps://api.acme.com/", false),
    (r"[;&|`]|\$\(|\brm\b|\bcurl\b|\bbash\b\s+-c", "ls $(id)", true),
    (r"[;&|`]|\$\(|\brm\b|\bcurl\b|\bbash\b\s+-c", "bash\t-c x", true),
    (r"^(npm (test|run lint)|git (status|diff|log)( .*)?|cat [A-Za-z0-9_/.-]+)$", "git log --stat ; curl x", true),
];

/// Pattern, and a part of the message with which it is refused.
const REFUSALS: &[(&str, &str)] = &[
    (r"\<", "edge of a word"),
    (r"\>", "edge of a word"),
    (r"[\Q]", "`\\Q` is no escape"),
    (r"\u0041", "`\\u` is no escape"),
    (r"\U00000041", "`\\U` is no escape"),
    (r"\h", "`\\h` is no escape"),
    (r"\E", "`\\E` is no escape"),
    (r"\Z", "`\\Z` is no escape"),
    (r"\C", "`\\C` is no escape"),
    (r"\é", "`\\é` is no escape"),
    (r"[\b]", "`\\b` is no escape"),
    (r"\p{Script=Greek}", "no Unicode category or script"),
    (r"\p{greek}", "no Unicode category or script"),
    (r"\p{Alphabetic}", "no Unicode category or script"),
    (r"\p{", "missing `}`"),
    (r"\p", "no Unicode category or script"),
    (r"\pé", "no Unicode category or script"),
    (r"a++", "repeats a repetition"),
    (r"a**", "repeats a repetition"),
    (r"a{2}{3}", "repeats a repetition"),
    (r"a*?*", "repeats a repetition"),
    (r"*a", "nothing stands before `*`"),
    (r"(*)", "nothing stands before `*`"),
    (r"a|*", "nothing stands before `*`"),
    (r"{2}x", "nothing stands before `{`"),
    (r"(?i)*", "after a group of flags"),
    (r"(?x)a", "`(?x` is no group"),
    (r"(?u)a", "`(?u` is no group"),
    (r"(?R)a", "`(?R` is no group"),
    (r"(?-)a", "`(?)` is no group"),
    (r"(?i-)a", "`(?)` is no group"),
    (r"(?i--s)a", "`(?-` is no group"),
    (r"(?#x)", "`(?#` is no group"),
    (r"(?P=n)", "`(?P` is no group"),
    (r"(?>a)", "`(?>` is no group"),
    (r"(?=a)", "look-ahead"),
    (r"(?!a)", "look-ahead"),
    (r"(?<=a)", "look-behind"),
    (r"(?<!a)", "look-behind"),
    (r"(?P<n-1>a)", "is no name"),
    (r"(?P<>a)", "is no name"),
    (r"(?P<n", "has no end"),
    (r"(?P<n>a)(?<n>b)", "two groups are named"),
    (r"(a)\1", "back-references"),
    (r"\8", "back-references"),
    (r"a{1001}", "invalid repeat count"),
    (r"a{2,1}", "invalid repeat count"),
    (r"a{99999999999}", "invalid repeat count"),
    (r"[invalid(", "missing `]`"),
    (r"[a", "missing `]`"),
    (r"[]", "missing `]`"),
    (r"[z-a]", "goes backwards"),
    (r"[a-\d]", "`\\d` is no escape"),
    (r"[[:foo:]]", "is no class"),
    (r"(a", "missing `)`"),
    (r"(?i", "missing `)`"),
    (r"a)", "unexpected `)`"),
    (r"a\", "`\\` at the end"),
    (r"[\", "`\\` at the end"),
    (r"\x4", "two hexadecimal digits"),
    (r"\x{}", "is no character"),
    (r"\xZZ", "is no character"),
    (r"\x{110000}", "is no character"),
    (r"\x{D800}", "is no character"),
    (r"\x{41", "missing `}`"),
    (r"((a{100}){100}){100}", "exceeds size limit of 1048576 bytes"),
];

#[test]
fn patterns_mean_what_they_mean_in_go() {
    for (pattern, subject, expected) in MEANINGS {
        let compiled = Pattern::compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        assert_eq!(
            compiled.is_match(subject),
            Some(*expected),
            "{pattern} on {subject:?}: {}",
            translate(pattern).unwrap()
        );
    }
}

#[test]
fn what_go_refuses_or_nobody_can_tell_is_refused() {
    for (pattern, message) in REFUSALS {
        let error = Pattern::compile(pattern).expect_err(pattern).to_string();
        assert!(error.contains(message), "{pattern}: {error}");
        assert!(!error.contains('\n'), "{pattern}: {error}");
    }
}

#[test]
fn a_pattern_has_at_most_1024_characters() {
    assert!(Pattern::compile(&"é".repeat(PATTERN_CHARS_MAX)).is_ok());
    let error = Pattern::compile(&"a".repeat(PATTERN_CHARS_MAX + 1)).unwrap_err().to_string();
    assert_eq!(error, "the pattern has 1025 characters, more than 1024");
}

#[test]
fn a_subject_above_64_kib_cannot_be_judged() {
    let pattern = Pattern::compile("^a*$").unwrap();
    assert_eq!(pattern.is_match(&"a".repeat(SUBJECT_BYTES_MAX)), Some(true));
    assert_eq!(pattern.is_match(&"a".repeat(SUBJECT_BYTES_MAX + 1)), None);
}

#[test]
fn nested_repetition_is_linear_in_the_subject() {
    // A backtracking engine needs 2^32768 steps for this; a test that hangs is the failure.
    let pattern = Pattern::compile("(a+)+$").unwrap();
    assert_eq!(pattern.is_match(&"a!".repeat(SUBJECT_BYTES_MAX / 2)), Some(false));
    let mut long = "a".repeat(SUBJECT_BYTES_MAX - 1);
    long.push('!');
    assert_eq!(pattern.is_match(&long), Some(false));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in r"[a-c(){}\[\]\\^$.|*+?:<>PQE,\-0-9dwsbpLxi&~é]{0,24}") {
        if let Ok(pattern) = Pattern::compile(&text) {
            proptest::prop_assert!(pattern.is_match("abc").is_some());
        }
    }

    #[test]
    fn what_translates_compiles(text in r"[a-c(){}\[\]^$.|*+?,\-0-9&~é]{0,12}") {
        if let Ok(translated) = translate(&text) {
            let built = regex::Regex::new(&translated);
            proptest::prop_assert!(built.is_ok(), "{} became {}: {:?}", text, translated, built);
        }
    }
}
