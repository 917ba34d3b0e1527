//! The HTTP API of one node, as the command line and the tests use it.

use std::path::Path;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use quorate_api::Listing;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long a request may take that is not a transfer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(60);

/// An unused connection is closed after this long: before the node does, which keeps one for half a minute, so that no
/// request is sent into one that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no node answers at {url}: {reason}; is it running?")]
    NoAnswer { url: String, reason: String },
    /// The node answered with an error of its own.
    #[error("{message}")]
    Refused { status: u16, error: String, message: String, hint: Option<String> },
    #[error("the answer of {url} cannot be read: {reason}")]
    Answer { url: String, reason: String },
    #[error("the transfer broke off: {reason}")]
    Transfer { reason: String },
    #[error("{}: {reason}", path.display())]
    File { path: std::path::PathBuf, reason: String },
}

impl ClientError {
    /// Whether a node was there to answer at all.
    pub fn no_node(&self) -> bool {
        matches!(self, Self::NoAnswer { .. })
    }
}

/// Talks to one node. Cloneable; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    token: Option<String>,
    http: reqwest::Client,
}

impl Client {
    pub fn new(base: impl Into<String>, token: Option<String>) -> Self {
        let base: String = base.into();
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .pool_idle_timeout(IDLE_MAX)
            // Nodes are spoken to on this machine, without TLS; the machine's list of authorities takes time to read.
            .tls_certs_only([]);
        // The library gives a connection up after 30 s in which the other side takes no bytes, and a node that waits
        // for room takes none. Whether it is still there shows in what it says meanwhile.
        #[cfg(target_os = "linux")]
        let http = http.tcp_user_timeout(None::<Duration>);
        let http = http.build().expect("a plain HTTP client needs nothing that could be missing");
        Self { base: base.trim_end_matches('/').to_owned(), token, http }
    }

    /// From the files that a running node keeps in its data folder: `api.addr` and `api.token`.
    pub fn of_data_dir(dir: &Path) -> Result<Self, ClientError> {
        let read = |name: &str| {
            let path = dir.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(text.trim().to_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(ClientError::NoAnswer {
                    url: dir.display().to_string(),
                    reason: format!("its folder has no {name}"),
                }),
                Err(error) => Err(ClientError::File { path, reason: error.to_string() }),
            }
        };
        Ok(Self::new(format!("http://{}", read("api.addr")?), Some(read("api.token")?)))
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// What its requests show.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// A request with this node's token; `path` starts with a slash.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, self.url(path));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends, and turns the node's error bodies into errors.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, ClientError> {
        let response = request.send().await.map_err(|error| self.no_answer(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        #[derive(serde::Deserialize, Default)]
        struct Body {
            #[serde(default)]
            error: String,
            #[serde(default)]
            message: String,
            hint: Option<String>,
        }
        let status = response.status();
        let text = response.text().await.unwrap_or_default();
        let body: Body = serde_json::from_str(&text).unwrap_or_default();
        let message = match (body.message.is_empty(), text.trim().is_empty()) {
            (false, _) => body.message,
            (true, false) => text.trim().chars().take(500).collect(),
            (true, true) => format!("the node answered {status}"),
        };
        Err(ClientError::Refused { status: status.as_u16(), error: body.error, message, hint: body.hint })
    }

    fn no_answer(&self, error: &reqwest::Error) -> ClientError {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            reason = inner.to_string();
            source = inner.source();
        }
        match error.is_connect() || error.is_timeout() {
            true => ClientError::NoAnswer { url: self.base.clone(), reason },
            false => ClientError::Transfer { reason },
        }
    }

    async fn json<T: DeserializeOwned>(&self, response: reqwest::Response) -> Result<T, ClientError> {
        let url = response.url().to_string();
        let bytes = response.bytes().await.map_err(|error| ClientError::Transfer { reason: error.to_string() })?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Answer { url, reason: error.to_string() })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let request = self.request(reqwest::Method::GET, path).timeout(REQUEST_DEADLINE);
        self.json(self.send(request).await?).await
    }

    /// All pages of a list, one after the other. A quorum that could not be asked for one page is named once.
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Listing<T>, ClientError> {
        self.list_where(path, &[]).await
    }

    /// The same of the rows that fit what the query says.
    pub async fn list_where<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Listing<T>, ClientError> {
        let mut whole: Listing<T> = self.page(path, query, None).await?;
        while let Some(cursor) = whole.cursor.take() {
            let page: Listing<T> = self.page(path, query, Some(&cursor)).await?;
            whole.items.extend(page.items);
            whole.isolated = whole.isolated.or(page.isolated);
            // A page that does not lead on would be asked for ever.
            whole.cursor = page.cursor.filter(|next| *next != cursor);
            for missing in page.unreachable {
                if whole.unreachable.iter().all(|known| known.quorum != missing.quorum) {
                    whole.unreachable.push(missing);
                }
            }
        }
        Ok(whole)
    }

    /// One page of a list: the first, or the one at the cursor of the page before.
    pub async fn page<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        cursor: Option<&str>,
    ) -> Result<Listing<T>, ClientError> {
        let request = self.request(reqwest::Method::GET, path).timeout(REQUEST_DEADLINE).query(query);
        let request = match cursor {
            Some(cursor) => request.query(&[("cursor", cursor)]),
            None => request,
        };
        self.json(self.send(request).await?).await
    }

    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        let request = self.request(reqwest::Method::POST, path).timeout(REQUEST_DEADLINE).json(body);
        self.json(self.send(request).await?).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let request = self.request(reqwest::Method::DELETE, path).timeout(REQUEST_DEADLINE);
        self.json(self.send(request).await?).await
    }

    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let request = self.request(reqwest::Method::GET, path).timeout(REQUEST_DEADLINE);
        let response = self.send(request).await?;
        response.text().await.map_err(|error| ClientError::Transfer { reason: error.to_string() })
    }

    /// Lines of a streamed answer (newline-delimited JSON), one value each, as they come.
    pub async fn lines(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<impl Stream<Item = Result<serde_json::Value, ClientError>> + use<>, ClientError> {
        let response = self.send(request).await?;
        let url = response.url().to_string();
        let chunks = response.bytes_stream();
        // An error ends it, and so does the end of the answer, however often it is asked for more.
        Ok(stream::try_unfold((Box::pin(chunks), Vec::<u8>::new(), url), |(mut chunks, mut buffer, url)| async {
            loop {
                if let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    if line.trim_ascii().is_empty() {
                        continue;
                    }
                    let value = serde_json::from_slice(&line)
                        .map_err(|error| ClientError::Answer { url: url.clone(), reason: error.to_string() })?;
                    return Ok(Some((value, (chunks, buffer, url))));
                }
                match chunks.next().await {
                    Some(Ok(chunk)) => buffer.extend_from_slice(&chunk),
                    Some(Err(error)) => return Err(ClientError::Transfer { reason: error.to_string() }),
                    None if buffer.trim_ascii().is_empty() => return Ok(None),
                    None => buffer.push(b'\n'),
                }
            }
        }))
    }
}
