//! JSON over HTTP and HTTPS, from hosts that the operator lists and from no others, redirects included.
//!
//! A host over HTTPS is believed when an authority that this machine trusts vouches for it, or one that the operator
//! names beside those.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use futures::StreamExt;
use quorate_protocols::trigger::limits::{OBSERVED_BYTES_MAX, SOURCE_DEADLINE};
use quorate_protocols::trigger::spec::Source;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url};

use quorate_protocols::text::chain;

/// Redirects that one look follows.
const REDIRECTS_MAX: usize = 5;

/// A host that may be asked. Without a port it is the one that the scheme stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AllowedHost {
    host: String,
    port: Option<u16>,
}

impl FromStr for AllowedHost {
    type Err = ();
    /// `host`, `host:port`, `[::1]:port`.
    fn from_str(text: &str) -> Result<Self, ()> {
        // The parser of addresses is the one that the sources go through, so both write a host in the same way.
        let url = Url::parse(&format!("http://{text}/")).map_err(drop)?;
        let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        let named = text.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        match url.host_str() {
            Some(host) if plain && !text.contains(['/', '@', '?', '#']) => {
                Ok(Self { host: host.to_owned(), port: url.port().or(named) })
            }
            _ => Err(()),
        }
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// Cloneable; clones share one client.
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    hosts: Vec<AllowedHost>,
    authorities: Vec<Certificate>,
    client: OnceLock<Result<Client, String>>,
}

impl AllowedHosts {
    pub fn new(hosts: impl IntoIterator<Item = AllowedHost>) -> Self {
        Self(Arc::new(Inner { hosts: hosts.into_iter().collect(), authorities: Vec::new(), client: OnceLock::new() }))
    }

    /// Believes these authorities too: certificates in PEM, of which there must be one at least.
    pub fn believing(self, pem: &[u8]) -> Result<Self, String> {
        let authorities = Certificate::from_pem_bundle(pem).map_err(|error| chain(&error))?;
        if authorities.is_empty() {
            return Err("there is no certificate in it; PEM (-----BEGIN CERTIFICATE-----) is needed".to_owned());
        }
        let inner = Inner { hosts: self.0.hosts.clone(), authorities, client: OnceLock::new() };
        // Only now are the certificates looked into.
        let client = inner.client()?;
        inner.client.get_or_init(|| Ok(client));
        Ok(Self(Arc::new(inner)))
    }

    /// Whether this node would look there. `Err` is for a person to read.
    pub fn check(&self, source: &Source) -> Result<(), String> {
        match source {
            Source::Http { url } => self.allowed(url).map(drop),
            Source::Object(_) | Source::Job(_) | Source::Metric { .. } => Ok(()),
        }
    }

    fn allowed(&self, url: &str) -> Result<Url, String> {
        let url = Url::parse(url).map_err(|error| format!("{url:?} is no address: {error}"))?;
        self.0.admits(&url)?;
        Ok(url)
    }

    pub async fn get(&self, url: &str) -> Result<String, String> {
        let url = self.allowed(url)?;
        let client = self.0.client.get_or_init(|| self.0.client()).as_ref().map_err(Clone::clone)?;
        let failed = |error: reqwest::Error| chain(&error.without_url());
        let response = client.get(url).send().await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("it answered with status {status}"));
        }
        let (mut chunks, mut body) = (response.bytes_stream(), Vec::new());
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.map_err(failed)?);
            if body.len() > OBSERVED_BYTES_MAX {
                return Err(format!("it answered with more than the {OBSERVED_BYTES_MAX} bytes allowed"));
            }
        }
        String::from_utf8(body).map_err(|_| "it did not answer with UTF-8".to_owned())
    }
}

impl Inner {
    fn admits(&self, url: &Url) -> Result<(), String> {
        admits(&self.hosts, url)
    }

    fn client(&self) -> Result<Client, String> {
        let redirects = || {
            let hosts = self.hosts.clone();
            Policy::custom(move |attempt| {
                if attempt.previous().len() > REDIRECTS_MAX {
                    return attempt.error("too many redirects");
                }
                let was_safe = attempt.previous().last().is_some_and(|from| from.scheme() == "https");
                if was_safe && attempt.url().scheme() != "https" {
                    return attempt.error("a redirect from https:// to http:// is not followed");
                }
                match admits(&hosts, attempt.url()) {
                    Ok(()) => attempt.follow(),
                    Err(why) => attempt.error(why),
                }
            })
        };
        let client = || Client::builder().timeout(SOURCE_DEADLINE).no_proxy().referer(false).redirect(redirects());
        let believing = client().tls_certs_merge(self.authorities.iter().cloned()).build();
        // A machine that trusts nobody has conditions over HTTP all the same.
        let client = believing.or_else(|error| match self.authorities.is_empty() {
            true => client().tls_certs_only([]).build(),
            false => Err(error),
        });
        client.map_err(|error| chain(&error))
    }
}

fn admits(hosts: &[AllowedHost], url: &Url) -> Result<(), String> {
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err("only http:// and https:// are asked, without a name or password in the address".to_owned());
    }
    let host = url.host_str().unwrap_or_default();
    let fits = |allowed: &AllowedHost| {
        let port = allowed.port.map_or_else(|| url.port().is_none(), |port| url.port_or_known_default() == Some(port));
        allowed.host == host && port
    };
    if hosts.iter().any(fits) {
        return Ok(());
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Err(format!(
        "{host}{port} is not among the hosts that this node may ask: its operator lists them under [conditions] in \
         quorate.toml"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[&str]) -> AllowedHosts {
        AllowedHosts::new(list.iter().map(|host| host.parse().expect("a host")))
    }

    #[test]
    fn only_what_is_listed_is_asked() {
        let allowed = hosts(&["api.example.org", "127.0.0.1:8080", "[::1]:80", "Mixed.Example:443"]);
        for url in [
            "http://api.example.org/a?b",
            "http://API.example.org",
            "http://127.0.0.1:8080/",
            "http://[::1]/",
            "http://mixed.example:443/",
            "https://mixed.example/",
            "https://api.example.org/",
        ] {
            assert!(allowed.check(&Source::Http { url: url.to_owned() }).is_ok(), "{url}");
        }
        for url in [
            "http://api.example.org:81/",
            "http://api.example.org.evil.example/",
            "http://127.0.0.1/",
            "http://127.0.0.2:8080/",
            "http://api.example.org@evil.example/",
            "http://api.example.org:x@127.0.0.1:8080/",
            "http://mixed.example/",
            "ftp://api.example.org/",
            "https://127.0.0.1/",
            "http:",
        ] {
            assert!(allowed.check(&Source::Http { url: url.to_owned() }).is_err(), "{url}");
        }
        assert!(hosts(&[]).check(&Source::Metric { name: "a".to_owned() }).is_ok());
    }

    #[test]
    fn an_entry_is_a_host_and_nothing_more() {
        for text in ["", "http://a", "a/b", "a:x", "a:99999", "me@a", "a b", "a?b", "*.example.org/"] {
            assert!(text.parse::<AllowedHost>().is_err(), "{text:?}");
        }
        for text in ["api.example.org", "127.0.0.1:8080", "[::1]:80", "a:80"] {
            assert_eq!(text.parse::<AllowedHost>().unwrap().to_string(), text);
        }
    }

    /// Answers every request over TLS with JSON; ends with the test's runtime.
    async fn server(key: &rcgen::CertifiedKey) -> u16 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (certificate, secret) = (key.cert.der().clone(), key.key_pair.serialize_der());
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("there are some")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], secret.try_into().expect("a key"))
            .expect("they belong together");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let away = request[..read].starts_with(b"GET /away");
                let head = match away {
                    true => format!("HTTP/1.1 302 Found\r\nlocation: http://localhost:{port}/\r\n"),
                    false => "HTTP/1.1 200 OK\r\n".to_owned(),
                };
                let answer = format!("{head}content-length: 2\r\nconnection: close\r\n\r\n{{}}");
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        port
    }

    /// Goal: a host over HTTPS is believed only when an authority vouches for it, and for the name that was asked.
    #[tokio::test]
    async fn a_host_over_https_is_believed_when_an_authority_vouches_for_it() {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let port = server(&key).await;
        let allowed = hosts(&[&format!("localhost:{port}"), &format!("127.0.0.1:{port}")]);
        let url = format!("https://localhost:{port}/");
        let refused = allowed.get(&url).await.unwrap_err();
        assert!(refused.contains("certificate"), "{refused}");
        let believing = allowed.believing(key.cert.pem().as_bytes()).unwrap();
        assert_eq!(believing.get(&url).await.as_deref(), Ok("{}"));
        let other = believing.get(&format!("https://127.0.0.1:{port}/")).await.unwrap_err();
        assert!(other.contains("certificate"), "{other}");
        let lower = believing.get(&format!("https://localhost:{port}/away")).await.unwrap_err();
        assert!(lower.contains("from https:// to http://"), "{lower}");
        for pem in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(hosts(&[]).believing(pem.as_bytes()).is_err(), "{pem:?}");
        }
    }
}
