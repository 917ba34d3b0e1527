//! One connection to an HTTP API that stays open: what a lane sends its requests over.
//!
//! [`quorate_testnet::Client`] has a pool beneath it that may be asked from everywhere, and costs the machine several
//! times as much per request. A connection has one request under way at a time and no pool. It is opened when it is
//! first needed, and anew after the other side closed it. A request that was sent is never sent again: whether that is
//! safe, its caller knows.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use quorate_protocols::text::chain;
use quorate_testnet::Testnet;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::error::BenchError;

/// How long a request may take that is no transfer. Longer than a node waits for a quorum, or for the end of a job.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// How long the transfer of a large object may take.
pub const TRANSFER_DEADLINE: Duration = Duration::from_secs(600);

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{target} does not answer: {reason}")]
    Lost { target: String, reason: String },
    #[error("{target} has not answered within {after:?}")]
    Late { target: String, after: Duration },
    #[error("{target} refused: {message}")]
    Refused { target: String, status: u16, message: String },
    #[error("the answer of {target} cannot be read: {reason}")]
    Answer { target: String, reason: String },
    #[error("the request to {target} cannot be written: {reason}")]
    Request { target: String, reason: String },
    /// The node did what it was asked for, and it came to something else than it should.
    #[error("{what}")]
    Outcome { what: String },
}

/// Where a connection leads to, with what each of its requests must show.
#[derive(Debug)]
pub struct Target {
    /// As errors call it.
    name: String,
    address: SocketAddr,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Target {
    /// The API of a node of the testnet, with the token of its data folder.
    pub fn of_node(testnet: &Testnet, index: usize) -> Result<Arc<Self>, BenchError> {
        let client = testnet.client(index)?;
        Self::new(format!("node {index}"), client.base(), client.token())
    }

    /// `base` is `http://ADDRESS:PORT`.
    pub fn new(name: String, base: &str, token: Option<&str>) -> Result<Arc<Self>, BenchError> {
        let fault =
            || BenchError::Plan(format!("{base:?} is not the address of an API, such as http://127.0.0.1:7421"));
        let host = base.strip_prefix("http://").ok_or_else(fault)?;
        let header = |text: &str| HeaderValue::from_str(text).map_err(|_| fault());
        let mut authorization = token.map(|token| header(&format!("Bearer {token}"))).transpose()?;
        if let Some(authorization) = &mut authorization {
            authorization.set_sensitive(true);
        }
        let address = host.parse().map_err(|_| fault())?;
        Ok(Arc::new(Self { name, address, host: header(host)?, authorization }))
    }
}

/// What a request carries.
#[derive(Default)]
pub struct Body {
    content_type: Option<&'static str>,
    /// Bytes that have not been handed on yet.
    left: u64,
    blocks: Blocks,
}

#[derive(Default)]
enum Blocks {
    #[default]
    None,
    One(Bytes),
    Many(Box<dyn Iterator<Item = std::io::Result<Bytes>> + Send>),
}

impl Body {
    /// A JSON document that was written before.
    pub fn json(text: Bytes) -> Self {
        Self { content_type: Some("application/json"), left: text.len() as u64, blocks: Blocks::One(text) }
    }

    pub fn bytes(bytes: Bytes) -> Self {
        Self { content_type: Some("application/octet-stream"), left: bytes.len() as u64, blocks: Blocks::One(bytes) }
    }

    /// `length` bytes, a block at a time.
    pub fn blocks(length: u64, blocks: impl Iterator<Item = std::io::Result<Bytes>> + Send + 'static) -> Self {
        Self { content_type: Some("application/octet-stream"), left: length, blocks: Blocks::Many(Box::new(blocks)) }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        let body = self.get_mut();
        let block = match &mut body.blocks {
            Blocks::None => None,
            Blocks::One(bytes) => Some(Ok(std::mem::take(bytes))),
            Blocks::Many(blocks) => blocks.next(),
        };
        if let Some(Ok(block)) = &block {
            body.left = body.left.saturating_sub(block.len() as u64);
        }
        if body.left == 0 {
            body.blocks = Blocks::None;
        }
        Poll::Ready(block.map(|block| block.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The body of an answer with success.
pub struct Answer {
    target: Arc<Target>,
    body: Bytes,
}

impl Answer {
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, CallError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| CallError::Answer { target: self.target.name.clone(), reason: error.to_string() })
    }
}

/// See the head of this file.
pub struct Connection {
    target: Arc<Target>,
    /// While no request is under way. A request that was given up takes its connection with it.
    idle: Option<SendRequest<Body>>,
}

impl Connection {
    /// Not open yet.
    pub const fn new(target: Arc<Target>) -> Self {
        Self { target, idle: None }
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer, CallError> {
        self.call(Method::GET, path, Body::default()).await
    }

    pub async fn post(&mut self, path: &str, body: &impl Serialize) -> Result<Answer, CallError> {
        let text = serde_json::to_vec(body).map_err(|error| self.request_fault(&error))?;
        self.call(Method::POST, path, Body::json(text.into())).await
    }

    pub async fn call(&mut self, method: Method, path: &str, body: Body) -> Result<Answer, CallError> {
        self.call_within(DEADLINE, method, path, body).await
    }

    /// The answer as a whole.
    pub async fn call_within(
        &mut self,
        deadline: Duration,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Answer, CallError> {
        let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
        let collect = |chunk: Bytes| {
            // Most answers come in one piece, which is not copied.
            match (first.is_empty(), whole.is_empty()) {
                (true, _) => first = chunk,
                (false, true) => {
                    whole.extend_from_slice(&first);
                    whole.extend_from_slice(&chunk);
                }
                (false, false) => whole.extend_from_slice(&chunk),
            }
            Ok(())
        };
        self.exchange(deadline, method, path, body, collect).await?;
        let body = if whole.is_empty() { first } else { whole.freeze() };
        Ok(Answer { target: self.target.clone(), body })
    }

    /// Hands each chunk of the answer to `sink` as it comes.
    pub async fn download(
        &mut self,
        path: &str,
        sink: impl FnMut(Bytes) -> std::io::Result<()>,
    ) -> Result<(), CallError> {
        self.exchange(TRANSFER_DEADLINE, Method::GET, path, Body::default(), sink).await
    }

    async fn exchange(
        &mut self,
        deadline: Duration,
        method: Method,
        path: &str,
        body: Body,
        mut sink: impl FnMut(Bytes) -> std::io::Result<()>,
    ) -> Result<(), CallError> {
        let request = self.request(method, path, body)?;
        match tokio::time::timeout(deadline, self.send(request, &mut sink)).await {
            Ok(Ok((sender, refused))) => {
                self.idle = Some(sender);
                refused.map_or(Ok(()), Err)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CallError::Late { target: self.target.name.clone(), after: deadline }),
        }
    }

    /// The connection as it can be used again, and the refusal if the answer is one.
    async fn send(
        &mut self,
        request: Request<Body>,
        sink: &mut impl FnMut(Bytes) -> std::io::Result<()>,
    ) -> Result<(SendRequest<Body>, Option<CallError>), CallError> {
        let mut sender = self.open().await?;
        let response = sender.send_request(request).await.map_err(|error| self.lost(&error))?;
        let (head, mut body) = response.into_parts();
        if head.status.is_success() {
            while let Some(chunk) = next_chunk(&mut body).await {
                let chunk = chunk.map_err(|error| self.lost(&error))?;
                sink(chunk).map_err(|error| self.lost(&error))?;
            }
            return Ok((sender, None));
        }
        let mut text = Vec::new();
        while let Some(chunk) = next_chunk(&mut body).await {
            text.extend_from_slice(&chunk.map_err(|error| self.lost(&error))?);
        }
        let (status, message) = (head.status.as_u16(), refusal(&text));
        Ok((sender, Some(CallError::Refused { target: self.target.name.clone(), status, message })))
    }

    fn request(&self, method: Method, path: &str, body: Body) -> Result<Request<Body>, CallError> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.target.host.clone());
        if let Some(authorization) = &self.target.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(content_type) = body.content_type {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        request.body(body).map_err(|error| self.request_fault(&error))
    }

    /// The connection from the request before, if the other side has kept it, else a new one.
    async fn open(&mut self) -> Result<SendRequest<Body>, CallError> {
        if let Some(mut sender) = self.idle.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let stream = TcpStream::connect(self.target.address).await.map_err(|error| self.lost(&error))?;
        stream.set_nodelay(true).map_err(|error| self.lost(&error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.lost(&error))?;
        // It ends with its sender. Why it broke, the request that was under way is told.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn lost(&self, error: &dyn std::error::Error) -> CallError {
        CallError::Lost { target: self.target.name.clone(), reason: chain(error) }
    }

    fn request_fault(&self, error: &dyn std::error::Error) -> CallError {
        CallError::Request { target: self.target.name.clone(), reason: chain(error) }
    }
}

/// The next bytes of a body; trailers are passed over.
async fn next_chunk(body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
    loop {
        let frame = std::future::poll_fn(|cx| hyper::body::Body::poll_frame(Pin::new(&mut *body), cx)).await?;
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => return Some(Ok(bytes)),
            Ok(Err(_trailers)) => (),
            Err(error) => return Some(Err(error)),
        }
    }
}

/// The message in the body of an error: `message` of ours, `error` of a gateway, else its beginning.
fn refusal(body: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Refusal {
        message: String,
        error: String,
    }
    let Refusal { message, error } = serde_json::from_slice(body).unwrap_or_default();
    match (message.is_empty(), error.is_empty()) {
        (false, _) => message,
        (true, false) => error,
        (true, true) => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn an_address_is_parsed_and_anything_else_is_named() {
        let target = Target::new("node 1".into(), "http://127.0.0.1:7421", Some("secret")).unwrap();
        assert_eq!((target.address.port(), target.host.to_str().unwrap()), (7421, "127.0.0.1:7421"));
        assert_eq!(target.authorization.as_ref().unwrap(), "Bearer secret");
        for wrong in ["127.0.0.1:7421", "http://somewhere", "http://127.0.0.1"] {
            let error = Target::new("x".into(), wrong, None).unwrap_err();
            assert!(error.is_plan() && error.to_string().contains(wrong), "{error}");
        }
    }

    #[test]
    fn refusals_are_told_in_their_own_words() {
        assert_eq!(refusal(br#"{"error":"busy","message":"try again"}"#), "try again");
        assert_eq!(refusal(br#"{"error":"etcdserver: no leader","code":14}"#), "etcdserver: no leader");
        assert_eq!(refusal(b"plain text\n"), "plain text");
    }

    /// Reads one request: its head and as many bytes as it announces.
    fn read_request(stream: &mut std::net::TcpStream) -> Option<String> {
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            seen.push(byte[0]);
        }
        let head = String::from_utf8(seen).ok()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        Some(head + &String::from_utf8(body).ok()?)
    }

    /// Goal: requests share a connection for as long as the other side keeps it, and the next one opens another.
    #[tokio::test]
    async fn a_connection_stays_open_and_is_opened_anew_when_it_was_closed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        // Per connection, the answers to its requests; it is closed behind the last.
        let script = [
            vec![
                "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"n\":1}".to_owned(),
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 18\r\n\r\n{\"message\":\"busy\"}".to_owned(),
            ],
            vec![
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{\"n\r\n4\r\n\":2}\r\n0\r\n\r\n".to_owned(),
            ],
        ];
        let server = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for answers in script {
                let (mut stream, _) = listener.accept().unwrap();
                for answer in answers {
                    requests.push(read_request(&mut stream).unwrap());
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
            requests
        });
        #[derive(Deserialize)]
        struct Numbered {
            n: u32,
        }
        let mut connection = Connection::new(Target::new("it".into(), &base, Some("secret")).unwrap());
        assert_eq!(connection.get("/one").await.unwrap().json::<Numbered>().unwrap().n, 1);
        let refused = connection.post("/two", &serde_json::json!({ "a": "b" })).await.err().unwrap();
        assert!(matches!(refused, CallError::Refused { status: 503, .. }), "{refused}");
        // Whether it was closed by now, the connection may not know yet.
        while connection.idle.as_ref().is_some_and(|sender| !sender.is_closed()) {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let blocks = [&b"ab"[..], b"cde"].map(|block| Ok(Bytes::from_static(block)));
        let body = Body::blocks(5, blocks.into_iter());
        let answer = connection.call(Method::POST, "/three", body).await.unwrap();
        assert_eq!(answer.json::<Numbered>().unwrap().n, 2);
        let requests = server.join().unwrap();
        assert!(requests[0].starts_with("GET /one HTTP/1.1\r\n") && requests[0].contains("Bearer secret"));
        assert!(requests[1].ends_with("{\"a\":\"b\"}") && requests[1].contains("application/json"), "{}", requests[1]);
        assert!(requests[2].ends_with("\r\n\r\nabcde") && requests[2].contains("content-length: 5"), "{}", requests[2]);
    }
}
