//! One pod with its kubelet: started, probed and stopped exactly as rendered.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    chart::Manifests,
    layout::{Pod, Secrets},
    process::{Process, get, pod_address, until, until_in},
};

/// A running pod.
pub(crate) struct Replica {
    /// Its address.
    pub(crate) address: IpAddr,
    /// Its files.
    pub(crate) pod: Pod,
    /// The program.
    pub(crate) process: Process,
}

impl Replica {
    /// Lays everything out and starts the program with the rendered command, arguments and environment.
    pub(crate) fn start(manifests: &Manifests, secrets: &Secrets, folder: &Path) -> Self {
        let pod = Pod::lay_out(manifests, secrets, folder);
        let ports: Vec<u16> = pod.container["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| u16::try_from(port["containerPort"].as_u64().unwrap()).unwrap())
            .collect();
        let address = pod_address(&ports);
        // Pods share this machine, so "all addresses of the pod" is the one that is its own.
        let settings = pod.path("/etc/mcp-authz/config.yaml");
        let text = std::fs::read_to_string(&settings).unwrap();
        assert!(text.contains("0.0.0.0:"), "the pod listens somewhere else");
        std::fs::write(&settings, text.replace("0.0.0.0:", &format!("{address}:"))).unwrap();
        let process = Process::start("mcp-authz", folder, command(&pod, address));
        Self { address, pod, process }
    }

    /// Waits for the startup probe, then asks the others, as the kubelet does.
    pub(crate) fn ready(mut self) -> Self {
        let probe = self.pod.container["startupProbe"].clone();
        let (period, failures) =
            (probe["periodSeconds"].as_u64().unwrap(), probe["failureThreshold"].as_u64().unwrap());
        let patience = Duration::from_secs(period.checked_mul(failures).unwrap());
        until_in(patience, "the pod has started", || {
            self.process.assert_running();
            self.probe("startupProbe").then_some(())
        });
        assert!(self.probe("livenessProbe"), "a pod that has started is not alive");
        until("the pod is ready", || self.probe("readinessProbe").then_some(()));
        self
    }

    /// Whether a probe succeeds now.
    pub(crate) fn probe(&self, name: &str) -> bool {
        let probe = &self.pod.container[name]["httpGet"];
        let answer = get(self.port(probe["port"].as_str().unwrap()), probe["path"].as_str().unwrap());
        answer.is_ok_and(|(status, _)| (200..400).contains(&status))
    }

    /// The address of a port by its name.
    pub(crate) fn port(&self, name: &str) -> SocketAddr {
        let ports = self.pod.container["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == name).unwrap_or_else(|| panic!("no port {name}"));
        (self.address, u16::try_from(port["containerPort"].as_u64().unwrap()).unwrap()).into()
    }

    /// Stops it as a kubelet does. In place of sleeping through preStop, this waits for what the sleep is for, and no longer than it.
    pub(crate) fn stop(mut self, forgotten: impl FnMut() -> Option<()>) {
        let sleep = self.pod.container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        let begun = Instant::now();
        until_in(Duration::from_secs(sleep), "Envoy has forgotten the pod within preStop", forgotten);
        assert!(self.probe("readinessProbe"), "a pod in preStop serves on");
        self.process.signal("TERM");
        let grace = Duration::from_secs(self.pod.spec["terminationGracePeriodSeconds"].as_u64().unwrap());
        let status = self.process.ended_within(grace.checked_sub(begun.elapsed()).unwrap());
        assert!(status.success(), "the kubelet would see {status}\n{}", self.process.output());
    }
}

fn command(pod: &Pod, address: IpAddr) -> Command {
    let words = |key: &str| -> Vec<String> {
        let words = pod.container[key].as_array().unwrap();
        words.iter().map(|word| pod.prefixed(word.as_str().unwrap())).collect()
    };
    assert_eq!(words("command"), ["/usr/local/bin/mcp-authz"], "the image has another program");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
    command.args(words("args")).env_clear();
    for variable in pod.container["env"].as_array().unwrap() {
        let value = variable.get("value").and_then(|value| value.as_str());
        let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
        let value = match (value, field) {
            (Some(value), _) => pod.prefixed(value),
            (None, Some("metadata.name")) => "gate-mcp-authz-0".to_owned(),
            (None, Some("metadata.namespace")) => "default".to_owned(),
            (None, Some("status.podIP")) => address.to_string(),
            (None, Some(_) | None) => "unknown".to_owned(),
        };
        command.env(variable["name"].as_str().unwrap(), value);
    }
    command
}
