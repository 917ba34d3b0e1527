//! Conditions, through the front door: a small server says a number, and a job runs when it is high.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use support::{Net, wait};

const DOORBELL: &str = include_str!("../examples/doorbell.toml");

/// Answers `{"level": N}` to whatever it is asked, and `/away` with a redirect to `away`; ends with the test's process.
struct Server {
    address: SocketAddr,
    level: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
}

impl Server {
    fn start(away: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (level, asked) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
        let (shown, counted, away) = (level.clone(), asked.clone(), away.to_owned());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).unwrap_or(0);
                counted.fetch_add(1, Ordering::Relaxed);
                let body = format!("{{\"level\": {}}}", shown.load(Ordering::Relaxed));
                let head = match request[..read].starts_with(b"GET /away") {
                    true => format!("HTTP/1.1 302 Found\r\nlocation: {away}\r\n"),
                    false => "HTTP/1.1 200 OK\r\n".to_owned(),
                };
                let length = body.len();
                let _ = write!(stream, "{head}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
            }
        });
        Self { address, level, asked }
    }
}

/// A specification whose condition looks at `source` for a level.
fn spec(net: &Net, source: &str, more: &str) -> String {
    spec_of(net, source, "value.level > 5", more)
}

fn spec_of(net: &Net, source: &str, when: &str, more: &str) -> String {
    let (head, rest) = DOORBELL.split_once("[trigger]\n").expect("the example has a trigger");
    let (_, module) = rest.split_once("[module]\n").expect("and a module");
    let trigger = format!("condition = {{ source = {{ {source} }}, when = \"{when}\", every = \"1s\"{more} }}");
    let path = net.dir.path().join("condition.toml");
    std::fs::write(&path, format!("{head}[trigger]\n{trigger}\n[module]\n{module}")).expect("a file can be written");
    path.to_str().unwrap().to_owned()
}

fn fires(net: &Net, job: &str) -> Vec<Value> {
    let rows = net.at(1, &["job", "fires", job, "--json"]);
    serde_json::from_str(&rows.stdout).unwrap_or_default()
}

fn why(net: &Net, job: &str, words: &str) {
    wait(words, || net.at(1, &["job", "why", job]).stdout.contains(words).then_some(()));
}

/// Goal: a condition fires once each time that it comes to hold, by the word of one member or of several; what the
/// operator did not list is asked by nobody.
#[test]
fn a_job_runs_when_a_number_that_a_server_tells_is_high() {
    let elsewhere = Server::start("http://127.0.0.1:1/");
    let server = Server::start(&format!("http://{}/", elsewhere.address));
    let hosts = toml::Value::Array(vec![server.address.to_string().into()]);
    let net = Net::with(4, |options| options.settings.push(("conditions.hosts".to_owned(), hosts)));
    let submit = |path: &str| net.at(1, &["job", "submit", path, "--detach"]).ok().stdout.trim().to_owned();
    let http = format!("http = \"http://{}/\"", server.address);
    let alone = submit(&spec(&net, &http, ""));
    let together = submit(&spec(&net, &http, ", verify = { copies = 3, agree = 2 }"));
    let away = submit(&spec(&net, &format!("http = \"http://{}/away\"", server.address), ""));
    for job in [&alone, &together] {
        why(&net, job, "does not hold: {\"level\": 1}");
    }
    why(&net, &away, "not among the hosts");
    for round in 1..=2 {
        server.level.store(9, Ordering::Relaxed);
        for job in [&alone, &together] {
            let rows = wait("the fire", || Some(fires(&net, job)).filter(|rows| rows.len() == round));
            let run = rows[round - 1]["run"].as_str().unwrap();
            net.at(1, &["job", "wait", run]).ok();
            let input: Value = serde_json::from_str(&net.at(2, &["job", "output", run]).ok().stdout).unwrap();
            assert_eq!(input["value"]["level"], 9, "{input}");
            why(&net, job, "not over yet");
        }
        server.level.store(2, Ordering::Relaxed);
        for job in [&alone, &together] {
            why(&net, job, "does not hold: {\"level\": 2}");
            assert_eq!(fires(&net, job).len(), round);
        }
    }
    let foreign = spec(&net, &format!("http = \"http://{}/\"", elsewhere.address), "");
    let words = ["trigger.condition.source.http", "not among the hosts", "[conditions]"];
    net.at(1, &["job", "submit", &foreign, "--detach"]).fails(1, &words);
    assert_eq!(elsewhere.asked.load(Ordering::Relaxed), 0, "not by a redirect either");
}

/// Goal: what the network itself has is looked at as well: objects, the outcomes of jobs, metrics.
#[test]
fn objects_jobs_and_metrics_are_looked_at() {
    let net = Net::up(4);
    let submit = |path: &str| net.at(1, &["job", "submit", path, "--detach"]).ok().stdout.trim().to_owned();
    let input_of = |job: &str| -> Value {
        let rows = wait("the fire", || Some(fires(&net, job)).filter(|rows| rows.len() == 1));
        let run = rows[0]["run"].as_str().unwrap();
        net.at(1, &["job", "wait", run]).ok();
        serde_json::from_str(&net.at(2, &["job", "output", run]).ok().stdout).unwrap()
    };
    let file = net.dir.path().join("level.json");
    std::fs::write(&file, "{\"level\": 9}").unwrap();
    let object = net.put(2, &file)["object"].as_str().unwrap().to_owned();
    let by_object = submit(&spec(&net, &format!("object = \"{object}\""), ""));
    assert_eq!(input_of(&by_object)["value"]["level"], 9);

    // A job that runs when it is told to: before its first run there is no outcome.
    let watched = submit(&spec_of(&net, "metric = \"none\"", "value > 0", ""));
    why(&net, &watched, "has no metric");
    let outcome = "value != null && value.state == 'succeeded'";
    let by_job = submit(&spec_of(&net, &format!("job = \"{watched}\""), outcome, ""));
    why(&net, &by_job, "does not hold: null");
    net.at(3, &["job", "fire", &watched]).ok();
    assert_eq!(input_of(&by_job)["value"]["state"], "succeeded");

    let page = net.runtime.block_on(async {
        let request = net.client(1).request(reqwest::Method::GET, "/metrics");
        request.send().await.expect("the node answers").text().await.expect("with text")
    });
    let name = page.lines().find_map(|line| line.split(' ').next().filter(|name| name.contains("triggers_due")));
    let by_metric = submit(&spec_of(&net, &format!("metric = \"{}\"", name.expect("there is one")), "value >= 0", ""));
    assert!(input_of(&by_metric)["value"].is_number());
}
