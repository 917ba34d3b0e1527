//! The served description of the HTTP API is held to the answers, through the front door.
//!
//! Requests of every operation are made from the description: most of them as it allows, some with one thing wrong,
//! which the node is to refuse. Each answer is held against the description: its status, its content type and every
//! field of its body. What is drawn follows from the seed, so that a request that found a fault is made again.

mod schema;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use quorate_testnet::Client;
use reqwest::{Method, StatusCode};
use schema::{Choices, Schemas, types};
use serde_json::{Value, json};
use support::{Net, wait};

/// Another one draws other requests.
const SEED: u64 = 1;

/// Requests of each operation.
const CASES: usize = 48;

/// Requests under way at once.
const TOGETHER: usize = 8;

/// Longest time an answer may take: far above the longest deadline of the node's own.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Faults that are told, and their longest text.
const FAULTS_TOLD_MAX: usize = 40;

const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md");

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// Nothing; the node may refuse it all the same, for what it says.
    Nothing,
    NoToken,
    OtherToken,
    ForeignHost,
    ForeignOrigin,
    /// A part of the path that is no id.
    Path,
    /// A parameter that is outside of its range, or of another type.
    Parameter,
    /// A required parameter is not there.
    NoParameter,
    /// A parameter longer than anything should be, in an address that a client still sends: up to 65,534 bytes.
    LongParameter,
    /// Not JSON, or cut off.
    NoJson,
    /// JSON that is said to be something else.
    ContentType,
    /// A field of another type.
    Field,
    /// A required field is not there.
    NoField,
    /// Longer than any body may be.
    LongBody,
}

/// One operation of the description.
#[derive(Clone, Copy)]
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    said: &'a Value,
}

impl Operation<'_> {
    fn parameters(&self, place: &str) -> Vec<&Value> {
        let all = self.said.get("parameters").and_then(Value::as_array).into_iter().flatten();
        all.filter(|one| one["in"] == place).collect()
    }

    /// The content type and the schema of the body, if there is one.
    fn body(&self) -> Option<(&str, &Value)> {
        let content = self.said.pointer("/requestBody/content")?.as_object()?;
        content.iter().next().map(|(kind, body)| (kind.as_str(), &body["schema"]))
    }

    /// What can be wrong with a request of this operation.
    fn possible(&self, schemas: &Schemas) -> Vec<Wrong> {
        let mut all = vec![Wrong::NoToken, Wrong::OtherToken, Wrong::ForeignHost, Wrong::ForeignOrigin];
        if !self.parameters("path").is_empty() {
            all.push(Wrong::Path);
        }
        let query = self.parameters("query");
        if query.iter().any(|one| !refused(schemas, &one["schema"]).is_empty()) {
            all.push(Wrong::Parameter);
        }
        if query.iter().any(|one| one["required"] == true) {
            all.push(Wrong::NoParameter);
        }
        if !query.is_empty() {
            all.push(Wrong::LongParameter);
        }
        if let Some(("application/json", body)) = self.body() {
            all.extend([Wrong::NoJson, Wrong::ContentType, Wrong::LongBody]);
            // An array has none, and each of its elements is answered by itself.
            if !schemas.fields(body).is_empty() {
                all.push(Wrong::Field);
            }
            if !schemas.required(body).is_empty() {
                all.push(Wrong::NoField);
            }
        }
        all
    }

    /// A request with this wrong, and its text for a person.
    fn request(&self, asked: &Asked<'_>, wrong: Wrong, choices: &mut Choices) -> Request {
        let schemas = asked.schemas;
        let mut path = self.path.to_owned();
        if wrong != Wrong::Path
            && let Some((_, job)) = asked.fitting.iter().find(|(end, _)| path.ends_with(end))
            && !choices.once_in(2)
        {
            path = path.replace("{job}", job).replace("{token}", job);
        }
        for (at, parameter) in self.parameters("path").into_iter().enumerate() {
            let name = parameter["name"].as_str().unwrap();
            let value = match wrong == Wrong::Path && at == 0 {
                true => choices.pick(&["zz", "%00", "0.0", "a%2Fb", "%F0%9F", "%E2%82%AC", "-1"]).to_owned(),
                false => text(&schemas.make(&parameter["schema"], choices)),
            };
            path = path.replace(&format!("{{{name}}}"), &value);
        }
        let parameters = self.parameters("query");
        let wrong_one = |fits: &dyn Fn(&Value) -> bool, choices: &mut Choices| {
            let fitting: Vec<&str> =
                parameters.iter().filter(|one| fits(one)).map(|one| one["name"].as_str().unwrap()).collect();
            choices.pick(&fitting).to_owned()
        };
        let chosen = match wrong {
            Wrong::Parameter => wrong_one(&|one| !refused(schemas, &one["schema"]).is_empty(), choices),
            Wrong::NoParameter => wrong_one(&|one| one["required"] == true, choices),
            Wrong::LongParameter => wrong_one(&|_| true, choices),
            _ => String::new(),
        };
        let mut query: Vec<(&str, String)> = Vec::new();
        for parameter in &parameters {
            let (name, schema) = (parameter["name"].as_str().unwrap(), &parameter["schema"]);
            let value = match wrong {
                Wrong::Parameter if name == chosen => choices.pick(&refused(schemas, schema)),
                Wrong::NoParameter if name == chosen => continue,
                Wrong::LongParameter if name == chosen => "7".repeat(choices.pick(&[5_000, 20_000, 30_000])),
                // Without it an answer takes a minute.
                _ if name == "timeout_ms" => choices.pick(&["0", "5", "50"]).to_owned(),
                _ if parameter["required"] == true || choices.once_in(3) => {
                    text(&schemas.make_field(name, schema, choices))
                }
                _ => continue,
            };
            query.push((name, value));
        }
        let method = Method::from_bytes(self.method.to_uppercase().as_bytes()).unwrap();
        let mut request = asked.http.request(method, asked.client.url(&path)).query(&query);
        request = match wrong {
            Wrong::NoToken => request,
            Wrong::OtherToken => request.bearer_auth(choices.pick(&["", "x", &"ab".repeat(32)])),
            _ => request.bearer_auth(asked.token),
        };
        request = match wrong {
            Wrong::ForeignHost => request.header("host", "example.com"),
            Wrong::ForeignOrigin => request.header("origin", "https://example.com"),
            _ => request,
        };
        let ranges = ["bytes=0-9", "bytes=-1", "bytes=99999999-", "bytes=9-1", "x"];
        if choices.once_in(4) {
            request = request.header("accept", "application/x-ndjson");
        }
        if self.path.ends_with("/content") && choices.once_in(2) {
            request = request.header("range", choices.pick(&ranges));
        }
        let mut shown = String::new();
        request = match self.body() {
            None => request,
            Some(("application/octet-stream", _)) => request.body(vec![7; choices.below(100_000)]),
            Some((kind, schema)) => {
                let body = self.json_body(schemas, schema, wrong, choices);
                shown = String::from_utf8_lossy(&body).chars().take(400).collect();
                let kind = if wrong == Wrong::ContentType { "text/plain" } else { kind };
                request.header("content-type", kind).body(body)
            }
        };
        let request = request.build().expect("a request");
        let url: String = request.url().as_str().chars().take(400).collect();
        Request { what: format!("{wrong:?}: {} {url} {shown}", self.method.to_uppercase()), request }
    }

    fn json_body(&self, schemas: &Schemas, schema: &Value, wrong: Wrong, choices: &mut Choices) -> Vec<u8> {
        let mut made = schemas.make(schema, choices);
        match wrong {
            Wrong::NoJson => choices.pick(&["", "{", "{\"a\":", "\u{0}", "nul", "{}{}"]).as_bytes().to_vec(),
            Wrong::LongBody => {
                let mut body = made.to_string().into_bytes();
                body.extend(vec![b' '; 5 * 1024 * 1024]);
                body
            }
            Wrong::Field => {
                let fields = schemas.fields(schema).into_iter().map(|(name, inner)| (name, schemas.unfit(&inner)));
                let fields: Vec<_> = fields.filter(|(_, unfit)| !unfit.is_empty()).collect();
                let (name, unfit) = choices.pick(&fields);
                made[name] = choices.pick(&unfit);
                made.to_string().into_bytes()
            }
            Wrong::NoField => {
                let names = schemas.required(schema);
                made.as_object_mut().expect("an object").remove(&choices.pick(&names));
                made.to_string().into_bytes()
            }
            _ => made.to_string().into_bytes(),
        }
    }

    /// What of the answer is not as described, or as the page says of errors.
    async fn check(&self, asked: &Asked<'_>, wrong: Wrong, answer: reqwest::Response) -> Result<StatusCode, String> {
        let (schemas, status) = (asked.schemas, answer.status());
        let expected = match wrong {
            Wrong::Nothing | Wrong::LongParameter => None,
            Wrong::NoToken | Wrong::OtherToken => Some(StatusCode::UNAUTHORIZED),
            Wrong::ForeignHost | Wrong::ForeignOrigin => Some(StatusCode::FORBIDDEN),
            Wrong::LongBody => Some(StatusCode::PAYLOAD_TOO_LARGE),
            _ => Some(StatusCode::BAD_REQUEST),
        };
        if let Some(expected) = expected.filter(|expected| *expected != status) {
            return Err(format!("{status} and not {expected}"));
        }
        let responses = &self.said["responses"];
        let exact = responses.get(status.as_str());
        let response = exact.or(responses.get("default")).ok_or(format!("{status} is not described"))?;
        if exact.is_none() && status.is_success() {
            return Err(format!("{status} is described by no more than the default"));
        }
        let kind = answer.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
        let Some(content) = response.get("content").and_then(Value::as_object) else {
            let length = answer.bytes().await.map_err(|error| error.to_string())?.len();
            return match (kind, length) {
                (None, 0) => Ok(status),
                (kind, length) => Err(format!("{length} bytes of {kind:?} where no content is described")),
            };
        };
        let kind = kind.ok_or("no content type")?;
        let schema = &content.get(&kind).ok_or(format!("{kind} is not described"))?["schema"];
        if kind == "text/event-stream" {
            // It has no end.
            let first = answer.bytes_stream().next().await.ok_or("no event")?.map_err(|error| error.to_string())?;
            let first = String::from_utf8(first.to_vec()).map_err(|error| error.to_string())?;
            let data = first.trim().strip_prefix("data:").ok_or(format!("{first:?} is no event"))?;
            let event = serde_json::from_str(data).map_err(|error| error.to_string())?;
            return schemas.check(schema, &event, "event").map(|()| status);
        }
        let announced = answer.content_length();
        let body = answer.bytes().await.map_err(|error| error.to_string())?;
        if announced.is_some_and(|length| length != body.len() as u64) {
            return Err(format!("{} bytes, and {announced:?} were announced", body.len()));
        }
        let lines: Vec<&[u8]> = match kind.as_str() {
            "application/json" => vec![&body],
            "application/x-ndjson" => body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect(),
            _ => return Ok(status),
        };
        for line in lines {
            let value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            schemas.check(schema, &value, "answer")?;
            if !status.is_success() {
                let error = value["error"].as_str().unwrap_or_default();
                if asked.statuses.get(error) != Some(&status.as_u16()) {
                    return Err(format!("{status} with the error {error:?}, which {PAGE} says otherwise"));
                }
                if status == StatusCode::INTERNAL_SERVER_ERROR {
                    return Err(format!("a fault of the node: {value}"));
                }
                if value["message"].as_str().is_none_or(|message| message.trim().is_empty() || message.len() > 4096) {
                    return Err(format!("the message is for nobody: {value}"));
                }
            }
        }
        Ok(status)
    }
}

struct Request {
    what: String,
    request: reqwest::Request,
}

/// The node that is asked, and what is known of it.
struct Asked<'a> {
    client: &'a Client,
    http: reqwest::Client,
    token: &'a str,
    schemas: &'a Schemas,
    /// The jobs that operations are for, by the end of their path: others refuse them.
    fitting: &'a [(&'static str, String)],
    /// The status of each error.
    statuses: BTreeMap<String, u16>,
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Texts of a parameter that its schema does not allow.
fn refused(schemas: &Schemas, schema: &Value) -> Vec<String> {
    let texts: &[&str] = match types(schemas.whole(schema)).first().map(String::as_str) {
        Some("integer") => &["", "x", "-1", "1.5", "99999999999999999999", "null", "1e3", " 1"],
        Some("boolean") => &["", "yes", "2", "null"],
        Some("string") if schemas.whole(schema).get("pattern").is_some() => &["", "zz", "é", "null"],
        Some("string") if schemas.whole(schema).get("enum").is_some() => &["", "magic", "null"],
        _ => &[],
    };
    let mut all: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    all.extend(schema.get("minimum").and_then(Value::as_i64).map(|least| (least - 1).to_string()));
    all.extend(schema.get("maximum").and_then(Value::as_i64).map(|most| (most + 1).to_string()));
    all
}

/// The status of each error, from the page's table.
fn statuses() -> BTreeMap<String, u16> {
    let page = std::fs::read_to_string(PAGE).expect("the page");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let error = cells.next()?.trim().trim_end_matches('`').to_owned();
        Some((error, cells.next()?.trim().parse().ok()?))
    });
    rows.collect()
}

const WAT: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\")))";
/// Says something, and fails.
const TRAP: &str = "(module
(import \"wasi_snapshot_preview1\" \"fd_write\" (func $write (param i32 i32 i32 i32) (result i32)))
(memory (export \"memory\") 1) (data (i32.const 64) \"oh\") (func (export \"_start\")
(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 2))
(drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8))) unreachable))";
const SPIN: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\") (loop $l (br $l))))";

/// Gives the network jobs of every kind, in many states, and objects. The schemas know their ids, and some that are
/// nobody's; beside them the jobs that some operations are for, by the end of the path.
fn furnish(net: &Net, description: &Value) -> (Schemas, Vec<(&'static str, String)>) {
    let mut schemas = Schemas::new(description);
    let hello = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hello.toml")).unwrap();
    let wasm = |module: &str, more: &str| {
        format!("kind = \"wasm\"\nresources.memory = \"4 MiB\"\nmodule = {{ inline = '''{module}''' }}\n{more}\n")
    };
    let specs = [
        hello.clone(),
        wasm(WAT, "fuel = 1_000_000\nverify.copies = 3"),
        wasm(TRAP, "retry.attempts = 1"),
        wasm(TRAP, "retry.attempts = 1\non_failure = \"park\""),
        wasm(WAT, "map.count = 5\n[reduce]\nfan_in = 2"),
        wasm(SPIN, "timeouts.task = \"1h\""),
        wasm(WAT, "[trigger]\nevery = \"1s\""),
        wasm(WAT, "[trigger]\nevent.name = \"bell\""),
    ];
    let post = |path: &str, body: &Value| -> Value {
        net.runtime.block_on(net.client(1).post(path, body)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let mut jobs = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        let submitted = post("/v1/jobs", &json!({ "spec": spec, "key": format!("made {at}") }));
        jobs.push(submitted["job"].as_str().unwrap().to_owned());
    }
    let file = net.file("file", 300_000, 1);
    let (put, other) = (net.put(1, &file), net.put(2, &net.file("other", 10, 2)));
    jobs.push(put["job"].as_str().unwrap().to_owned());
    for (at, state) in [
        (0, "succeeded"),
        (1, "succeeded"),
        (2, "failed"),
        (3, "awaiting-resolution"),
        (4, "succeeded"),
        (5, "running"),
    ] {
        wait(state, || Some(net.get(1, &format!("/v1/jobs/{}", jobs[at]))).filter(|job| job["state"] == state));
    }
    wait("fires", || {
        let fires = net.get(1, &format!("/v1/jobs/{}/fires", jobs[6]));
        fires["items"].as_array().map(Vec::len).filter(|rows| *rows >= 2)
    });
    let quorum = jobs[0].split('.').next().unwrap().to_owned();
    jobs.push(format!("{quorum}.{}", "ab".repeat(16)));
    let objects = [
        put["object"].as_str().unwrap().to_owned(),
        other["object"].as_str().unwrap().to_owned(),
        format!("{quorum}.{}", "ab".repeat(32)),
    ];
    let peers: Vec<String> = (1..=3).map(|node| net.testnet.peer_id(node).unwrap().to_string()).collect();
    let all = |ids: &[String]| ids.iter().map(|id| json!(id)).collect::<Vec<_>>();
    // A quorum that nobody knows is looked for, which takes its time.
    let mut of_jobs = [&jobs, &jobs, &jobs, &jobs].map(|jobs| all(jobs)).concat();
    of_jobs.push(json!(format!("{}.{}", "cd".repeat(16), "ab".repeat(16))));
    schemas.of_schema.insert("JobId", of_jobs);
    schemas.of_schema.insert("ObjectId", all(&objects));
    schemas.of_schema.insert("PeerId", all(&peers));
    let mut quorums = vec![json!(quorum); 30];
    quorums.push(json!("cd".repeat(16)));
    schemas.of_schema.insert("QuorumId", quorums);
    schemas.of_schema.insert("Nonce", vec![json!("ab".repeat(16)), json!("cd".repeat(16))]);
    let of_field = &mut schemas.of_field;
    let mut specs: Vec<Value> = specs.iter().map(|spec| json!(spec)).collect();
    specs.extend([json!("kind = \"wasm\"\nmodule = \"m.wat\""), json!("kind = \"magic\""), json!("")]);
    of_field.insert("spec", specs);
    of_field.insert(
        "files",
        vec![
            json!({}),
            json!({ "m.wat": { "text": WAT } }),
            json!({ "m.wat": { "base64": "AGFzbQ==" } }),
            json!({ "m.wat": { "object": objects[0] } }),
            json!({ "m.wat": { "unsent": { "bytes": 5 } } }),
        ],
    );
    of_field.insert("set", vec![json!({}), json!({ "who": "moon" }), json!({ "whom": "moon" })]);
    of_field.insert("state", vec![json!("live"), json!("ended"), json!("running,paused"), json!("happy")]);
    of_field.insert("owner", vec![json!("me"), json!(peers[0]), json!(peers[1])]);
    of_field.insert("profile", vec![json!("2+1"), json!("1+2"), json!("9+9"), json!("x")]);
    of_field.insert("task", vec![json!(0), json!(1), json!(4)]);
    of_field.insert("step", vec![json!(0), json!(1), json!(9)]);
    of_field.insert("attempt", vec![json!(1), json!(2)]);
    of_field.insert("bytes", vec![json!(10), json!(0), json!(200_000)]);
    of_field.insert("name", vec![json!("bell"), json!("file"), json!("")]);
    // A quorum for each would fill the nodes.
    of_field.insert("dedicated", vec![false.into(), false.into(), false.into(), false.into(), true.into()]);
    // What measures and breaks is asked for as little as it takes.
    of_field.insert("count", vec![json!(1), json!(2)]);
    of_field.insert("outstanding", vec![json!(1)]);
    of_field.insert("fires", vec![json!(1)]);
    of_field.insert("period_ms", vec![json!(100)]);
    of_field.insert("voters", vec![json!(3)]);
    // Most of the jobs above end at once; those that do not are waited for as little as it takes.
    of_field.insert("wait", vec![json!("0s"), json!("20ms"), json!("1s")]);
    schemas.of_schema.insert(
        "UpdateRequest",
        vec![
            json!({ "priority": 60 }),
            json!({ "parallelism": 2, "memory_bytes": 8 << 20, "labels": {} }),
            json!({ "slots": 1 << 20, "disk_bytes": null }),
            json!({}),
        ],
    );
    schemas.of_schema.insert("NodeFaults", vec![json!({}), json!({ "clock_offset_ms": 0, "links": [] })]);
    let fitting = [
        ("/receipts", 1),
        ("/logs", 2),
        ("/retry", 3),
        ("/resolve", 3),
        ("/outputs", 4),
        ("/update", 5),
        ("/pause", 5),
        ("/resume", 5),
        ("/fires", 6),
        ("/next", 6),
        ("/fire", 7),
        ("/suspend", 7),
        ("/unsuspend", 7),
    ];
    let minted = post("/v1/tokens", &json!({ "owner": "nightly", "may": ["job.read"], "for_ms": 3_600_000 }));
    let mut fitting = fitting.map(|(end, at)| (end, jobs[at].clone())).to_vec();
    fitting.push(("/{token}", minted["token"].as_str().unwrap().to_owned()));
    (schemas, fitting)
}

/// What reads goes first, then what changes, and at last what ends.
fn order(operation: &Operation<'_>) -> u8 {
    match (operation.method, operation.path) {
        ("get", _) => 0,
        ("delete", _) => 4,
        (_, path) if path.ends_with("/cancel") => 3,
        // After every retry, and before what it is for is cancelled.
        (_, path) if path.ends_with("/resolve") => 2,
        _ => 1,
    }
}

/// Goal: no request is answered otherwise than the description says, what it does not allow is refused, and nothing is
/// a fault of the node. Method: requests of every operation at a node of three that have jobs in many states and
/// objects; some of each have to succeed, so that what is checked is not errors alone.
#[test]
fn every_answer_is_as_described() {
    let net = Net::with(3, |options| options.testing = true);
    let client = net.client(1);
    let described = net.get(1, "/openapi.json");
    let checked_in: Value = serde_json::from_slice(&std::fs::read(CHECKED_IN).unwrap()).unwrap();
    assert!(described == checked_in, "the node serves another description than {CHECKED_IN}");
    let (schemas, fitting) = furnish(&net, &described);
    let token = std::fs::read_to_string(net.testnet.node_dir(1).join("api.token")).unwrap();
    let http = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
    let asked = Asked {
        client: &client,
        http,
        token: token.trim(),
        schemas: &schemas,
        fitting: &fitting,
        statuses: statuses(),
    };
    assert!(asked.statuses.len() > 10, "{:?}", asked.statuses);

    let paths = described["paths"].as_object().unwrap();
    let mut operations: Vec<Operation<'_>> = paths
        .iter()
        .flat_map(|(path, methods)| methods.as_object().unwrap().iter().map(move |(method, said)| (method, path, said)))
        .map(|(method, path, said)| Operation { method, path, said })
        .collect();
    operations.sort_by_key(order);
    assert!(operations.len() > 40, "{} operations", operations.len());
    let (mut faults, mut requests) = (Vec::new(), 0);
    for operation in &operations {
        let name = format!("{} {}", operation.method, operation.path);
        let began = std::time::Instant::now();
        let possible = operation.possible(&schemas);
        // What measures works for as long as it is told to.
        let cases = if operation.said["tags"][0] == "bench" { possible.len() + 3 } else { CASES };
        let (asked, possible) = (&asked, &possible);
        let answers = (0..cases).map(|case| async move {
            let mut choices = match case {
                0 => Choices::plain(),
                _ => Choices::of_seed(&format!("{SEED} {} {} {case}", operation.method, operation.path)),
            };
            let wrong = match case {
                0 => Wrong::Nothing,
                // Each at least once, and then some.
                case if case <= possible.len() => possible[case - 1],
                _ if choices.once_in(3) => choices.pick(possible),
                _ => Wrong::Nothing,
            };
            let Request { what, request } = operation.request(asked, wrong, &mut choices);
            let outcome = async {
                let answer = asked.http.execute(request).await.map_err(|error| format!("{error:?}"))?;
                operation.check(asked, wrong, answer).await
            };
            let outcome = tokio::time::timeout(ANSWER_MAX, outcome).await;
            (what, outcome.unwrap_or_else(|_| Err(format!("nothing within {ANSWER_MAX:?}"))))
        });
        let answers = futures::stream::iter(answers).buffered(TOGETHER).collect::<Vec<_>>();
        let answers = net.runtime.block_on(answers);
        requests += answers.len();
        let statuses: BTreeSet<u16> =
            answers.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.as_u16())).collect();
        println!("{name}: {} requests in {:?}: {statuses:?}", answers.len(), began.elapsed());
        if !statuses.iter().any(|status| (200..300).contains(status)) {
            faults.push(format!("{name}: none of {} requests succeeded: {:?}", answers.len(), answers.first()));
        }
        faults.extend(answers.into_iter().filter_map(|(what, answer)| Some(format!("{what}\n    {}", answer.err()?))));
    }
    println!("{requests} requests");
    let told: Vec<_> = faults.iter().take(FAULTS_TOLD_MAX).cloned().collect();
    assert!(faults.is_empty(), "{} of {requests} requests:\n{}", faults.len(), told.join("\n"));
}
