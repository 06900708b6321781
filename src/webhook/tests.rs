use axum::http::Request;
use serde_json::{Value, json};
use tower::util::ServiceExt as _;

use super::{
    review::{Documents, LABEL},
    *,
};

const GOOD: &str = "version: '1'\ndefault: deny\ntools: {echo: {}}\n";

struct Rig {
    pages: Router,
    registry: Arc<Registry>,
}

impl Rig {
    fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = WebhookMetrics::new(&mut registry, 1);
        let registry = Arc::new(registry);
        Self { pages: router(metrics, Arc::clone(&registry), false), registry }
    }

    async fn post(&self, body: impl Into<Body>) -> (StatusCode, String) {
        let request = Request::post("/validate").body(body.into()).unwrap();
        let response = self.pages.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    /// The answer to a review.
    async fn ask(&self, review: &Value) -> Value {
        let (status, body) = self.post(review.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let mut answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&answer["apiVersion"], &answer["kind"]), (&review["apiVersion"], &review["kind"]));
        assert_eq!(answer["response"]["uid"], "u-1");
        answer["response"].take()
    }

    /// What is said of the files of a labelled ConfigMap: why it is refused, and the warnings.
    async fn judge(&self, files: &[(&str, &str)]) -> (Option<String>, Vec<String>) {
        let data: serde_json::Map<String, Value> =
            files.iter().map(|(name, text)| ((*name).to_owned(), Value::from(*text))).collect();
        told(&self.ask(&review("policies", &json!({ "data": data }))).await)
    }

    fn count(&self, outcome: &str) -> u64 {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).unwrap();
        let series = format!("mcp_authz_webhook_reviews_total{{outcome=\"{outcome}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    }
}

fn told(answer: &Value) -> (Option<String>, Vec<String>) {
    let message = answer["status"]["message"].as_str().map(str::to_owned);
    assert_eq!(answer["allowed"], message.is_none(), "{answer}");
    let warnings = answer["warnings"].as_array().cloned().unwrap_or_default();
    (message, warnings.iter().map(|warning| warning.as_str().unwrap().to_owned()).collect())
}

/// A review of a ConfigMap with that label.
fn review(label: &str, parts: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "policies", "namespace": "mesh", "labels": { (LABEL): label } },
    });
    object.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": { "group": "", "version": "v1", "kind": "ConfigMap" },
            "operation": "CREATE",
            "object": object,
            "oldObject": null,
            "dryRun": false,
        },
    })
}

#[tokio::test]
async fn documents_without_a_defect_are_allowed_with_their_warnings() {
    let rig = Rig::new();
    assert_eq!(rig.judge(&[("p.yaml", GOOD)]).await, (None, vec![]));
    let (refused, warnings) = rig.judge(&[("p.yaml", "version: '1'\ndefault: allow\n"), ("notes.md", "# Hi")]).await;
    assert_eq!(refused, None);
    assert_eq!(
        warnings,
        [
            "notes.md is not served: its name ends in neither .yaml, .yml nor .json",
            "p.yaml:1: the policy allows everything",
        ]
    );
    assert_eq!((rig.count("allowed"), rig.count("denied")), (2, 0));
}

#[tokio::test]
async fn every_defect_of_every_file_is_told() {
    let rig = Rig::new();
    let files = [
        ("P.yaml", "version: '1'\ndefault: deny\ntoolz: {}\n"),
        ("q.json", "{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"t\": {\"require\": 3}}}"),
        ("q.yaml", "mask: [\n"),
    ];
    let (refused, _) = rig.judge(&files).await;
    let refused = refused.unwrap();
    for part in ["P.yaml", "gives no policy id", "unknown key `toolz`", "/tools/t/require", "taken by q.json"] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    assert!(refused.starts_with(&format!("{} defects:\n", refused.lines().count() - 1)), "{refused}");
    assert_eq!(rig.count("denied"), 1);
}

#[tokio::test]
async fn test_cases_run_against_the_policies_beside_them() {
    let rig = Rig::new();
    let cases = |decision: &str, file: &str| {
        format!(
            "format: mcp-policy-cases/1\nsuites:\n- suite: s\n  policy_file: {file}\n  cases:\n  - id: one\n    \
             request: {{jsonrpc: '2.0', id: 1, method: tools/call, params: {{name: echo}}}}\n    \
             expect: {{decision: {decision}}}\n"
        )
    };
    assert_eq!(rig.judge(&[("p.yaml", GOOD), ("p.test.yaml", &cases("allow", "p.yaml"))]).await.0, None);
    let failed = rig.judge(&[("p.yaml", GOOD), ("p.test.yaml", &cases("deny", "./p.yaml"))]).await.0.unwrap();
    assert_eq!(failed, "1 defect:\np.test.yaml: FAIL one: expected deny, got allow");
    let missing = rig.judge(&[("p.yaml", GOOD), ("p.test.yaml", &cases("allow", "q.yaml"))]).await.0.unwrap();
    assert!(missing.contains("`q.yaml` is not in this ConfigMap; did you mean `p.yaml`?"), "{missing}");
    let broken = rig.judge(&[("p.yaml", GOOD), ("p.test.yaml", "format: other\n")]).await.0.unwrap();
    assert!(broken.starts_with("1 defect:\np.test.yaml:1: /format: "), "{broken}");
}

#[tokio::test]
async fn what_is_binary_is_a_file_as_well() {
    let rig = Rig::new();
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let parts = |text: &str| json!({ "data": null, "binaryData": { "p.yaml": STANDARD.encode(text) } });
    assert_eq!(told(&rig.ask(&review("policies", &parts(GOOD))).await), (None, vec![]));
    let refused = told(&rig.ask(&review("policies", &parts("\u{0}"))).await).0.unwrap();
    assert!(refused.contains("p.yaml:1"), "{refused}");
}

#[tokio::test]
async fn an_empty_one_and_one_with_an_unknown_label_are_no_accident() {
    let rig = Rig::new();
    let nothing = (None, vec!["it holds no document that is served".to_owned()]);
    for parts in [json!({}), json!({ "data": {} }), json!({ "data": null })] {
        assert_eq!(told(&rig.ask(&review("policies", &parts)).await), nothing);
    }
    let (refused, _) = told(&rig.ask(&review("policy", &json!({}))).await);
    assert_eq!(refused.unwrap(), "1 defect:\nthe label mcp-authz.io/documents must be `policies` or `servers`");
}

#[tokio::test]
async fn servers_are_judged_and_rules_for_results_need_the_response_phase() {
    let rig = Rig::new();
    let servers = |text: &str| review("servers", &json!({ "data": { "servers.yaml": text } }));
    assert_eq!(told(&rig.ask(&servers("servers: {s: {credential: {kind: none}}}\n")).await), (None, vec![]));
    let pinned = "servers: {s: {credential: {kind: none}, tools: {trust: first_use}}}\n";
    let refused = told(&rig.ask(&servers(pinned)).await).0.unwrap();
    assert!(refused.contains("the tools of `s` are pinned"), "{refused}");
    let refused = told(&rig.ask(&servers("servers: {s: {}}\n")).await).0.unwrap();
    assert!(refused.contains("servers.yaml:1: /servers/s: missing key `credential`"), "{refused}");
    let documents = |text: &str| Documents {
        kind: Some(crate::snapshot::FileKind::Servers),
        files: [("servers.yaml".to_owned(), text.as_bytes().to_vec())].into(),
    };
    assert!(judge::judge(&documents(pinned), true).is_allowed());
}

#[tokio::test]
async fn what_does_not_concern_us_is_allowed() {
    let rig = Rig::new();
    let bad = json!({ "data": { "p.yaml": "nonsense" } });
    let with = |change: &dyn Fn(&mut Value)| {
        let mut review = review("policies", &bad);
        change(&mut review["request"]);
        review
    };
    let reviews = [
        with(&|request| request["operation"] = "DELETE".into()),
        with(&|request| request["object"]["metadata"]["labels"] = json!({ "app": "x" })),
        with(&|request| drop(request["object"]["metadata"].as_object_mut().unwrap().remove("labels"))),
        with(&|request| request["kind"] = json!({ "group": "", "version": "v1", "kind": "Secret" })),
        with(&|request| request["kind"] = json!({ "group": "x.io", "version": "v1", "kind": "ConfigMap" })),
    ];
    for review in &reviews {
        assert_eq!(told(&rig.ask(review).await), (None, vec![]), "{review}");
    }
    assert_eq!(rig.count("ignored"), 5);
    // A dry run is judged like any other.
    assert!(told(&rig.ask(&with(&|request| request["dryRun"] = true.into())).await).0.is_some());
    let unlabelled = with(&|request| {
        request["operation"] = "UPDATE".into();
        request["oldObject"] = request["object"].clone();
        request["object"]["metadata"]["labels"] = json!({});
    });
    let (refused, warnings) = told(&rig.ask(&unlabelled).await);
    assert!(refused.is_none() && warnings[0].starts_with("without the label"), "{warnings:?}");
}

#[tokio::test]
async fn what_is_no_review_is_refused() {
    let rig = Rig::new();
    let good = review("policies", &json!({ "data": { "p.yaml": GOOD } }));
    let without = |pointer: &str, name: &str| {
        let mut review = good.clone();
        review.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(name);
        review.to_string()
    };
    let with = |pointer: &str, value: Value| {
        let mut review = good.clone();
        *review.pointer_mut(pointer).unwrap() = value;
        review.to_string()
    };
    let bodies = [
        String::new(),
        "[]".to_owned(),
        "{".to_owned(),
        good.to_string().replacen("\"uid\"", "\"uid\":\"u-2\",\"uid\"", 1),
        good.to_string().replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1"),
        without("", "request"),
        without("/request", "uid"),
        without("/request", "kind"),
        without("/request", "operation"),
        without("/request", "object"),
        with("/request/uid", "".into()),
        with("/request/object", Value::Null),
        with("/request/object/data", json!([])),
        with("/request/object/data/p.yaml", json!(1)),
        with("/request/object/data", json!({ "p.yaml": GOOD })).replace("\"data\":", "\"binaryData\":"),
        "[".repeat(1_000),
    ];
    for body in &bodies {
        assert_eq!(rig.post(body.clone()).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    assert_eq!(rig.count("malformed"), u64::try_from(bodies.len()).unwrap());
}

#[tokio::test]
async fn a_review_has_a_largest_size() {
    let rig = Rig::new();
    let review = review("policies", &json!({ "data": { "p.yaml": GOOD } })).to_string();
    let padded = |bytes: usize| format!("{review}{}", " ".repeat(bytes - review.len()));
    assert_eq!(rig.post(padded(REVIEW_BYTES_MAX)).await.0, StatusCode::OK);
    assert_eq!(rig.post(padded(REVIEW_BYTES_MAX + 1)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn a_review_that_does_not_arrive_is_given_up() {
    let (_sender, body) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(body));
    assert_eq!(Rig::new().post(body).await.0, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_judged_in_time_is_denied() {
    let rig = Rig::new();
    let metrics = WebhookMetrics::new(&mut Registry::default(), 1);
    let places = Arc::new(Semaphore::new(JUDGED_MAX));
    let shared = Shared { places, ..Shared::new(metrics, Arc::clone(&rig.registry), false) };
    let question = || Question {
        uid: "u-1".to_owned(),
        documents: Some(Documents { kind: Some(crate::snapshot::FileKind::Policy), files: [].into() }),
        warnings: Vec::new(),
    };
    let busy = Arc::clone(&shared.places).acquire_many_owned(u32::try_from(JUDGED_MAX).unwrap()).await.unwrap();
    let until = Instant::now() + REVIEW_WITHIN;
    let (outcome, verdict) = shared.decide(question(), until).await;
    assert_eq!((outcome, verdict.is_allowed(), Instant::now()), (ReviewOutcome::Undecided, false, until));
    drop(busy);
    let until = Instant::now() + REVIEW_WITHIN;
    assert_eq!(shared.decide(question(), until).await.0, ReviewOutcome::Allowed);
}

#[tokio::test]
async fn what_a_person_is_told_has_a_bound() {
    let rig = Rig::new();
    let many: String = (0..2_000).map(|n| format!("unknown_{n}: 1\n")).collect();
    let (refused, _) = rig.judge(&[("p.yaml", &many)]).await;
    let refused = refused.unwrap();
    assert!(refused.len() < 8_400 && refused.contains(" more: run `mcp-authz check`"), "{}", refused.len());
    let names: Vec<String> = (0..20).map(|n| format!("{n}-{}", "x".repeat(240))).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "")).collect();
    let (_, warnings) = rig.judge(&files).await;
    assert_eq!(warnings.len(), 16);
    assert!(warnings.iter().all(|warning| warning.len() <= 250 && warning.ends_with('…')), "{warnings:?}");
}

#[tokio::test(start_paused = true)]
async fn reviews_wait_while_others_take_the_memory() {
    let mut registry = Registry::default();
    let metrics = WebhookMetrics::new(&mut registry, 1);
    let shared = Shared::new(metrics, Arc::new(registry), false);
    let read = |bytes: usize| tokio::time::timeout(REVIEW_WITHIN, shared.read(Body::from(vec![b' '; bytes])));
    let mut held = Vec::new();
    for _ in 0..HELD_BYTES_MAX / REVIEW_BYTES_MAX {
        held.push(read(REVIEW_BYTES_MAX).await.unwrap().unwrap());
    }
    assert!(read(1).await.is_err(), "there is no room for one more byte");
    held.pop();
    assert_eq!(read(REVIEW_BYTES_MAX).await.unwrap().unwrap().0.len(), REVIEW_BYTES_MAX);
    let error = shared.read(Body::from(vec![b' '; REVIEW_BYTES_MAX + 1])).await.unwrap_err();
    assert!(error.is::<http_body_util::LengthLimitError>(), "{error}");
}
