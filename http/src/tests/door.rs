//! The door under clients that say nothing, half a thing, or too much, over real sockets.

use std::future::Future;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// How long a test waits for something that should happen in a moment, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a caller with a token waits at most, whatever others do.
const ANSWER_MAX: Duration = Duration::from_secs(1);

const FLOOD: usize = 2_000;

/// The end of a head, and the beginning of the body that it promises.
const PART_OF_A_BODY: &str = "content-type: application/json\r\ncontent-length: 1000\r\n\r\n{";

/// Long enough for a client of a busy machine that does what it should.
const SOON: Duration = Duration::from_secs(1);

/// Deadlines that pass soon, and no other limit that does.
fn short() -> DoorLimits {
    DoorLimits { head: SOON, idle: SOON, stall: SOON, ..DoorLimits::default() }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

impl Edge {
    fn token(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("api.token")).unwrap().trim().to_owned()
    }
    /// A connection that has sent these bytes.
    async fn sent(&self, bytes: &str) -> TcpStream {
        let address = self.client.base().strip_prefix("http://").unwrap().to_owned();
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may have been closed already.
        let _ = stream.write_all(bytes.as_bytes()).await;
        stream
    }
    fn head(&self, request: &str, has_token: bool) -> String {
        let token = if has_token { self.token() } else { "wrong".to_owned() };
        format!("{request} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n")
    }
    /// The value of one of the door's metrics.
    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }
    fn connections(&self) -> u64 {
        ["lobby", "own", "kept"]
            .map(|place| self.metric(&format!("quorate_api_connections{{place=\"{place}\"}}")))
            .iter()
            .sum()
    }
    /// Asks over a connection of its own.
    async fn asked(&self) -> Duration {
        let began = Instant::now();
        let client = Client::new(self.client.base(), Some(self.token()));
        let info: NodeInfo = within("an answer", client.get("/v1/node")).await.unwrap();
        assert_eq!(info.pid, 1);
        began.elapsed()
    }
}

/// What the connection has until its end.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end too.
    let _ = within("the end of the connection", stream.read_to_end(&mut text)).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// The bytes until the head of an answer is whole.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = within("an answer", stream.read_buf(&mut text)).await.unwrap();
        assert!(read > 0, "the connection ended after {:?}", String::from_utf8_lossy(&text));
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Both ends of each connection of a flood are in this process.
fn allow_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a process may raise it so far");
    let needed = 2 * FLOOD as u64 + 1_000;
    assert!(limit.maximum.is_none_or(|most| most >= needed), "the test needs {needed} descriptors (`ulimit -Hn`)");
}

/// Goal: whatever connections without a token, and idle ones with it, do, a caller with a token is answered within a
/// second over a connection of its own, and what they took comes back. Method: floods of each kind, and a caller who
/// asks all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_connections_delay_nobody_who_has_a_token() {
    allow_descriptors();
    let edge = std::sync::Arc::new(Edge::start().await);
    edge.asked().await;
    let kinds = [
        ("idle", String::new()),
        ("half a head", "GET /v1/node HT".to_owned()),
        ("part of a body, no token", edge.head("POST /v1/events", false) + PART_OF_A_BODY),
        ("no body, no token", edge.head("POST /v1/objects", false) + "content-length: 999000000000\r\n\r\n"),
        ("events, no token", edge.head("GET /v1/events", false) + "\r\n"),
        ("idle after an answer", edge.head("GET /v1/node", true) + "\r\n"),
        ("part of a body", edge.head("POST /v1/events", true) + PART_OF_A_BODY),
        ("no body", edge.head("POST /v1/objects", true) + "content-length: 999000000000\r\n\r\n"),
        ("events", edge.head("GET /v1/events", true) + "\r\n"),
    ];
    for (kind, bytes) in kinds {
        let (flooding, bytes) = (edge.clone(), bytes);
        let flood = tokio::spawn(async move {
            let mut open = Vec::new();
            for _ in 0..FLOOD {
                open.push(flooding.sent(&bytes).await);
            }
            open
        });
        let (mut asked, mut slowest) = (0, Duration::ZERO);
        while !flood.is_finished() {
            slowest = slowest.max(edge.asked().await);
            asked += 1;
        }
        let open = flood.await.unwrap();
        for _ in 0..3 {
            slowest = slowest.max(edge.asked().await);
        }
        assert_eq!(edge.client.text("/metrics").await.unwrap(), "# EOF\n", "a scrape during {kind}");
        assert!(slowest < ANSWER_MAX, "{kind}: an answer took {slowest:?}");
        let most = limits::CONNECTIONS_MAX + limits::LOBBY_MAX + 2 * limits::KEPT_PLACES;
        println!("{kind}: {asked} asked meanwhile, slowest {slowest:?}, {} connections", edge.connections());
        assert!(edge.connections() <= most as u64);
        drop(open);
        within("connections to be given up", async {
            while edge.connections() > 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

/// Goal: a head is whole in time, or its client is told why it was cut off.
#[tokio::test]
async fn half_a_head_is_refused_and_silence_is_closed() {
    let edge = Edge::limited(Fake::new(false), short()).await;
    let mut half = edge.sent("GET /v1/node HTTP/1.1\r\nhost: local").await;
    let told = rest(&mut half).await;
    assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("too-slow") && told.contains("one piece"), "{told}");
    assert_eq!(rest(&mut edge.sent("").await).await, "");
    // Between two requests too.
    let mut idle = edge.sent(&(edge.head("GET /v1/node", true) + "\r\n")).await;
    assert!(rest(&mut idle).await.starts_with("HTTP/1.1 200 "));
    let mut half = edge.sent(&(edge.head("GET /v1/node", true) + "\r\n")).await;
    answer(&mut half).await;
    half.write_all(b"GET /v1").await.unwrap();
    assert!(rest(&mut half).await.contains("HTTP/1.1 408 "));
}

#[tokio::test]
async fn a_head_beyond_its_bound_is_refused() {
    let edge = Edge::start().await;
    let long = format!("GET /v1/node HTTP/1.1\r\nx: {}\r\n", "x".repeat(2 * limits::HEAD_BYTES_MAX));
    assert!(rest(&mut edge.sent(&long).await).await.starts_with("HTTP/1.1 431 "));
}

/// Goal: the deadlines are for clients that are slow, not for work that is. Method: a wait, a connection that is used
/// again and again, and a body that comes in parts, each for longer than every deadline.
#[tokio::test]
async fn a_long_wait_and_a_slow_body_outlive_every_deadline() {
    let edge = Edge::limited(Fake::new(false), short()).await;
    let job = jobs::submitted(&edge).await;
    let began = Instant::now();
    let waited: JobInfo = edge.client.get(&format!("/v1/jobs/{job}/wait?timeout_ms=2000")).await.unwrap();
    assert!(!waited.state.is_final() && began.elapsed() >= 2 * SOON);
    let parts = stream::iter(0..20).then(|_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok::<_, std::io::Error>(Bytes::from(vec![7; limits::PROGRESS_BYTES]))
    });
    let put = edge.client.request(Method::POST, "/v1/objects").body(reqwest::Body::wrap_stream(parts));
    let info: PutInfo = put.send().await.unwrap().json().await.unwrap();
    assert_eq!(info.bytes, 20 * limits::PROGRESS_BYTES as u64);
}

/// Goal: a client with a token that does not go on with its body is told so, and its place is free. Method: silence,
/// and a byte now and then.
#[tokio::test]
async fn a_body_that_stalls_is_refused() {
    let edge = Edge::limited(Fake::new(false), short()).await;
    let head = edge.head("POST /v1/events", true) + PART_OF_A_BODY;
    let told = rest(&mut edge.sent(&head).await).await;
    assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("too-slow") && told.contains("for 1s"), "{told}");
    let (mut read, mut write) = edge.sent(&head).await.into_split();
    let trickle = async {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut told = Vec::new();
    let read = within("the refusal", read.read_buf(&mut told));
    tokio::select! {
        read = read => assert!(read.unwrap() > 0),
        () = trickle => panic!("the connection ended without an answer"),
    }
    assert!(told.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&told));
    // A put says how to go on.
    let head = edge.head("POST /v1/objects", true) + "content-length: 1000\r\n\r\nx";
    let told = rest(&mut edge.sent(&head).await).await;
    assert!(told.contains("next to nothing of the body") && told.contains("--resume"), "{told}");
}

/// Goal: a client that does not read what it asked for does not keep its place. Method: an object without an end, of
/// which nothing is read until the door has closed the connection.
#[tokio::test]
async fn a_client_that_does_not_read_is_closed() {
    let edge = Edge::limited(Fake::new(false), short()).await;
    let head = edge.head(&format!("GET /v1/objects/{ENDLESS}/content"), true) + "\r\n";
    let mut deaf = edge.sent(&head).await;
    within("the connection to be closed", async {
        while edge.metric("quorate_api_connections_closed_total{reason=\"stalled\"}") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // What was on its way arrives; then it ends.
    let mut buffer = vec![0; 1 << 20];
    while within("the end", deaf.read(&mut buffer)).await.is_ok_and(|read| read > 0) {}
}

/// Goal: followers have a bound of their own, and whoever comes beyond it is told.
#[tokio::test]
async fn followers_beyond_their_bound_are_told() {
    let edge = Edge::limited(Fake::new(false), DoorLimits { streams_max: 2, ..DoorLimits::default() }).await;
    let head = edge.head("GET /v1/events", true) + "\r\n";
    let (mut first, mut second) = (edge.sent(&head).await, edge.sent(&head).await);
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 200 "));
    assert!(answer(&mut second).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(edge.status(edge.get("/v1/events")).await, (StatusCode::TOO_MANY_REQUESTS, ErrorCode::Busy));
    drop(first);
    within("the place of one that has gone", async {
        while edge.get("/v1/events").send().await.unwrap().status() != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Goal: a node all of whose places are held by callers that wait still answers what waits for nothing, and says to the
/// others why not.
#[tokio::test]
async fn a_full_node_answers_what_waits_for_nothing() {
    let limits = DoorLimits { connections_max: 2, kept_places: 1, ..DoorLimits::default() };
    let edge = Edge::limited(Fake::new(false), limits).await;
    let head = edge.head("GET /v1/events", true) + "\r\n";
    let mut open = [edge.sent(&head).await, edge.sent(&head).await];
    for stream in &mut open {
        assert!(answer(stream).await.starts_with("HTTP/1.1 200 "));
    }
    let refused = edge.get("/v1/events").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let body: ErrorBody = refused.json().await.unwrap();
    assert!(body.message.contains("all 2 connections") && body.hint.unwrap().contains("api.connections_max"));
    let path = format!("/v1/jobs/{JOB}/wait");
    assert_eq!(edge.status(edge.get(&path)).await, (StatusCode::TOO_MANY_REQUESTS, ErrorCode::Busy));
    for _ in 0..3 {
        let answered = edge.get("/v1/node").send().await.unwrap();
        assert_eq!(answered.status(), StatusCode::OK);
        assert_eq!(answered.headers()["connection"], "close", "a kept place is given up with the answer");
    }
    drop(open);
    within("the places of those that have gone", async {
        while edge.get("/v1/events").send().await.unwrap().status() != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_gives_way_to_a_caller() {
    let edge = Edge::limited(Fake::new(false), DoorLimits { connections_max: 1, ..DoorLimits::default() }).await;
    let mut idle = edge.sent(&(edge.head("GET /v1/node", true) + "\r\n")).await;
    answer(&mut idle).await;
    let mut next = edge.sent(&(edge.head("GET /v1/node", true) + "\r\n")).await;
    assert!(answer(&mut next).await.starts_with("HTTP/1.1 200 "));
    rest(&mut idle).await;
}

/// Goal: a connection that shows no token is answered and closed, also when it is in the middle of sending.
#[tokio::test]
async fn a_connection_without_a_token_ends_with_its_refusal() {
    let edge = Edge::start().await;
    let told = rest(&mut edge.sent(&(edge.head("GET /v1/node", false) + "\r\n")).await).await;
    assert!(told.starts_with("HTTP/1.1 401 ") && told.contains("unauthorized"), "{told}");
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let body = stream::iter((0..16).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let request = reqwest::Client::builder().tls_certs_only([]).build().unwrap().post(edge.client.url("/v1/objects"));
    let request = request.bearer_auth("wrong").body(reqwest::Body::wrap_stream(body));
    assert_eq!(edge.status(request).await, (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized));
}
