use super::*;

const NOW: u64 = 1_800_000_000_000;

fn read(text: &str) -> GrantsFiles {
    let mut reader = GrantsReader::default();
    reader.add("grants/a.yaml", text.as_bytes(), Format::Yaml);
    reader.finish()
}

fn digest(token: &str) -> String {
    TokenDigest::of(token.as_bytes()).hex()
}

fn entry(token: &str, more: &str) -> String {
    format!("grants: [{{label: l, sha256: '{}', servers: [s]{more}}}]", digest(token))
}

fn defects(text: &str) -> Vec<String> {
    read(text).defects.iter().map(|d| d.to_string().replacen("grants/a.yaml:", "", 1)).collect()
}

#[test]
fn a_full_grant_is_read() {
    let files = read(&entry(
        "t",
        ", policy: p, subject: 'agent:triage', not_before: 2026-01-01T00:00:00Z, expires: 2027-12-31T23:59:59.5+01:00, revoked: false",
    ));
    assert_eq!(files.defects, []);
    let grant = files.grants.resolve(b"t", "s", NOW).unwrap();
    assert_eq!(grant.label().as_ref(), "l");
    assert_eq!(grant.principal().subject.as_ref(), "agent:triage");
    assert_eq!(grant.policy().unwrap().as_ref(), "p");
    assert_eq!(grant.expires_ms(), Some(1_830_293_999_500));
    assert_eq!(files.servers[0].name.as_ref(), "s");
    assert_eq!(files.policies[0].name.as_ref(), "p");
    let plain = read(&entry("t", ""));
    let grant = plain.grants.resolve(b"t", "s", 0).unwrap();
    assert_eq!(grant.principal().subject.as_ref(), "grant:l");
    assert_eq!((grant.policy(), grant.expires_ms(), grant.ordinal()), (None, None, 0));
}

#[test]
fn a_refused_token_has_its_reason() {
    let resolve = |more: &str, token: &[u8], server: &str| {
        read(&entry("t", more)).grants.resolve(token, server, NOW).map(|grant| grant.ordinal())
    };
    assert_eq!(resolve("", b"t", "s"), Ok(0));
    for token in [&b"T"[..], b"", b"t ", b"tt", b"\xff\0"] {
        assert_eq!(resolve("", token, "s"), Err(Reason::TokenUnknown));
    }
    for server in ["", "S", "s ", "other"] {
        assert_eq!(resolve("", b"t", server), Err(Reason::GrantWrongServer));
    }
    assert_eq!(resolve(", revoked: true", b"t", "s"), Err(Reason::GrantRevoked));
    assert_eq!(resolve(", expires: 2027-01-15T08:00:00Z", b"t", "s"), Err(Reason::GrantExpired));
    assert_eq!(resolve(", expires: 2027-01-15T08:00:00.001Z", b"t", "s"), Ok(0));
    assert_eq!(resolve(", not_before: 2027-01-15T08:00:00Z", b"t", "s"), Ok(0));
    assert_eq!(resolve(", not_before: 2027-01-15T08:00:00.001Z", b"t", "s"), Err(Reason::GrantNotYetValid));
    assert_eq!(resolve(", expires: 1969-01-01T00:00:00Z", b"t", "s"), Err(Reason::GrantExpired));
    assert_eq!(resolve(", revoked: true, expires: 1999-01-01T00:00:00Z", b"t", "x"), Err(Reason::GrantRevoked));
}

#[test]
fn no_grant_means_no_entry() {
    assert_eq!(Grants::default().resolve(b"", "", 0).err(), Some(Reason::TokenUnknown));
    assert_eq!(Grants::default().resolve(b"t", "s", NOW).err(), Some(Reason::TokenUnknown));
    assert!(Grants::default().is_empty());
}

#[test]
fn a_hundred_thousand_grants_are_found_each_by_its_token() {
    let grant = |n: u32| Grant {
        principal: Principal::of_grant(&format!("g{n}")),
        digest: TokenDigest::of(format!("mcpa_{n}").as_bytes()),
        servers: vec!["s".into()],
        expires_ms: u64::MAX,
        revoked: false,
        ..Grant::nobody()
    };
    let grants = Grants::new((0..100_000).map(grant).collect());
    assert_eq!(grants.len(), 100_000);
    for n in 0..100_000 {
        let grant = grants.resolve(format!("mcpa_{n}").as_bytes(), "s", NOW).unwrap();
        assert_eq!(grant.label().as_ref(), format!("g{n}"));
    }
    assert_eq!(grants.resolve(b"mcpa_100000", "s", NOW).err(), Some(Reason::TokenUnknown));
    // What a lookup compares does not grow with the number of grants.
    let largest = grants.starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(largest <= 16, "{largest}");
    assert_eq!(grants.iter().map(Grant::ordinal).max(), Some(99_999));
}

#[test]
fn labels_and_tokens_are_unique_over_all_files() {
    let mut reader = GrantsReader::default();
    let line = |label: &str, token: &str| format!("- {{label: {label}, sha256: '{}', servers: [s]}}\n", digest(token));
    reader.add("a.yaml", format!("grants:\n{}{}", line("x", "1"), line("y", "2")).as_bytes(), Format::Yaml);
    reader.add("b.yaml", format!("grants:\n{}{}", line("x", "3"), line("z", "2")).as_bytes(), Format::Yaml);
    assert_eq!(
        reader.finish().defects.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "b.yaml:2: /grants/0/label: the label `x` is taken by the grant at a.yaml:2",
            "b.yaml:3: /grants/1/sha256: the grant `y` has the same token",
        ]
    );
}

#[test]
fn every_defect_is_told() {
    let good = digest("t");
    assert_eq!(
        defects(&format!(
            "grants:
  - 5
  - {{}}
  - {{label: 'a b', sha256: xyz, servers: [], exprires: 1}}
  - {{label: b, sha256: '{good}', servers: [s, s, 5, ''], policy: '', subject: ' x', revoked: yes}}
  - {{label: c, sha256: '{}', servers: s, expires: 2027-01-01, not_before: 90d}}
  - {{label: d, sha256: '{}', servers: [s], not_before: 2027-01-01T00:00:00Z, expires: 2027-01-01T00:00:00Z}}
",
            digest("c"),
            digest("d")
        )),
        [
            "2: /grants/0: expected a map, found a number",
            "3: /grants/1: missing key `label`",
            "3: /grants/1: missing key `sha256`",
            "3: /grants/1: missing key `servers`",
            "4: /grants/2: unknown key `exprires` (did you mean `expires`?)",
            "4: /grants/2/label: `a b` is no label: 1 to 128 of A-Z, a-z, 0-9, `_`, `.`, `-`, `@`, `:`, `/`, `+`",
            "4: /grants/2/servers: must not be empty: the grant could not be used",
            "4: /grants/2/sha256: expected a SHA-256 digest of 64 lower-case hexadecimal digits (`mcp-authz grant new` writes one)",
            "5: /grants/3/policy: must not be empty",
            "5: /grants/3/revoked: expected `true` or `false`, found a string (only these two words, unquoted)",
            "5: /grants/3/servers/1: `s` is listed twice",
            "5: /grants/3/servers/2: expected a string, found a number (quote it)",
            "5: /grants/3/servers/3: must not be empty",
            "5: /grants/3/subject: is no subject: at most 256 bytes without control characters or spaces at its ends",
            "6: /grants/4/expires: `2027-01-01` is no time (RFC 3339 with a zone, such as `2027-01-01T00:00:00Z`)",
            "6: /grants/4/not_before: `90d` is no time (RFC 3339 with a zone, such as `2027-01-01T00:00:00Z`)",
            "6: /grants/4/servers: expected a list, found a string",
            "7: /grants/5/expires: the grant expires before its `not_before`: it could never be used",
        ]
    );
    assert_eq!(defects("grants: {}"), ["1: /grants: expected a list, found a map"]);
    assert_eq!(defects("grant: []"), ["1: unknown key `grant` (did you mean `grants`?)", "1: missing key `grants`"]);
    assert_eq!(defects("grants: []"), [""; 0]);
}

#[test]
fn a_token_in_the_place_of_its_digest_is_never_repeated() {
    let defects = defects("grants: [{label: l, sha256: mcpa_SeCrEtSeCrEt, servers: [s]}]");
    assert_eq!(
        defects,
        [
            "1: /grants/0/sha256: expected a SHA-256 digest, found a token (the token is exposed now: make another with `mcp-authz grant new`)"
        ]
    );
    for bad in
        ["ABCDEF", &digest("t").to_uppercase(), digest("t").trim_start_matches('e'), &format!("{}0", digest("t"))]
    {
        let defects = self::defects(&format!("grants: [{{label: l, sha256: 'x{bad}', servers: [s]}}]"));
        assert!(defects.len() == 1 && !defects[0].contains(bad), "{defects:?}");
    }
}

#[test]
fn only_an_rfc_3339_time_is_a_time() {
    for good in [
        "2027-01-01T00:00:00Z",
        "2027-01-01T00:00:00.123456789Z",
        "2027-01-01T02:00:00+02:00",
        "2026-12-31T19:00:00-05:00",
    ] {
        assert!(parse_time(good).is_some_and(|ms| ms / 1_000 == 1_798_761_600), "{good}");
    }
    for bad in [
        "",
        "2027-01-01",
        "2027-01-01T00:00:00",
        "2027-01-01 00:00:00Z",
        "2027-01-01T00:00Z",
        "20270101T000000Z",
        "2027-01-01T00:00:00,5Z",
        "2027-01-01T00:00:00.Z",
        "2027-13-01T00:00:00Z",
        "2027-02-29T00:00:00Z",
        "2027-01-01T00:00:00+02",
        "2027-01-01T00:00:00Z[UTC]",
        "2027-01-01T00:00:00z",
        "1798761600",
        "90d",
        "２027-01-01T00:00:00Z",
    ] {
        assert_eq!(parse_time(bad), None, "{bad}");
    }
}

#[test]
fn a_label_is_plain() {
    assert!(is_label(&"a".repeat(128)) && is_label("team/bot-1@x.y:z+w"));
    for bad in ["", " ", "a b", "a\"", "a\n", "é", &"a".repeat(129)] {
        assert!(!is_label(bad), "{bad}");
    }
}

#[test]
fn a_digest_stays_out_of_debug() {
    let files = read(&entry("t", ""));
    assert!(!format!("{:?}", files.grants).contains(digest("t").split_at(8).0));
}

proptest::proptest! {
    #[test]
    fn no_time_makes_the_reader_panic(text in "[0-9TZ:.+-]{0,30}|\\PC{0,20}") {
        if let Some(ms) = parse_time(&text) {
            proptest::prop_assert!(ms <= 253_402_300_799_999);
        }
    }

    #[test]
    fn a_digest_reads_back_the_same(token in "\\PC{0,40}") {
        let digest = TokenDigest::of(token.as_bytes());
        proptest::prop_assert_eq!(TokenDigest::parse(&digest.hex()), Some(digest));
    }
}

#[test]
fn groups_are_sorted_bounded_and_each_once() {
    let groups = |list: &str| {
        let files = read(&entry("t", &format!(", groups: {list}")));
        let told: Vec<String> = files.defects.iter().map(|defect| defect.message.clone()).collect();
        let found = files.grants.iter().next().map(|grant| grant.principal().groups.to_vec());
        (told, found.map(|groups| groups.iter().map(ToString::to_string).collect::<Vec<_>>()))
    };
    assert_eq!(groups("[b, 'a/x', 'B@c']"), (vec![], Some(vec!["B@c".to_owned(), "a/x".to_owned(), "b".to_owned()])));
    assert_eq!(groups("[]"), (vec![], Some(vec![])));
    assert_eq!(groups("[b, a, b]"), (vec!["`b` is listed twice".to_owned()], None));
    for bad in ["['a b']", "['']", "[5]", "a", "{}"] {
        let (told, found) = groups(bad);
        assert_eq!((told.len(), found), (1, None), "{bad}");
    }
    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|index| format!("g{index}")).collect();
        groups(&format!("[{}]", names.join(", "))).0
    };
    assert_eq!(many(GROUPS_MAX), [""; 0]);
    assert_eq!(many(GROUPS_MAX + 1), ["has 17 groups, more than 16"]);
}
