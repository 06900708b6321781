use super::*;

/// What one detector finds.
fn find(detector: Detector, text: &str) -> Vec<&str> {
    named(detector, "", text)
}

fn named<'t>(detector: Detector, name: &str, text: &'t str) -> Vec<&'t str> {
    let mut out = Vec::new();
    scan(text, name, Detectors::of(detector), 1000, &mut out);
    out.into_iter().map(|found| text.get(found.range).unwrap()).collect()
}

/// Each of these is found whole, alone and in a sentence; and between letters it is something else.
fn whole(detector: Detector, values: &[&str]) {
    for value in values {
        assert_eq!(find(detector, value), [*value], "{detector:?} alone");
        let sentence = format!("See ({value}), or \"{value}\": {value}\n");
        assert_eq!(find(detector, &sentence), [*value; 3], "{detector:?} in {sentence:?}");
    }
}

fn none(detector: Detector, texts: &[&str]) {
    for text in texts {
        assert!(find(detector, text).is_empty(), "{detector:?} finds {:?} in {text:?}", find(detector, text));
    }
}

#[test]
fn email() {
    whole(
        Detector::Email,
        &[
            "bob@example.com",
            "bob.o'brien+tag@mail.example.co.uk",
            "b_b-%x@sub.example.museum",
            "andré@exämple.de",
            "x@xn--exmple-cua.xn--p1ai",
            "bob%40example.com",
        ],
    );
    for (text, expected) in [
        ("mailto:bob@example.com?x", "bob@example.com"),
        ("<bob@example.com>", "bob@example.com"),
        ("user='bob@example.com'", "bob@example.com"),
        ("email=bob@example.com.", "bob@example.com"),
        ("bob@example.com.5 more", "bob@example.com"),
        ("bob@example.com4111", "bob@example.com"),
        ("..bob@example.com", "bob@example.com"),
        ("https://u:pw@example.com/", "pw@example.com"),
        ("邮箱bob@example.com。", "邮箱bob@example.com"),
    ] {
        let found = find(Detector::Email, text);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{text}: {found:?}");
    }
    none(
        Detector::Email,
        &[
            "@example.com",
            "bob@",
            "bob@localhost",
            "logo@2x.png",
            "git@github.com:a/b.git",
            "a@1.2.3.4",
            "lodash@4.17.21",
            "bob.@example.com",
            "a@b.c",
            "@scope/name",
            "bob@-example.com",
        ],
    );
}

#[test]
fn payment_card() {
    whole(
        Detector::PaymentCard,
        &[
            "4111111111111111",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "5555555555554444",
            "2223003122003222",
            "378282246310005",
            "3782 822463 10005",
            "6011111111111117",
            "30569309025904",
            "3056 930902 5904",
            "3566002020360505",
            "6759649826438453",
            "6200000000000005",
        ],
    );
    assert_eq!(find(Detector::PaymentCard, "12 4111 1111 1111 1111 12/25"), ["4111 1111 1111 1111"]);
    assert_eq!(find(Detector::PaymentCard, "card_4111111111111111.0"), ["4111111111111111"]);
    assert_eq!(find(Detector::PaymentCard, "Visa4111 1111 1111 1111x"), ["4111 1111 1111 1111"]);
    assert_eq!(find(Detector::PaymentCard, "卡号4111111111111111。"), ["4111111111111111"]);
    none(
        Detector::PaymentCard,
        &[
            "4111111111111112",
            "411111111111111",
            "41111111111111111111",
            "a4111111111111111",
            "4111111111111111a",
            "0.4111111111111111",
            "1763747287123",
            "0000000000000000",
            "4111 11111111 1111",
            "4111  1111 1111 1111",
            "9111111111111111",
            "4111-1111 1111-1111",
        ],
    );
}

#[test]
fn iban() {
    whole(
        Detector::Iban,
        &[
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00",
            "GB29NWBK60161331926819",
            "FR1420041010050500013M02606",
            "NO9386011117947",
            "de89370400440532013000",
            "MT84MALT011000012345MTLCAST001S",
        ],
    );
    none(
        Detector::Iban,
        &[
            "DE88370400440532013000",
            "DE8937040044053201300",
            "DE893704004405320130000",
            "XX89370400440532013000",
            "XDE89370400440532013000",
        ],
    );
}

#[test]
fn us_ssn() {
    whole(Detector::UsSsn, &["123-45-6789", "899-01-0001"]);
    assert_eq!(find(Detector::UsSsn, "SSN: 123 45 6789"), ["123 45 6789"]);
    assert_eq!(named(Detector::UsSsn, "ssn", "123456789"), ["123456789"]);
    none(
        Detector::UsSsn,
        &[
            "000-12-3456",
            "666-12-3456",
            "900-12-3456",
            "123-00-4567",
            "123-45-0000",
            "123 45 6789",
            "123456789",
            "1123-45-6789",
            "123-45-67890",
            "123-45-6789-1",
            "4-123-45-6789",
            "123-45 6789",
        ],
    );
}

#[test]
fn phone() {
    whole(
        Detector::Phone,
        &[
            "+49 30 1234567",
            "+14155552671",
            "+1 (415) 555-2671",
            "+44 20 7946 0958",
            "415-555-2671",
            "415.555.2671",
            "1-415-555-2671",
            "+358 9 1234567",
        ],
    );
    assert_eq!(find(Detector::Phone, "call (415) 555-2671 now"), ["(415) 555-2671"]);
    assert_eq!(find(Detector::Phone, "tel:+14155552671"), ["+14155552671"]);
    assert_eq!(find(Detector::Phone, "phone 415 555 2671."), ["415 555 2671"]);
    none(
        Detector::Phone,
        &[
            "4155552671",
            "115-555-2671",
            "415-155-2671",
            "415-555-26711",
            "1 415 555 2671 33",
            "+1234",
            "a+14155552671",
            "+1.5",
            "2024-11-21",
            "1763747287",
            "+00 123 456 789",
            "12 415 555 2671",
            "10.415.555.2671",
            "495-555-2671",
        ],
    );
}

#[test]
fn ip_address() {
    whole(
        Detector::IpAddress,
        &[
            "192.0.2.17",
            "255.255.255.255",
            "2001:db8::17",
            "fe80::1",
            "::1",
            "2001:0db8:0000:0000:0000:0000:0000:0001",
            "::ffff:192.0.2.1",
        ],
    );
    assert_eq!(find(Detector::IpAddress, "[2001:db8::17]:443 192.0.2.0/24"), ["2001:db8::17", "192.0.2.0"]);
    assert_eq!(find(Detector::IpAddress, "from 10.0.0.1:8080."), ["10.0.0.1"]);
    assert_eq!(find(Detector::IpAddress, "http://10.0.0.1/x localhost/127.0.0.1"), ["10.0.0.1", "127.0.0.1"]);
    none(
        Detector::IpAddress,
        &[
            "1.2.3",
            "256.1.1.1",
            "1.2.3.4.5",
            "v1.2.3.4",
            "version 1.2.3.4",
            "Chrome/120.0.0.0",
            "12:34:56",
            "std::vec",
            "a::b",
            "::",
            "00:11:22:33:44:55",
            "50:06:01:60:3b:20:1d:2f",
            "1:2",
            "dead::beef",
            "01.2.3.4",
            "10:30",
            "x::1",
        ],
    );
}

const JWT: &str =
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";

#[test]
fn jwt() {
    whole(Detector::Jwt, &[JWT, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."]);
    assert_eq!(find(Detector::Jwt, &format!("Bearer {JWT}")), [JWT]);
    let encrypted = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.OKOawDo13gRp.48V1_ALb6US04U3b.5eym8TW_c8SuK0lt.XFBoMYUZodetZdvT";
    assert_eq!(find(Detector::Jwt, encrypted), [encrypted]);
    none(
        Detector::Jwt,
        &["eyJhbGciOiJIUzI1NiJ9", "eyJhbGciOiJIUzI1NiJ9.x", "eyJhIjoxfQ.eyJhIjoxfQ.x", &format!("x{JWT}"), "eyJeyJeyJ"],
    );
}

#[test]
fn private_key() {
    let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj";
    for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
        let pem = format!("-----BEGIN {label}-----\n{body}\n{body}=\n-----END {label}-----");
        whole(Detector::PrivateKey, &[&pem, &pem.replace('\n', "\\n"), &pem.replace('\n', "\r\n")]);
        let half = format!("-----BEGIN {label}-----\n{body}\n{body}");
        assert_eq!(find(Detector::PrivateKey, &half), [&half], "half a key");
        let text = format!("{half}\nand then some prose");
        assert_eq!(find(Detector::PrivateKey, &text), [format!("{half}\n")]);
    }
    let old = format!(
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,3F17\n\n{body}\n-----END RSA PRIVATE KEY-----"
    );
    let pgp = format!(
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2.0 (x)\n\n{body}\n=aB3d\n-----END PGP PRIVATE KEY BLOCK-----"
    );
    whole(Detector::PrivateKey, &[&old, &pgp]);
    none(
        Detector::PrivateKey,
        &[
            "a file starts with -----BEGIN PRIVATE KEY----- and so on",
            &format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----"),
            &format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----"),
            "-----------------------",
        ],
    );
}

/// Put together here, so that nobody who searches the repository for secrets finds one.
fn made(prefix: &str, body: &str) -> String {
    format!("{prefix}{body}")
}

#[test]
fn keys_with_a_prefix() {
    let (b16, b28, b35, b36) = (
        "IOSFODNN7EXAMPLE",
        "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9b",
        "SyD4fG6hJ8kL0qW2eR4tY6uI8oP0aS2dF4g",
        "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5",
    );
    whole(Detector::AwsKey, &[&made("AKIA", b16), &made("ASIA", b16)]);
    none(
        Detector::AwsKey,
        &[
            &made("AKIA", "IOSFODNN7EXAMPL"),
            &made("AKIA", "IOSFODNN7EXAMPLEX"),
            &made("xAKIA", b16),
            &made("AKIA", "iosfodnn7example"),
            "AKIA",
        ],
    );
    whole(Detector::GcpKey, &[&made("AIza", b35), &made("GOCSPX-", b28), &made("ya29.", b36)]);
    none(
        Detector::GcpKey,
        &[
            &made("AIza", "short"),
            &made("AIza", b36),
            &made("xAIza", b35),
            &made("GOCSPX-", "short"),
            &made("ya29.", "short"),
        ],
    );
    let pat = format!("github_pat_{}_{}", b28.get(..22).unwrap(), [b28, b28, "abc"].concat());
    whole(Detector::GithubToken, &[&made("ghp_", b36), &made("gho_", b36), &made("ghs_", b36), &pat]);
    none(Detector::GithubToken, &[&made("ghp_", "short"), &made("ghx_", b36), &made("xghp_", b36), "github_pat_abc"]);
    whole(
        Detector::SlackToken,
        &[
            &made("xoxb-", "123456789012-abcdefABCDEF"),
            &made("xapp-", "1-A0123-456-abcdef"),
            &made("hooks.slack.com", "/services/T00000000/B00000000/XXXXXXXXXXXXXXXX"),
        ],
    );
    none(
        Detector::SlackToken,
        &[&made("xoxb-", "short"), &made("xoxz-", "123456789012-abcdef"), "hooks.slack.com/services/x"],
    );
    whole(Detector::StripeKey, &[&made("sk_live_", b28), &made("rk_test_", b28), &made("whsec_", b36)]);
    none(
        Detector::StripeKey,
        &[&made("pk_live_", b28), &made("sk_live_", "short"), &made("task_live_", b28), &made("sk_prod_", b28)],
    );
}

#[test]
fn high_entropy() {
    whole(Detector::HighEntropy, &["kB7xQ2mZ9tR4vL1wN8pY", "dGhpcyBpcyBub3QgYSB3b3Jk9Qz3Lx8K=="]);
    for (name, text) in [
        ("api_key", "9f86d081884c7d659a2feaa0c55ad015"),
        ("", "password=hunter2hunter3hunter4"),
        ("client_secret", "k3j9d8f7g6h5j4k3l2m1"),
        ("", "export TOKEN=\"abcd1234efgh5678\""),
    ] {
        assert_eq!(named(Detector::HighEntropy, name, text).len(), 1, "{name} {text}");
    }
    none(
        Detector::HighEntropy,
        &[
            "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==",
            "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDvvVaUvGhZs6iBW9A",
            "getCustomerBillingAddress2FromCache",
            "/usr/local/lib/Python3/site-packages/requests/adapters",
            "feature/JIRA-1234_Add_New_Widget2",
            "ThisIsAVeryLongClassNameWithoutAnySecretInIt1",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaA1",
            "internationalization-of-everything-2024",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ",
            "2024-11-21T17:48:07.123456Z",
            "arn:aws:iam::123456789012:role/MyServiceRole2024",
        ],
    );
}

#[test]
fn links() {
    let find = |text: &str| -> Vec<String> {
        let mut out = Vec::new();
        scan(text, "", Detectors::LINKS, 1000, &mut out);
        out.into_iter().map(|found| text.get(found.range).unwrap().to_owned()).collect()
    };
    for (text, expected) in [
        ("see https://a.example/x?y#z.", "https://a.example/x?y#z"),
        ("[text](https://a.example/(x)) more", "https://a.example/(x)"),
        ("![i](HTTP://A.example)", "HTTP://A.example"),
        ("<https://a.example>", "https://a.example"),
        ("[x](//a.example/p)", "//a.example/p"),
        ("https:\\\\a.example\\x", "https:\\\\a.example\\x"),
        ("https:/a.example", "https:/a.example"),
        ("git+https://a.example/x.git", "https://a.example/x.git"),
        ("https://exämple.de/ü", "https://exämple.de/ü"),
    ] {
        assert_eq!(find(text), [expected], "{text}");
    }
    for text in ["https://", "a // b", "http:x", "path//to", "(// remark)"] {
        assert!(find(text).is_empty(), "{text}");
    }
    for (link, expected) in [
        ("https://User:pw@A.Example.:443/x", Some("a.example")),
        ("https://a.example\\@evil.example/", Some("a.example")),
        ("//b.example", Some("b.example")),
        ("http://[::1]:80/", Some("[::1]")),
        ("https://exämple.de", None),
        ("https://a%2eexample", None),
    ] {
        assert_eq!(host(link).as_deref(), expected, "{link}");
    }
}

#[test]
fn the_pass_stops_at_its_bound() {
    let text = "a@b.cd ".repeat(20);
    let mut out = Vec::new();
    scan(&text, "", Detectors::all(), 5, &mut out);
    assert_eq!(out.len(), 6, "one above the bound, so that the caller notices");
}

/// Texts made to be slow take no longer than others.
#[test]
fn hostile_texts_are_linear() {
    for piece in [
        "a@",
        "eyJ",
        "-----BEGIN PRIVATE KEY-----\n",
        "http://",
        "1:",
        "4111 ",
        "a1B",
        "AKIA",
        "::",
        "+1 ",
        "%40",
        "_",
        "((((",
        "//a.",
    ] {
        let text = piece.repeat(400_000 / piece.len());
        let mut out = Vec::new();
        scan(&text, "", Detectors::all() | Detectors::LINKS, usize::MAX, &mut out);
        assert!(out.len() <= text.len());
    }
}
