//! What stands around the pods: Envoy with the clusters of the chart, and MCP servers.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::{
    chart::{Manifests, root, tool},
    documents::{CREDENTIAL, Identity, TOKEN},
    layout::full_name,
    names::Names,
    process::{Process, get, http, until},
};

/// A running Envoy.
pub(crate) struct Envoy {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Its admin interface.
    pub(crate) admin: SocketAddr,
    process: Process,
}

impl Envoy {
    /// Starts deploy/envoy.yaml with the clusters that the chart gives, and waits until it listens.
    pub(crate) fn start(
        folder: &Path,
        clusters: &str,
        upstream: SocketAddr,
        names: &Names,
        identity: &Identity,
    ) -> Self {
        let tls = folder.join("envoy-tls");
        std::fs::create_dir_all(&tls).unwrap();
        for (file, text) in
            [("tls.crt", &identity.certificate), ("tls.key", &identity.key), ("ca.crt", &identity.authority)]
        {
            std::fs::write(tls.join(file), text).unwrap();
        }
        let clusters = clusters.replace("/etc/envoy/tls", &tls.display().to_string());
        let (config, admin_file) = (folder.join("envoy.yaml"), folder.join("envoy.admin"));
        std::fs::write(&config, configuration(&clusters, upstream, names)).unwrap();
        let mut command = Command::new(tool("envoy", "bin/envoy"));
        command.arg("-c").arg(&config).arg("--admin-address-path").arg(&admin_file);
        command.args(["--disable-hot-restart", "--log-level", "warning", "--concurrency", "1"]);
        let mut process = Process::start("envoy", folder, command);
        let admin: SocketAddr = until("Envoy names its admin address", || {
            process.assert_running();
            std::fs::read_to_string(&admin_file).ok()?.trim().parse().ok()
        });
        let address = until("Envoy listens", || {
            process.assert_running();
            // Its sockets are bound before it is live, and refuse until then.
            let (status, _) = get(admin, "/ready").ok()?;
            let (_, page) = get(admin, "/listeners?format=json").ok()?;
            let page: Value = serde_json::from_str(page.get(page.find('{')?..=page.rfind('}')?)?).ok()?;
            let port = page.pointer("/listener_statuses/0/local_address/socket_address/port_value")?.as_u64()?;
            (status == 200).then(|| SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap())))
        });
        Self { address, admin, process }
    }

    /// Addresses of a cluster that are well, as `IP:PORT`.
    pub(crate) fn healthy(&self, cluster: &str) -> Vec<String> {
        let (_, page) = get(self.admin, "/clusters").unwrap();
        let begin = format!("{cluster}::");
        let lines = page.lines().filter_map(|line| line.strip_prefix(&begin)?.strip_suffix("::health_flags::healthy"));
        lines.map(ToOwned::to_owned).collect()
    }

    /// A call of a tool, as an agent sends it.
    pub(crate) fn call(&self, tool: &str, arguments: &Value) -> std::io::Result<(u16, String)> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}});
        let body = body.to_string();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: mcp.test\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        http(self.address, &format!("{head}{body}"))
    }

    /// Runs a real client through steps and gives what it saw, the connection first.
    pub(crate) fn client(&self, steps: &Value) -> Vec<Value> {
        tool("client-ts1", "client-ts1");
        let mut command = Command::new("node");
        command.arg(root().join("tests/clients/ts1.mjs")).arg(format!("http://{}/mcp", self.address));
        command.args(["--token", TOKEN]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(steps.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What Envoy wrote.
    pub(crate) fn output(&self) -> String {
        self.process.output()
    }
}

/// The clusters that the chart gives for Envoy.
pub(crate) fn clusters(manifests: &Manifests) -> String {
    let map = manifests.object("ConfigMap", &format!("{}-envoy", full_name()));
    map["data"]["clusters.yaml"].as_str().unwrap().to_owned()
}

/// The shipped configuration with other ports, and the clusters of the chart in place of its own.
fn configuration(clusters: &str, upstream: SocketAddr, names: &Names) -> String {
    let shipped = std::fs::read_to_string(root().join("deploy/envoy.yaml")).unwrap();
    let code = |line: &&str| !line.trim_start().starts_with('#');
    let text: String = shipped.lines().filter(code).flat_map(|line| [line, "\n"]).collect();
    let (before, rest) = text.split_once("  - name: mcp_authz\n").unwrap();
    let (_, after) = rest.split_once("overload_manager:\n").unwrap();
    let resolver = format!(
        "typed_dns_resolver_config:\n  name: envoy.network.dns_resolver.cares\n  typed_config:\n    \
         \"@type\": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig\n    \
         resolvers: [{{socket_address: {{address: 127.0.0.1, port_value: {}}}}}]\n    \
         dns_resolver_options: {{no_default_search_domain: true}}\n",
        names.address.port()
    );
    let mut text = format!("{before}{clusters}\n{resolver}overload_manager:\n{after}");
    for (from, to) in [
        ("port_value: 9901", "port_value: 0".to_owned()),
        ("port_value: 10000", "port_value: 0".to_owned()),
        ("port_value: 8080", format!("port_value: {}", upstream.port())),
        // A loaded machine must not look like a lost request.
        ("{cluster_name: mcp_authz}, timeout: 1s", "{cluster_name: mcp_authz}, timeout: 10s".to_owned()),
        ("message_timeout: 1s", "message_timeout: 10s".to_owned()),
    ] {
        assert_eq!(text.matches(from).count(), 1, "deploy/envoy.yaml has `{from}` another number of times");
        text = text.replace(from, &to);
    }
    text
}

/// The real MCP server of `tests/fixture`, which wants its own credential.
pub(crate) struct Fixture {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _process: Process,
}

impl Fixture {
    /// Builds it if need be, starts it, and waits until it listens.
    pub(crate) fn start(folder: &Path) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.current_dir(root()).args(["build", "--package", "mcp-authz-fixture", "--message-format=json"]);
        let output = build.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let messages = String::from_utf8_lossy(&output.stdout).into_owned();
        let binary = messages.lines().rev().find_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            message["executable"].as_str().map(ToOwned::to_owned)
        });
        let mut command = Command::new(binary.unwrap());
        command.args(["--listen", "127.0.0.1:0", "--allow-host", "mcp.test", "--require-authorization"]);
        command.arg(format!("Bearer {CREDENTIAL}"));
        let mut process = Process::start("fixture", folder, command);
        let address = until("the fixture listens", || {
            process.assert_running();
            let line = process.output();
            line.strip_prefix("listening on http://")?.lines().next()?.strip_suffix("/mcp")?.parse().ok()
        });
        Self { address, _process: process }
    }
}

/// An MCP server that answers every call at once, for load. Its threads end with their connections.
pub(crate) fn answering() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

/// Answers requests until the peer leaves.
fn answer(mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut length = 0_usize;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some((_, value)) =
                line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        let body = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"done"}]}}"#;
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    }
}
