//! A real Prometheus scrapes what the binary shows, loads the rules and answers every query of every dashboard.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

use super::{alerts, dashboards, root, series::Traffic, tool};

/// Time for a Prometheus on a busy machine to start, and to have scraped twice.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Shows the metrics of a process that sees more at each scrape, until the test ends.
fn scraped() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let traffic = Arc::new(Mutex::new(Traffic::new()));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, traffic) = (stream.unwrap(), Arc::clone(&traffic));
            thread::spawn(move || {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).unwrap_or_default();
                let page = {
                    let mut traffic = traffic.lock().unwrap();
                    traffic.more();
                    traffic.page()
                };
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\nconnection: close\r\n";
                let sent = write!(stream, "{head}content-length: {}\r\n\r\n{page}", page.len());
                assert!(read == 0 || sent.is_ok());
            });
        }
    });
    address
}

struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let (killed, ended) = (self.child.kill(), self.child.wait());
        assert!(killed.is_ok() && ended.is_ok());
    }
}

impl Prometheus {
    fn start(target: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let rules = root().join(alerts::RULES);
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs:\n- job_name: mesh/mcp-authz\n  static_configs: [{{targets: [\"{target}\"], labels: {{namespace: mesh, pod: a}}}}]\n",
            rules.display().to_string()
        );
        fs::write(&config, text).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A port that was free a moment ago; Prometheus does not tell which one it got for port 0.
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let log = fs::File::create(folder.path().join("log")).unwrap();
            let mut child = Command::new(tool("prometheus"))
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
                .arg(format!("--web.listen-address={address}"))
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap();
            while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
                if get(address, "/-/ready").is_some_and(|page| page.contains(" 200 ")) {
                    return Self { child, address, _folder: folder };
                }
                thread::sleep(PAUSE);
            }
            let said = fs::read_to_string(folder.path().join("log")).unwrap();
            let (killed, ended) = (child.kill(), child.wait());
            assert!(Instant::now() < deadline, "Prometheus does not start ({killed:?}, {ended:?}): {said}");
        }
    }

    fn api(&self, path: &str) -> Value {
        let page = get(self.address, path).unwrap_or_else(|| panic!("Prometheus does not answer {path}"));
        let (_, body) = page.split_once("\r\n\r\n").unwrap();
        let answer: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {page}"));
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    fn series(&self, expr: &str) -> usize {
        let query: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.api(&format!("/api/v1/query?query={query}"))["result"].as_array().unwrap().len()
    }
}

/// A page as it comes, head included; HTTP/1.0, so that it ends where the connection does.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    Some(page)
}

#[test]
fn a_real_prometheus_answers_every_query_with_data_and_evaluates_every_rule() {
    let prometheus = Prometheus::start(scraped());
    let deadline = Instant::now() + PATIENCE;
    for (place, expr) in dashboards::queries() {
        while prometheus.series(&expr) == 0 {
            assert!(Instant::now() < deadline, "{place}: no data for `{expr}`");
            thread::sleep(PAUSE);
        }
    }
    let ungrouped = |rules: &Value| -> Vec<Value> {
        let groups = rules["groups"].as_array().unwrap();
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    };
    loop {
        let rules = ungrouped(&prometheus.api("/api/v1/rules"));
        let health: Vec<&str> = rules.iter().map(|rule| rule["health"].as_str().unwrap()).collect();
        assert!(!health.contains(&"err"), "{rules:?}");
        if health.iter().all(|health| *health == "ok") {
            assert_eq!(rules.iter().filter(|rule| rule["type"] == "alerting").count(), alerts::alerts().len());
            break;
        }
        assert!(Instant::now() < deadline, "rules that were never evaluated: {rules:?}");
        thread::sleep(PAUSE);
    }
}
