//! The served description is the one that is checked in, names fields by one rule, and describes what is answered.

use proptest::prelude::*;
use quorate_protocols::job::StoreSpec;
use serde_json::{Value, json};

use super::schema::{Choices, Schemas};
use super::*;

const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

/// Requests of each operation.
const CASES: u32 = 48;

fn described() -> Value {
    serde_json::to_value(description(true)).unwrap()
}

/// Goal: a change of the API is seen in a review. Method: compare; `UPDATE_FIXTURES=1` rewrites the file.
#[test]
fn the_description_is_the_one_that_is_checked_in() {
    let served = format!("{:#}\n", described());
    if std::env::var_os("UPDATE_FIXTURES").is_some_and(|value| value == "1") {
        return std::fs::write(CHECKED_IN, served).unwrap();
    }
    let kept = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
    assert!(
        kept == served,
        "docs/openapi.json is not what the node serves; if the change is meant: UPDATE_FIXTURES=1 and this test again"
    );
}

/// Whether the schema holds an instant, by itself, in an array or where it may be null.
fn holds_instant(schemas: &Schemas, schema: &Value) -> bool {
    let inner =
        schema.get("items").into_iter().chain(schema.get("oneOf").and_then(Value::as_array).into_iter().flatten());
    schemas.referred(schema).is_some_and(|(name, _)| name == "Millis")
        || inner.into_iter().any(|inner| holds_instant(schemas, inner))
}

/// Goal: whoever has read one answer knows what a name in another means.
#[test]
fn names_say_what_a_value_is() {
    let schemas = Schemas::new(&described());
    let mut seen = (0, 0);
    for (owner, schema) in &schemas.components {
        for (name, inner) in schemas.properties(schema) {
            let instant = holds_instant(&schemas, &inner);
            assert_eq!(instant, name.ends_with("_at"), "{owner}.{name}: instants, and nothing else, end in _at");
            assert!(!(name == "size" || name.ends_with("_size")), "{owner}.{name}: sizes are bytes");
            let id = ["peer_id", "job_id", "quorum_id", "object_id"].contains(&name.as_str());
            assert!(!id, "{owner}.{name}: an id is named by what it identifies");
            seen = (seen.0 + 1, seen.1 + usize::from(instant));
        }
    }
    assert!(seen.0 > 200 && seen.1 > 15, "{seen:?} fields and instants were found: the walk misses some");
}

/// One operation of the description.
struct Operation<'a> {
    method: Method,
    path: &'a str,
    said: &'a Value,
}

impl Operation<'_> {
    fn parameters(&self, place: &str) -> impl Iterator<Item = &Value> {
        let all = self.said.get("parameters").and_then(Value::as_array).into_iter().flatten();
        all.filter(move |one| one["in"] == place)
    }

    /// A request that the description allows, or one with something wrong.
    fn request(
        &self,
        edge: &Edge,
        http: &reqwest::Client,
        schemas: &Schemas,
        choices: &mut Choices<'_>,
    ) -> reqwest::RequestBuilder {
        let mut path = self.path.to_owned();
        for parameter in self.parameters("path") {
            let name = parameter["name"].as_str().unwrap();
            let value = match choices.once_in(6) {
                true => choices.of(&["zz", "%00", "0.0", "a%2Fb", "%F0%9F"]).to_owned(),
                false => text(&schemas.make(&parameter["schema"], choices)),
            };
            path = path.replace(&format!("{{{name}}}"), &value);
        }
        let mut query = Vec::new();
        for parameter in self.parameters("query") {
            let name = parameter["name"].as_str().unwrap();
            let value = match name {
                // The test waits as long.
                "timeout_ms" => choices.of(&["0", "5", "-1"]).to_owned(),
                _ if choices.once_in(8) => choices.of(&["", "-1", "99999999999999999999", "é", "null"]).to_owned(),
                _ if parameter["required"] == true || choices.once_in(2) => {
                    text(&schemas.make(&parameter["schema"], choices))
                }
                _ => continue,
            };
            query.push((name, value));
        }
        let mut request = http.request(self.method.clone(), edge.client.url(&path)).query(&query);
        if !choices.once_in(10) {
            let token = std::fs::read_to_string(edge.dir.path().join("api.token")).unwrap();
            request = request.bearer_auth(token.trim());
        }
        if choices.once_in(4) {
            request = request.header("accept", "application/x-ndjson");
        }
        match self.said.pointer("/requestBody/content").and_then(Value::as_object).and_then(|all| all.iter().next()) {
            None => request,
            Some((kind, _)) if kind == "application/octet-stream" => request.body(vec![7; choices.below(100)]),
            Some((kind, body)) => {
                let mut made = schemas.make(&body["schema"], choices);
                match choices.below(8) {
                    5 => request.header("content-type", kind).body("{"),
                    6 => request.body(made.to_string()),
                    7 => {
                        let junk =
                            choices.of(&[json!(null), json!(-1), json!("\u{0}"), json!([[]]), json!({ "a": {} })]);
                        let fields: Vec<String> =
                            made.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
                        match fields.is_empty() {
                            true => made = junk,
                            false => made[choices.of(&fields)] = junk,
                        }
                        request.json(&made)
                    }
                    _ => request.json(&made),
                }
            }
        }
    }

    /// What of the answer is not as described.
    async fn check(&self, schemas: &Schemas, answer: reqwest::Response) -> Result<(), String> {
        let status = answer.status();
        let responses = &self.said["responses"];
        let exact = responses.get(status.as_str());
        let response = exact.or(responses.get("default")).ok_or(format!("{status} is not described"))?;
        if exact.is_none() && status.is_success() {
            return Err(format!("{status} is described by no more than the default"));
        }
        let kind = answer.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
        let Some(content) = response.get("content").and_then(Value::as_object) else {
            return if kind.is_none() { Ok(()) } else { Err(format!("{kind:?} where no content is described")) };
        };
        let kind = kind.ok_or("no content type")?;
        let schema = &content.get(&kind).ok_or(format!("{kind} is not described"))?["schema"];
        if kind == "text/event-stream" {
            // It has no end.
            return Ok(());
        }
        let body = answer.bytes().await.map_err(|error| error.to_string());
        let lines: Vec<&[u8]> = match (kind.as_str(), &body) {
            ("application/json", Ok(body)) => vec![body],
            ("application/x-ndjson", Ok(body)) => body.trim_ascii_end().split(|byte| *byte == b'\n').collect(),
            _ => return Ok(()),
        };
        for line in lines {
            let value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            schemas.check(schema, &value, "answer")?;
            if !status.is_success() {
                let error: ErrorBody = serde_json::from_value(value).map_err(|error| error.to_string())?;
                let planned =
                    matches!(error.error, ErrorCode::TooFewPeers | ErrorCode::Unavailable | ErrorCode::Unknown);
                if super::super::error::status(error.error) != status || (status.is_server_error() && !planned) {
                    return Err(format!("{status}: {error}"));
                }
            }
        }
        Ok(())
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Goal: no request is answered otherwise than the description says, and none with a fault of the node. Method: make
/// requests from the description, most of them right and some wrong in one place, against a node that has a quorum's
/// state and jobs in it; look at the status, the content type and every field of every answer.
#[test]
fn every_answer_is_as_described() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let described = described();
    let mut schemas = Schemas::new(&described);
    let edge = runtime.block_on(Edge::start());
    let spec = "kind = \"wasm\"\nmodule = { inline = '''(module (memory (export \"memory\") 1) (func (export \"_start\")))''' }\n";
    let mut jobs = vec![JobId { quorum: QuorumId([8; 16]), local: [1; 16] }, JOB];
    for trigger in ["", "[trigger]\nevery = \"1s\"\n", "verify.copies = 3\nverify.agree = 2\n"] {
        let body = json!({ "spec": format!("{spec}{trigger}"), "key": format!("as {trigger:?}") });
        let submitted: SubmitInfo = runtime.block_on(edge.client.post("/v1/jobs", &body)).unwrap();
        jobs.push(submitted.job);
    }
    let store = StoreSpec { name: Some("a.txt".to_owned()), size: Some(10), profile: Profile::DEFAULT };
    let reply = edge.fake.commit(Command::Job(JOB, JobCommand::Submit { spec: JobSpec::Store(store) }));
    assert!(reply.is_ok(), "{reply:?}");
    let texts = |ids: &[&dyn std::fmt::Display]| ids.iter().map(ToString::to_string).collect();
    schemas.known.insert("JobId", jobs.iter().map(ToString::to_string).collect());
    schemas.known.insert("ObjectId", texts(&[&OBJECT, &EMPTY, &UNREADABLE]));
    schemas.known.insert("QuorumId", texts(&[&QUORUM, &QuorumId([8; 16])]));
    schemas.known.insert("PeerId", texts(&[&PeerId([9; 32]), &PeerId([3; 32])]));
    let http = reqwest::Client::builder().tls_certs_only([]).build().unwrap();

    let paths = described["paths"].as_object().unwrap();
    let mut tried = 0;
    for (path, methods) in paths {
        for (method, said) in methods.as_object().unwrap() {
            if said["tags"][0] == "bench" {
                // They work for as long as they are told to.
                continue;
            }
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let operation = Operation { method, path, said };
            let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
            let mut runner = proptest::test_runner::TestRunner::new(config);
            let outcome = runner.run(&prop::collection::vec(any::<u32>(), 40), |numbers| {
                let request = operation.request(&edge, &http, &schemas, &mut Choices(numbers.iter()));
                let request = request.build().map_err(|error| TestCaseError::reject(error.to_string()))?;
                let what = format!(
                    "{} {} {:?}",
                    request.method(),
                    request.url(),
                    request.body().and_then(|body| body.as_bytes()).map(String::from_utf8_lossy)
                );
                let outcome = runtime.block_on(async {
                    let answer = tokio::time::timeout(Duration::from_secs(20), http.execute(request)).await;
                    let answer = answer.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
                    operation.check(&schemas, answer).await
                });
                outcome.map_err(|fault| TestCaseError::fail(format!("{what}: {fault}")))
            });
            outcome.unwrap_or_else(|error| panic!("{error}"));
            tried += 1;
        }
    }
    assert!(tried > 35, "{tried} operations were tried");
}
