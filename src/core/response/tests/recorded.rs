//! What the servers of four SDKs sent (npm `@modelcontextprotocol/sdk` 1.32.2 and `server` 2.4.0, PyPI `mcp` 2.3.0, `rmcp` 3.9.0),
//! byte for byte, cut everywhere.

use super::*;

struct Recorded {
    name: &'static str,
    bytes: &'static [u8],
    asked: Asked,
}

macro_rules! recorded {
    ($($name:literal: $asked:expr),+ $(,)?) => {
        vec![$(Recorded {
            name: $name,
            bytes: include_bytes!(concat!("../../../../tests/response/recorded/", $name)),
            asked: $asked,
        }),+]
    };
}

fn list(method: Method) -> Asked {
    Asked::Request(method)
}

fn recorded() -> Vec<Recorded> {
    let call = || Asked::Call("echo".into());
    recorded! {
        "ts1-legacy-list.sse": list(Method::ToolsList),
        "ts1-legacy-call.sse": call(),
        "ts2-legacy-list.sse": list(Method::ToolsList),
        "ts2-legacy-call.sse": call(),
        "ts2-modern-list.json": list(Method::ToolsList),
        "ts2-modern-call.json": call(),
        "py2-legacy-list.sse": list(Method::ToolsList),
        "py2-legacy-call.sse": call(),
        "py2-modern-list.json": list(Method::ToolsList),
        "py2-modern-call.json": call(),
        "rmcp-legacy-list.sse": list(Method::ToolsList),
        "rmcp-modern-list.sse": list(Method::ToolsList),
        "rmcp-legacy-call.sse": call(),
        "rmcp-modern-call.sse": call(),
        "rmcp-legacy-prompts-list.sse": list(Method::PromptsList),
        "rmcp-modern-prompts-list.sse": list(Method::PromptsList),
        "rmcp-legacy-resources-list.sse": list(Method::ResourcesList),
        "rmcp-modern-resources-list.sse": list(Method::ResourcesList),
        "rmcp-legacy-resources-templates-list.sse": list(Method::ResourcesTemplatesList),
        "rmcp-modern-resources-templates-list.sse": list(Method::ResourcesTemplatesList),
    }
}

fn head_of(name: &str) -> Head<'static> {
    if name.ends_with(".sse") { SSE } else { JSON }
}

/// The last JSON text of a response.
fn message(bytes: &[u8]) -> serde_json::Value {
    let text = std::str::from_utf8(bytes).unwrap();
    let last = text.lines().rfind(|line| line.contains("\"jsonrpc\"")).unwrap();
    serde_json::from_str(last.strip_prefix("data: ").unwrap_or(last)).unwrap()
}

/// Two chunks with the cut at every byte; three with the second cut near, far and somewhere.
fn splits(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let len = bytes.len();
    let mut all = vec![vec![bytes]];
    for first in 0..=len {
        let (a, rest) = bytes.split_at(first);
        all.push(vec![a, rest]);
        // Every pair of cuts would be a million runs; every distance occurs, and every neighborhood.
        let far = first.saturating_mul(7919).checked_rem(rest.len().saturating_add(1)).unwrap_or(0);
        for second in [1, 2, 3, far] {
            if let Some((b, c)) = rest.split_at_checked(second) {
                all.push(vec![a, b, c]);
            }
        }
    }
    all
}

#[test]
fn what_leaves_does_not_depend_on_where_it_was_cut() {
    for Recorded { name, bytes, asked } in recorded() {
        let exchange = || job(POLICY, asked.clone());
        let (expected, told) = run(exchange(), &head_of(name), &[bytes]);
        // The two long ones are cut where something happens; the shape is that of the short ones.
        let near =
            |chunks: &Vec<&[u8]>| bytes.len() < 2_000 || chunks[0].len() < 120 || chunks[0].len() + 60 > bytes.len();
        for chunks in splits(bytes).into_iter().filter(near) {
            let (out, report) = run(exchange(), &head_of(name), &chunks);
            assert!(
                out == expected && report == told,
                "{name} in chunks of {:?}",
                chunks.iter().map(|c| c.len()).collect::<Vec<_>>()
            );
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(run(exchange(), &head_of(name), &single), (expected, told), "{name} byte by byte");
    }
}

/// The same list with the elements gone, and nothing else: what is left of the input is what came before and behind each cut.
#[test]
fn only_elements_are_cut() {
    for Recorded { name, bytes, asked } in recorded() {
        let (out, report) = run(job(POLICY, asked.clone()), &head_of(name), &[bytes]);
        let mut expected = message(bytes);
        let mut hidden = 0;
        for member in ["tools", "prompts", "resources", "resourceTemplates"] {
            let result = expected.get_mut("result").and_then(|result| result.get_mut(member));
            let Some(list) = result.and_then(serde_json::Value::as_array_mut) else { continue };
            let all = list.len();
            list.retain(|element| member == "tools" && (element["name"] == "echo" || element["name"] == "add"));
            hidden += all - list.len();
        }
        assert_eq!(message(&out), expected, "{name}");
        assert_eq!((report.hidden as usize, report.withheld), (hidden, None), "{name}");
        assert_eq!(bytes == out, hidden == 0, "{name}");
        let prefix = bytes.iter().zip(&out).take_while(|(a, b)| a == b).count();
        let suffix = bytes.iter().rev().zip(out.iter().rev()).take_while(|(a, b)| a == b).count();
        assert!(prefix + suffix >= out.len(), "{name}: more than one piece was changed");
        if let Asked::Call(_) = asked {
            assert_eq!(
                report.came.unwrap().kind,
                if name == "rmcp-modern-call.sse" { Kind::ProtocolError } else { Kind::Ok }
            );
        }
        assert!(report.sha256.is_some(), "{name}");
    }
}

#[test]
fn an_event_leaves_as_soon_as_it_has_come() {
    let stream = include_bytes!("../../../../tests/response/recorded/py2-legacy-list.sse");
    let Begun::Body(mut exchange) = Exchange::begin(job(POLICY, list(Method::ToolsList)), &SSE) else { panic!() };
    let priming = b"id: 3\r\ndata: \r\nretry: 100\r\n\r";
    assert!(stream.starts_with(priming));
    let mut out = 0;
    for byte in priming {
        match exchange.chunk(&[*byte], false) {
            Step::Same => out += 1,
            Step::Bytes(bytes) => out += bytes.len(),
            Step::Record(_) => panic!(),
        }
    }
    assert_eq!((out, exchange.held_bytes()), (priming.len(), 0));
}
