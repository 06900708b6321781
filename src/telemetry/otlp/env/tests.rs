use super::*;

fn read<const N: usize>(variables: [(&str, &str); N]) -> Said {
    Said::read(&Env::from(variables)).unwrap()
}

fn defects<const N: usize>(variables: [(&str, &str); N]) -> Vec<String> {
    Said::read(&Env::from(variables)).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_said_is_nothing_and_so_is_what_is_empty() {
    assert_eq!(read([]), Said::default());
    assert_eq!(
        read([
            ("OTEL_SDK_DISABLED", ""),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", " "),
            ("OTEL_TRACES_SAMPLER", ""),
            ("OTEL_PROPAGATORS", ""),
            ("OTEL_BSP_MAX_QUEUE_SIZE", ""),
        ]),
        Said::default()
    );
}

#[test]
fn what_is_said_of_all_and_of_one_signal_is_kept_apart() {
    let said = read([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces/path"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "600000"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20a, x-tenant = b "),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", "/c.pem"),
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "/k.pem"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_METRICS_EXPORTER", "none"),
    ]);
    let [logs, metrics, traces] = &said.signals;
    assert_eq!(said.general.endpoint.as_ref().map(ToString::to_string).as_deref(), Some("http://all:4317"));
    assert_eq!(traces.endpoint.as_ref().map(ToString::to_string).as_deref(), Some("https://traces/path"));
    assert_eq!((said.general.protocol, traces.protocol), (Some(Protocol::Grpc), Some(Protocol::HttpProtobuf)));
    assert_eq!(said.general.timeout, Some(Duration::from_millis(250)));
    assert_eq!(logs.timeout, Some(Duration::from_secs(600)));
    let headers = HeaderLines::new([("authorization", "Bearer a"), ("x-tenant", "b")]).unwrap();
    assert_eq!((said.general.headers.as_ref(), &traces.headers), (Some(&headers), &None));
    assert_eq!(said.general.ca.as_deref(), Some(std::path::Path::new("/ca.pem")));
    assert!(metrics.certificate.is_some() && metrics.key.is_some());
    assert_eq!(said.exporters, [None, Some(false), Some(true)]);
}

#[test]
fn an_address_without_a_scheme_is_encrypted_unless_said_otherwise() {
    let endpoint = |said: &Said| said.general.endpoint.as_ref().map(ToString::to_string).unwrap();
    assert_eq!(endpoint(&read([("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317")])), "https://c:4317");
    let insecure = [("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317"), ("OTEL_EXPORTER_OTLP_INSECURE", "True")];
    assert_eq!(endpoint(&read(insecure)), "http://c:4317");
    let with_scheme = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4317"), ("OTEL_EXPORTER_OTLP_INSECURE", "true")];
    assert_eq!(endpoint(&read(with_scheme)), "https://c:4317");
    let of_signal = read([("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "c:4317"), ("OTEL_EXPORTER_OTLP_INSECURE", "true")]);
    assert_eq!(of_signal.signals[0].endpoint.as_ref().unwrap().to_string(), "http://c:4317");
}

#[test]
fn every_sampler_is_read() {
    let sampler = |kind: &str, argument: &str| {
        read([("OTEL_TRACES_SAMPLER", kind), ("OTEL_TRACES_SAMPLER_ARG", argument)]).sampler.unwrap()
    };
    let ratio = Ratio::parse("0.25").unwrap();
    for (kind, heeds_parent, expected) in [
        ("always_on", false, Ratio::ALL),
        ("always_off", false, Ratio::NONE),
        ("traceidratio", false, ratio),
        ("parentbased_always_on", true, Ratio::ALL),
        ("parentbased_always_off", true, Ratio::NONE),
        ("parentbased_traceidratio", true, ratio),
    ] {
        assert_eq!(sampler(kind, "0.25"), Sampler { heeds_parent, ratio: expected }, "{kind}");
    }
    assert_eq!(sampler("traceidratio", "").ratio, Ratio::ALL, "the default of the specification");
    assert_eq!(read([("OTEL_TRACES_SAMPLER_ARG", "0.5")]).sampler, None, "an argument of nothing");
}

#[test]
fn attributes_have_their_escapes_undone_and_each_key_once() {
    let said = read([("OTEL_RESOURCE_ATTRIBUTES", "b=1%2C2,a = x ,b=3,,c="), ("OTEL_SERVICE_NAME", "gate")]);
    let expected = [("a", "x"), ("b", "3"), ("c", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!((said.attributes.as_slice(), said.service_name.as_deref()), (&expected[..], Some("gate")));
    let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
    assert_eq!(read([("OTEL_RESOURCE_ATTRIBUTES", &many(ATTRIBUTES_MAX))]).attributes.len(), ATTRIBUTES_MAX);
    assert_eq!(defects([("OTEL_RESOURCE_ATTRIBUTES", &many(ATTRIBUTES_MAX + 1))]).len(), 1);
}

#[test]
fn other_propagators_are_told_of() {
    assert_eq!(read([("OTEL_PROPAGATORS", "tracecontext,baggage")]).propagates, Some(true));
    assert_eq!(read([("OTEL_PROPAGATORS", "none")]).propagates, Some(false));
    let said = read([("OTEL_PROPAGATORS", "tracecontext, b3")]);
    assert_eq!((said.propagates, said.warnings.len()), (Some(true), 1));
    let told = "environment: OTEL_PROPAGATORS names `b3`, which is not read (let Envoy send W3C trace context and say `tracecontext`)";
    assert_eq!(defects([("OTEL_PROPAGATORS", "b3")]), [told]);
}

#[test]
fn all_defects_are_told_at_once_and_no_secret_with_them() {
    let told = defects([
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:canary@collector"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "collector?x"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "canary"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=canary%0a"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "authorization=canary%zz"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "600001"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k.pem"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "1"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "600001"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "999"),
        ("OTEL_PROPAGATORS", "zipkin"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a"),
    ]);
    assert_eq!(told.len(), 21, "{told:#?}");
    assert!(told.iter().all(|line| line.starts_with("environment: OTEL_") && !line.contains("canary")), "{told:#?}");
    let said_twice = told.iter().filter(|line| line.contains("OTEL_EXPORTER_OTLP_INSECURE")).count();
    assert_eq!(said_twice, 1);
    assert_eq!(defects([("OTEL_TRACES_SAMPLER", "xray")]).len(), 1);
}

#[test]
fn text_that_is_not_utf_8_is_a_defect() {
    use std::os::unix::ffi::OsStringExt as _;
    let env = Env([("OTEL_SERVICE_NAME".to_owned(), OsString::from_vec(vec![0xff]))].into());
    let told = Said::read(&env).unwrap_err();
    assert_eq!(
        told.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["environment: OTEL_SERVICE_NAME is not UTF-8 text"]
    );
    assert_eq!(format!("{env:?}"), "{\"OTEL_SERVICE_NAME\"}");
}
