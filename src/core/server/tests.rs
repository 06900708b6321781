use super::*;

const CREDENTIAL: &str = "credential: {kind: none}";

fn read(text: &str) -> ServersFile {
    ServersFile::read("servers.yaml", text.as_bytes(), Format::Yaml)
}

/// Reads one server with the given lines and returns what is wrong, without the file name.
fn defects_of(lines: &[&str]) -> Vec<String> {
    let body: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    let texts = |list: Vec<Defect>| list.iter().map(|d| d.to_string().replacen("servers.yaml:", "", 1)).collect();
    texts(read(&format!("servers:\n  s:\n{body}")).defects)
}

fn one(lines: &[&str]) -> Arc<Server> {
    let body: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    let file = read(&format!("servers:\n  s:\n{body}"));
    assert_eq!(file.defects, []);
    Arc::clone(file.registry.by_name("s").unwrap())
}

#[test]
fn a_full_entry_is_read() {
    let file = read(
        "servers:
  everything:
    match: [{host: 'MCP.example.com', path: /mcp}, {host: '[::1]:8080', path: /}]
    policy: allow-all
    credential: {kind: header, name: Authorization, format: 'Bearer {secret}', secret: github/token}
    resource_metadata: https://mcp.example.com/.well-known/oauth-protected-resource/mcp
    origins: [https://app.example.com, 'vscode-webview://abc']
    hosts: [mcp.example.com]
    protocol: {versions: ['2026-07-28', '2025-06-18']}
  other:
    credential: {kind: basic, username: u, password: github/password}
",
    );
    assert_eq!(file.defects, []);
    assert_eq!(file.warnings, []);
    let server = file.registry.by_name("everything").unwrap();
    assert_eq!(server.ordinal(), 0);
    assert_eq!(server.policy().unwrap().as_ref(), "allow-all");
    assert_eq!(
        *server.credential(),
        CredentialSpec::Header {
            name: "authorization".into(),
            format: "Bearer {secret}".into(),
            secret: "github/token".into()
        }
    );
    assert_eq!(server.versions(), [ProtocolVersion::V2025_06_18, ProtocolVersion::V2026_07_28]);
    assert!(server.speaks(ProtocolVersion::V2025_06_18) && !server.speaks(ProtocolVersion::V2025_11_25));
    assert!(server.allows_origin("https://app.example.com") && !server.allows_origin("https://app.example.com:8443"));
    assert!(server.allows_host("MCP.example.com") && !server.allows_host("mcp.example.com:443"));
    assert_eq!(file.policies[0].name.as_ref(), "allow-all");
    assert_eq!(file.secrets.iter().map(|r| r.name.as_ref()).collect::<Vec<_>>(), ["github/token", "github/password"]);
    let other = file.registry.by_name("other").unwrap();
    assert_eq!(other.versions(), ProtocolVersion::ALL);
    assert!(other.allows_host("anything") && !other.allows_origin("https://app.example.com"));
    assert!(other.resource_metadata().is_none() && other.policy().is_none());
}

#[test]
fn a_route_is_an_exact_path_and_a_host_in_any_case() {
    let file =
        read(&format!("servers:\n  s:\n    match: [{{host: 'Mcp.Example.com:8443', path: /mcp}}]\n    {CREDENTIAL}\n"));
    let found = |host, path| file.registry.by_route(host, path).is_some();
    assert!(found("mcp.example.com:8443", "/mcp") && found("MCP.EXAMPLE.COM:8443", "/mcp"));
    for (host, path) in [
        ("mcp.example.com", "/mcp"),
        ("mcp.example.com:8443", "/mcp/"),
        ("mcp.example.com:8443", "/MCP"),
        ("mcp.example.com:8443", ""),
        ("", "/mcp"),
    ] {
        assert!(!found(host, path), "{host} {path}");
    }
    assert!(file.registry.by_name("S").is_none());
}

#[test]
fn two_servers_cannot_claim_one_route() {
    let file = read(&format!(
        "servers:
  a: {{match: [{{host: h, path: /mcp}}], {CREDENTIAL}}}
  b: {{match: [{{host: H, path: /mcp}}, {{host: h, path: /other}}], {CREDENTIAL}}}
"
    ));
    assert_eq!(
        file.defects.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["servers.yaml:3: /servers/b/match/0: `h/mcp` is claimed by the server `a` already"]
    );
}

#[test]
fn every_defect_of_the_file_is_told_and_every_name_known() {
    let file = read(
        "servers:
  Bad Name: {credential: {kind: none}}
  a: 5
  b: {}
  c:
    polcy: x
    credential: {kind: hedder}
  d:
    credential: {name: x, bogus: 1}
  e:
    credential: {kind: none, secret: x}
extra: 1
",
    );
    assert_eq!(
        file.defects.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "servers.yaml:2: /servers/Bad Name: `Bad Name` is no server name: 1 to 63 of a-z, 0-9, `_`, `.`, `-`",
            "servers.yaml:3: /servers/a: expected a map, found a number",
            "servers.yaml:4: /servers/b: missing key `credential`",
            "servers.yaml:6: /servers/c: unknown key `polcy` (did you mean `policy`?)",
            "servers.yaml:7: /servers/c/credential/kind: expected one of `header`, `basic`, `none`, found `hedder` (did you mean `header`?)",
            "servers.yaml:9: /servers/d/credential: unknown key `bogus` (known: `kind`, `name`, `format`, `secret`, `username`, `password`)",
            "servers.yaml:9: /servers/d/credential: missing key `kind`",
            "servers.yaml:11: /servers/e/credential: unknown key `secret` (known: `kind`)",
            "servers.yaml:12: unknown key `extra` (known: `servers`)",
        ]
        .map(String::from)
    );
    let names = file.names.unwrap();
    assert_eq!(names.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["Bad Name", "a", "b", "c", "d", "e"]);
    assert!(read("servers: 5\n").names.is_none());
    assert!(read("servers: [\n").names.is_none());
}

#[test]
fn a_name_is_short_and_plain() {
    assert!(is_name(&"a".repeat(63)) && is_name("a-b_c.9"));
    for bad in ["", "A", "a b", "a/b", "é", &"a".repeat(64)] {
        assert!(!is_name(bad), "{bad}");
    }
}

#[test]
fn a_header_that_belongs_to_the_message_carries_no_credential() {
    for name in [
        "host",
        "Host",
        "connection",
        "content-length",
        "content-type",
        "transfer-encoding",
        "te",
        "upgrade",
        "accept",
        "Accept-Encoding",
        "mcp-session-id",
        "MCP-Protocol-Version",
        "x-mcp-authz-x",
        "x-envoy-original-path",
        "expect",
        "x-forwarded-for",
        "proxy-authorization",
        "keep-alive",
        "origin",
        "x-http-method-override",
    ] {
        assert_eq!(
            defects_of(&[&format!("credential: {{kind: header, name: {name}, secret: a}}")]),
            [format!(
                "3: /servers/s/credential/name: the header `{}` cannot carry a credential (it belongs to the message, its route or the proxy)",
                name.to_lowercase()
            )]
        );
    }
    for name in ["':path'", "'x y'", "'x:'", "'x\\r'", "é"] {
        let defects = defects_of(&[&format!("credential: {{kind: header, name: {name}, secret: a}}")]);
        assert!(defects.len() == 1 && defects[0].ends_with("is no header name"), "{defects:?}");
    }
    for name in ["authorization", "x-api-key", "cookie", "private-token"] {
        assert_eq!(defects_of(&[&format!("credential: {{kind: header, name: {name}, secret: a}}")]), [""; 0]);
    }
}

#[test]
fn a_format_has_one_hole() {
    for (format, problem) in [
        ("Bearer", "does not contain `{secret}`"),
        ("{Secret}", "does not contain `{secret}`"),
        ("{secret}{secret}", "contains `{secret}` more than once"),
        ("{secret} {x}", "has braces besides those of `{secret}`"),
        (" {secret}", "is no header value: printable ASCII without spaces at its ends"),
        ("é{secret}", "is no header value: printable ASCII without spaces at its ends"),
        ("a\\r\\n{secret}", "is no header value: printable ASCII without spaces at its ends"),
    ] {
        assert_eq!(
            defects_of(&[&format!("credential: {{kind: header, name: x, secret: a, format: \"{format}\"}}")]),
            [format!("3: /servers/s/credential/format: {problem} (such as `Bearer {{secret}}`)")]
        );
    }
    let CredentialSpec::Header { format, .. } =
        one(&["credential: {kind: header, name: x, secret: a}"]).credential().clone()
    else {
        panic!("not a header")
    };
    assert_eq!(format, "{secret}");
}

#[test]
fn a_secret_path_stays_below_its_folder_and_is_never_repeated() {
    for path in ["/etc/x", "../x", "a/../b", "a//b", ".hidden", "a/", "a\\\\b", "a/\\0"] {
        assert_eq!(
            defects_of(&[&format!("credential: {{kind: header, name: x, secret: \"{path}\"}}")]),
            [
                "3: /servers/s/credential/secret: is no path of a file below the credentials folder (relative, without `..` or hidden names; the secret itself never stands here)"
            ]
        );
    }
    assert_eq!(
        defects_of(&["credential: {kind: basic, username: 'a:b'}"]),
        [
            "3: /servers/s/credential: missing key `password`",
            "3: /servers/s/credential/username: is no user name: at most 256 bytes without `:` and control characters",
        ]
    );
}

#[test]
fn hosts_are_authorities_without_wildcards() {
    for host in ["h", "a.b.c:1", "127.0.0.1:65535", "[::1]", "[fe80::1]:80", "under_score"] {
        assert_eq!(defects_of(&[CREDENTIAL, &format!("hosts: ['{host}']")]), [""; 0], "{host}");
    }
    for host in [
        "*",
        "*.example.com",
        "a:0",
        "a:65536",
        "a:",
        "a:+1",
        ":80",
        "::1",
        "[::1",
        "[x]",
        "a/b",
        "http://a",
        "a b",
        "é",
    ] {
        assert_eq!(
            defects_of(&[CREDENTIAL, &format!("hosts: ['{host}']")]),
            [format!(
                "4: /servers/s/hosts/0: `{host}` is no host (a name or address with an optional port, such as `mcp.example.com` or `127.0.0.1:8080`; no wildcards)"
            )]
        );
    }
    assert_eq!(defects_of(&[CREDENTIAL, "hosts: []"]), ["4: /servers/s/hosts: must not be empty"]);
    assert_eq!(defects_of(&[CREDENTIAL, "hosts: [a, A]"]), ["4: /servers/s/hosts/1: `a` is listed twice"]);
}

#[test]
fn origins_are_what_browsers_send() {
    for (origin, hint) in [
        ("*", "list each origin; `*` and `null` would let any page in"),
        ("null", "list each origin; `*` and `null` would let any page in"),
        ("https://App.example.com", "write it in lower case, as browsers do"),
        ("https://a.b/", "scheme, host and port only, without a path or a final `/`"),
        ("https://a.b:443", "browsers leave the port 443 out"),
        ("http://a.b:80", "browsers leave the port 80 out"),
        ("a.b", "such as `https://app.example.com` or `http://localhost:6274`"),
        ("https://*.b", "such as `https://app.example.com` or `http://localhost:6274`"),
        ("https://u@b", "such as `https://app.example.com` or `http://localhost:6274`"),
    ] {
        assert_eq!(
            defects_of(&[CREDENTIAL, &format!("origins: ['{origin}']")]),
            [format!("4: /servers/s/origins/0: `{origin}` is no origin ({hint})")]
        );
    }
    assert_eq!(defects_of(&[CREDENTIAL, "origins: []"]), [""; 0]);
}

#[test]
fn paths_to_match_are_exact() {
    let unmatchable = "is no path that can be matched exactly (it starts with `/` and holds no `//`, `.` or `..` segment, `;`, space or encoded separator)";
    for (path, problem) in [
        ("mcp", unmatchable),
        ("/a/../b", unmatchable),
        ("/a%2fb", unmatchable),
        ("", unmatchable),
        ("/a?b", "a path to match has no query"),
    ] {
        assert_eq!(
            defects_of(&[CREDENTIAL, &format!("match: [{{host: h, path: '{path}'}}]")]),
            [format!("4: /servers/s/match/0/path: {problem}")]
        );
    }
    assert_eq!(
        defects_of(&[CREDENTIAL, "match: []"]),
        ["4: /servers/s/match: must not be empty (leave `match` out to be found by name only)"]
    );
    assert_eq!(
        defects_of(&[CREDENTIAL, "match: [{}, 5]"]),
        [
            "4: /servers/s/match/0: missing key `host`",
            "4: /servers/s/match/0: missing key `path`",
            "4: /servers/s/match/1: expected a map, found a number"
        ]
    );
}

#[test]
fn a_resource_document_is_named_by_a_plain_url() {
    for url in
        ["ftp://a", "https://", "https://a b", "https://a\"b", "https://a#b", "https://u@a/", "//a", "mcp.example.com"]
    {
        assert_eq!(
            defects_of(&[CREDENTIAL, &format!("resource_metadata: '{url}'")]),
            [
                "4: /servers/s/resource_metadata: is no URL of a resource document (such as `https://mcp.example.com/.well-known/oauth-protected-resource/mcp`)"
            ],
            "{url}"
        );
    }
    let warnings = |url: &str| {
        read(&format!("servers: {{s: {{{CREDENTIAL}, resource_metadata: '{url}'}}}}"))
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        warnings("http://a.b/x"),
        [
            "servers.yaml:1: /servers/s/resource_metadata: agents must not trust a resource document without TLS (use https://)"
        ]
    );
    for url in ["https://a.b/x", "http://127.0.0.1:1/x", "http://localhost/x", "http://[::1]:8/x"] {
        assert_eq!(warnings(url), [""; 0], "{url}");
    }
}

#[test]
fn versions_are_known_and_listed_once() {
    assert_eq!(
        defects_of(&[CREDENTIAL, "protocol: {versions: ['2025-06-18', '2025-06-19', '2025-06-18']}"]),
        [
            "4: /servers/s/protocol/versions/1: expected one of `2024-11-05`, `2025-03-26`, `2025-06-18`, `2025-11-25`, `2026-07-28`, found `2025-06-19` (did you mean `2025-06-18`?)",
            "4: /servers/s/protocol/versions/2: is listed twice",
        ]
    );
    assert_eq!(
        defects_of(&[CREDENTIAL, "protocol: {versions: []}"]),
        ["4: /servers/s/protocol/versions: must not be empty"]
    );
    assert_eq!(defects_of(&[CREDENTIAL, "protocol: {}"]), ["4: /servers/s/protocol: missing key `versions`"]);
}

#[test]
fn a_file_without_servers_is_a_warning() {
    let file = read("servers: {}\n");
    assert_eq!(file.defects, []);
    assert_eq!(
        file.warnings[0].to_string(),
        "servers.yaml:1: /servers: no server is defined: every request will be denied"
    );
    assert_eq!(read("{}").defects[0].to_string(), "servers.yaml:1: missing key `servers`");
}

#[test]
fn the_number_of_servers_is_limited() {
    let text = |count: usize| {
        let body: String = (0..count).map(|n| format!("  s{n}: {{{CREDENTIAL}}}\n")).collect();
        format!("servers:\n{body}")
    };
    assert_eq!(read(&text(10_000)).defects, []);
    assert_eq!(read(&text(10_001)).defects[0].to_string(), "servers.yaml:1: /servers: more than 10000 servers");
}

proptest::proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(
        key in "servers|match|policy|credential|kind|name|format|secret|hosts|origins|protocol|versions|[a-z.*:/{}]{0,9}",
        value in "\\PC{0,12}|\\[\\{host: [a-z:0-9.*]{0,9}, path: [/a-z?%.]{0,9}\\}\\]|\\{kind: (header|basic|none)[a-z, :{}]{0,20}\\}|\\[[a-z:/.0-9, ]{0,20}\\]",
    ) {
        let text = format!("servers:\n  s:\n    credential: {{kind: none}}\n    {key}: {value}\n  t: {{{key}: {value}}}\n");
        let file = read(&text);
        for defect in &file.defects {
            proptest::prop_assert!(!defect.to_string().contains('\n'));
        }
    }
}

#[test]
fn pins_are_off_unless_a_server_says_otherwise() {
    use crate::pins::{OnChange, Rules, Trust};
    let tools = |tools: &str| {
        let file = read(&format!("servers:\n  s: {{{CREDENTIAL}{tools}}}\n"));
        assert_eq!(file.defects, [], "{tools}");
        (file.registry.by_name("s").unwrap().tools(), file.warnings.len())
    };
    let rules = |trust, on_change| (Some(Rules { trust, on_change }), 0);
    assert_eq!(tools(""), (None, 0));
    assert_eq!(tools(", tools: {trust: off}"), (None, 0));
    assert_eq!(tools(", tools: {trust: off, on_change: hide}"), (None, 1), "it has no effect");
    assert_eq!(tools(", tools: {trust: first_use}"), rules(Trust::FirstUse, OnChange::Hide));
    assert_eq!(tools(", tools: {trust: pinned, on_change: report}"), rules(Trust::Pinned, OnChange::Report));
    for bad in [
        "{}",
        "{trust: yes}",
        "{trust: first_use, on_change: warn}",
        "{on_change: hide}",
        "first_use",
        "{trust: pinned, x: 1}",
    ] {
        let file = read(&format!("servers:\n  s: {{{CREDENTIAL}, tools: {bad}}}\n"));
        assert!(!file.defects.is_empty(), "{bad}");
    }
}
