//! The standard variables of OpenTelemetry. Source: OpenTelemetry specification 1.50, "SDK environment variables" and
//! "OTLP exporter".
//!
//! The environment of the process is read in one place, [`Env::of_process`]; everything else takes an [`Env`]. A variable that
//! is empty counts as absent, as the specification has it. All defects are found at once.

use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf, time::Duration};

use mcp_authz_core::document::{Defect, quoted};

use super::endpoint::{Endpoint, EndpointError, HeaderLines, Protocol};
use crate::telemetry::{
    metrics::{Label as _, Signal},
    trace::sampler::{Ratio, Sampler},
};

/// How defects name the place.
const PLACE: &str = "environment";
/// Attributes of the resource.
pub const ATTRIBUTES_MAX: usize = 64;
/// Bytes of their keys and values together.
pub const ATTRIBUTES_BYTES_MAX: usize = 16 * 1024;
/// Longest time that may be set, ms.
const TIME_MAX_MS: u64 = 600_000;

/// Variables by name. Values may be secrets, and are not shown.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<String, OsString>);

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Env {
    /// Those of this process whose names begin with `OTEL_`.
    #[must_use]
    pub fn of_process() -> Self {
        let all = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self(all.filter(|(name, _)| name.starts_with("OTEL_")).collect())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Env {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect())
    }
}

/// What the variables say of one signal, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Where to send; of one signal the whole URL of HTTP/protobuf.
    pub endpoint: Option<Endpoint>,
    /// How.
    pub protocol: Option<Protocol>,
    /// Header lines to send.
    pub headers: Option<HeaderLines>,
    /// Longest time for one export with its retries.
    pub timeout: Option<Duration>,
    /// Authorities that are trusted.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// What the variables say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// `OTEL_SDK_DISABLED`: nothing is sent, whatever else is said.
    pub is_disabled: bool,
    /// `OTEL_SERVICE_NAME`.
    pub service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`, each key once.
    pub attributes: Vec<(String, String)>,
    /// Of all signals.
    pub general: Given,
    /// Of each signal, in the order of [`Signal::ALL`].
    pub signals: [Given; Signal::ALL.len()],
    /// `OTEL_…_EXPORTER`: whether `otlp` or `none`.
    pub exporters: [Option<bool>; Signal::ALL.len()],
    /// `OTEL_TRACES_SAMPLER` and its argument.
    pub sampler: Option<Sampler>,
    /// `OTEL_BSP_MAX_QUEUE_SIZE`.
    pub queue_max: Option<usize>,
    /// `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
    pub batch_max: Option<usize>,
    /// `OTEL_BSP_SCHEDULE_DELAY`.
    pub delay: Option<Duration>,
    /// `OTEL_BSP_EXPORT_TIMEOUT`.
    pub export_timeout: Option<Duration>,
    /// `OTEL_METRIC_EXPORT_INTERVAL`.
    pub metric_interval: Option<Duration>,
    /// `OTEL_PROPAGATORS`: whether `tracecontext` is among them.
    pub propagates: Option<bool>,
    /// What is legal and probably not meant.
    pub warnings: Vec<Defect>,
}

impl Said {
    /// Reads every variable.
    ///
    /// # Errors
    /// Every defect.
    pub fn read(env: &Env) -> Result<Self, Vec<Defect>> {
        let mut reader = Reader { env, defects: Vec::new(), warnings: Vec::new() };
        let said = reader.all();
        if reader.defects.is_empty() { Ok(Self { warnings: reader.warnings, ..said }) } else { Err(reader.defects) }
    }
}

/// The part of a variable's name that names its signal.
const fn infix(signal: Signal) -> &'static str {
    match signal {
        Signal::Logs => "LOGS_",
        Signal::Metrics => "METRICS_",
        Signal::Traces => "TRACES_",
    }
}

struct Reader<'e> {
    env: &'e Env,
    defects: Vec<Defect>,
    warnings: Vec<Defect>,
}

fn defect(name: &str, message: impl fmt::Display) -> Defect {
    Defect::of_file(PLACE, format!("{name} {message}"))
}

impl<'e> Reader<'e> {
    fn all(&mut self) -> Said {
        let general = self.given("", None);
        let insecure = self.flag("OTEL_EXPORTER_OTLP_INSECURE");
        let signal = |reader: &mut Self, at: usize| {
            Signal::ALL.get(at).map(|signal| reader.given(infix(*signal), insecure)).unwrap_or_default()
        };
        let signals = [signal(self, 0), signal(self, 1), signal(self, 2)];
        let exporter = |reader: &mut Self, at: usize| Signal::ALL.get(at).and_then(|signal| reader.exporter(*signal));
        Said {
            is_disabled: self.flag("OTEL_SDK_DISABLED").unwrap_or_default(),
            service_name: self.text("OTEL_SERVICE_NAME").map(ToOwned::to_owned),
            attributes: self.attributes(),
            general,
            signals,
            exporters: [exporter(self, 0), exporter(self, 1), exporter(self, 2)],
            sampler: self.sampler(),
            queue_max: self.count("OTEL_BSP_MAX_QUEUE_SIZE", 1, 1_000_000),
            batch_max: self.count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1, 100_000),
            delay: self.millis("OTEL_BSP_SCHEDULE_DELAY", 1),
            export_timeout: self.millis("OTEL_BSP_EXPORT_TIMEOUT", 1),
            metric_interval: self.millis("OTEL_METRIC_EXPORT_INTERVAL", 1_000),
            propagates: self.propagators(),
            warnings: Vec::new(),
        }
    }

    /// The variables of one signal, or without an infix those of all.
    fn given(&mut self, infix: &str, insecure: Option<bool>) -> Given {
        let name = |rest: &str| format!("OTEL_EXPORTER_OTLP_{infix}{rest}");
        let insecure = self.flag(&name("INSECURE")).or(insecure).unwrap_or_default();
        let compression = name("COMPRESSION");
        if self.text(&compression).is_some_and(|text| text != "none") {
            self.defects
                .push(defect(&compression, "can be `none` only: nothing is compressed").with_hint("leave it out"));
        }
        let path = |reader: &mut Self, rest: &str| reader.text(&name(rest)).map(PathBuf::from);
        let (ca, certificate, key) =
            (path(self, "CERTIFICATE"), path(self, "CLIENT_CERTIFICATE"), path(self, "CLIENT_KEY"));
        if certificate.is_some() != key.is_some() {
            let (certificate, key) = (name("CLIENT_CERTIFICATE"), name("CLIENT_KEY"));
            self.defects.push(defect(&certificate, format!("and {key} need each other")));
        }
        Given {
            endpoint: self.endpoint(&name("ENDPOINT"), insecure),
            protocol: self.protocol(&name("PROTOCOL")),
            headers: self.headers(&name("HEADERS")),
            timeout: self.millis(&name("TIMEOUT"), 1),
            ca,
            certificate,
            key,
        }
    }

    fn text(&mut self, name: &str) -> Option<&'e str> {
        let value = self.env.0.get(name)?;
        let Some(text) = value.to_str() else {
            // Told once, although some variables are looked at twice.
            let defect = defect(name, "is not UTF-8 text");
            if !self.defects.contains(&defect) {
                self.defects.push(defect);
            }
            return None;
        };
        Some(text.trim()).filter(|text| !text.is_empty())
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        let text = self.text(name)?;
        match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                let defect = defect(name, format!("must be `true` or `false`, found {}", quoted(text)));
                if !self.defects.contains(&defect) {
                    self.defects.push(defect);
                }
                None
            }
        }
    }

    fn number(&mut self, name: &str, min: u64, max: u64) -> Option<u64> {
        let text = self.text(name)?;
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        if number.is_none() {
            let message = format!("must be a whole number from {min} to {max}, found {}", quoted(text));
            self.defects.push(defect(name, message));
        }
        number
    }

    fn count(&mut self, name: &str, min: u64, max: u64) -> Option<usize> {
        self.number(name, min, max).and_then(|number| usize::try_from(number).ok())
    }

    fn millis(&mut self, name: &str, min: u64) -> Option<Duration> {
        self.number(name, min, TIME_MAX_MS).map(Duration::from_millis)
    }

    fn endpoint(&mut self, name: &str, insecure: bool) -> Option<Endpoint> {
        let text = self.text(name)?;
        let endpoint = Endpoint::parse(text, Some(if insecure { "http" } else { "https" }));
        match endpoint {
            Ok(endpoint) => Some(endpoint),
            Err(error @ EndpointError::Credentials) => {
                let hint = "put it into OTEL_EXPORTER_OTLP_HEADERS, or into the file `telemetry.otlp.headers_file`";
                self.defects.push(defect(name, format!("holds a secret: {error}")).with_hint(hint));
                None
            }
            Err(error @ EndpointError::Malformed) => {
                let hint = "such as `http://localhost:4317` or `https://collector.example`";
                self.defects.push(defect(name, format!("{error}: {}", quoted(text))).with_hint(hint));
                None
            }
        }
    }

    fn protocol(&mut self, name: &str) -> Option<Protocol> {
        let text = self.text(name)?;
        let protocol = Protocol::parse(text);
        if protocol.is_none() {
            let [grpc, http] = Protocol::NAMES;
            self.defects.push(defect(name, format!("must be `{grpc}` or `{http}`, found {}", quoted(text))));
        }
        protocol
    }

    fn headers(&mut self, name: &str) -> Option<HeaderLines> {
        let Some(pairs) = pairs(self.text(name)?) else {
            self.defects.push(defect(name, "must be `name=value,name=value`, with values escaped as in URLs"));
            return None;
        };
        // Its text may be a secret, and is not shown.
        HeaderLines::new(pairs)
            .map_err(|error| self.defects.push(defect(name, format!("cannot be used: {error}"))))
            .ok()
    }

    fn attributes(&mut self) -> Vec<(String, String)> {
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        let Some(text) = self.text(name) else { return Vec::new() };
        let Some(pairs) = pairs(text) else {
            self.defects.push(defect(name, "must be `key=value,key=value`, with values escaped as in URLs"));
            return Vec::new();
        };
        if pairs.len() > ATTRIBUTES_MAX || text.len() > ATTRIBUTES_BYTES_MAX {
            let limits = format!("{ATTRIBUTES_MAX} attributes or {ATTRIBUTES_BYTES_MAX} bytes");
            self.defects.push(defect(name, format!("holds more than {limits}")));
            return Vec::new();
        }
        // The last of equal keys is the one that holds.
        pairs.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect()
    }

    fn exporter(&mut self, signal: Signal) -> Option<bool> {
        let name = format!("OTEL_{}EXPORTER", infix(signal));
        match self.text(&name)? {
            "otlp" => Some(true),
            "none" => Some(false),
            text => {
                let message = format!("must be `otlp` or `none`, found {}", quoted(text));
                let hint = match signal {
                    Signal::Logs => "the log goes to standard error anyway",
                    Signal::Metrics => "Prometheus finds the metrics at `/metrics` anyway",
                    Signal::Traces => "a collector passes traces on to others",
                };
                self.defects.push(defect(&name, message).with_hint(hint));
                None
            }
        }
    }

    fn sampler(&mut self) -> Option<Sampler> {
        const NAMES: [&str; 6] = [
            "always_off",
            "always_on",
            "parentbased_always_off",
            "parentbased_always_on",
            "parentbased_traceidratio",
            "traceidratio",
        ];
        let (name, of_ratio) = ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG");
        let ratio = self.text(of_ratio).map(|text| (text, Ratio::parse(text)));
        let kind = self.text(name)?;
        if !NAMES.contains(&kind) {
            let message = format!("must be one of {}, found {}", NAMES.join(", "), quoted(kind));
            self.defects.push(defect(name, message));
            return None;
        }
        let (heeds_parent, kind) = match kind.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, kind),
        };
        let ratio = match (kind, ratio) {
            ("always_on", _) | ("traceidratio", None) => Ratio::ALL,
            ("always_off", _) => Ratio::NONE,
            (_, Some((_, Some(ratio)))) => ratio,
            (_, Some((text, None))) => {
                let message = format!(
                    "must be a number from 0 to 1 with at most 9 digits after the point, found {}",
                    quoted(text)
                );
                self.defects.push(defect(of_ratio, message));
                return None;
            }
            (_, None) => Ratio::ALL,
        };
        Some(Sampler { heeds_parent, ratio })
    }

    fn propagators(&mut self) -> Option<bool> {
        const OTHERS: [&str; 5] = ["b3", "b3multi", "jaeger", "ottrace", "xray"];
        let name = "OTEL_PROPAGATORS";
        let text = self.text(name)?;
        let names: Vec<&str> = text.split(',').map(str::trim).collect();
        let reads = names.contains(&"tracecontext");
        for word in names {
            match word {
                // Baggage is the client's, and we call nobody to pass it on to.
                "" | "baggage" | "none" | "tracecontext" => {}
                other if OTHERS.contains(&other) && reads => {
                    self.warnings.push(defect(name, format!("names `{other}`, which is not read; `tracecontext` is")));
                }
                other => {
                    let defect = defect(name, format!("names {}, which is not read", quoted(other)));
                    self.defects.push(defect.with_hint("let Envoy send W3C trace context and say `tracecontext`"));
                }
            }
        }
        Some(reads)
    }
}

/// `key=value,key=value`, values escaped as in URLs; spaces around either are not part of it.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let key = unescaped(key.trim()).filter(|key| !key.is_empty())?;
        Some((key, unescaped(value.trim())?))
    });
    pairs.collect()
}

fn unescaped(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>()?;
        rest = after;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests;
