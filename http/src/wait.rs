//! The wait that a submit asks for: the parameter `wait`, or the header `Prefer: wait` of RFC 7240.
//!
//! The parameter goes first, and one that cannot be read is refused. The header is a preference: one that cannot be
//! read counts as absent, and `Preference-Applied` says which wait was granted.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use quorate_protocols::units::parse_span;
use serde::Deserialize;

use super::error::ApiError;
use super::extract::Query;
use super::limits::WAIT_MAX;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitParams {
    /// Answer once the job has ended, or after this time, such as `30s` or `500ms`: at most a minute. The header
    /// `Prefer: wait=30` asks for the same, in seconds.
    wait: Option<String>,
}

/// How long the answer is waited for; `None` if the request does not say.
#[derive(Debug, PartialEq, Eq)]
pub struct Wait {
    asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Parameter(Duration),
    Preference(Duration),
}

impl Wait {
    pub fn patience(&self) -> Option<Duration> {
        match self.asked? {
            Asked::Parameter(span) | Asked::Preference(span) => Some(span.min(WAIT_MAX)),
        }
    }

    /// The headers by which the answer says what became of the preference.
    pub fn applied(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(Asked::Preference(span)) = self.asked
            && let Ok(value) = HeaderValue::from_str(&format!("wait={}", span.min(WAIT_MAX).as_secs()))
        {
            headers.insert(PREFERENCE_APPLIED, value);
        }
        headers
    }

    fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, ApiError> {
        let Query(params) = Query::<WaitParams>::of_uri(uri)?;
        let asked = match params.wait {
            Some(text) => {
                let span = parse_span(&text).map_err(|error| ApiError::bad_request(format!("wait: {error}")))?;
                Some(Asked::Parameter(span))
            }
            None => preferred(headers).map(Asked::Preference),
        };
        Ok(Self { asked })
    }
}

/// Whether a request asks to be answered late, with what came of it. One that is going to be refused does not.
pub fn is_asked(uri: &Uri, headers: &HeaderMap) -> bool {
    Wait::of(uri, headers).is_ok_and(|wait| wait.asked.is_some())
}

/// The wait among the preferences of a request. The first one counts.
fn preferred(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(','));
    let seconds = preferences.find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').to_owned())
    })?;
    seconds.parse().ok().map(Duration::from_secs)
}

impl<S: Sync> FromRequestParts<S> for Wait {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::of(&parts.uri, &parts.headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(query: &str, prefer: &[&str]) -> Result<Wait, ApiError> {
        let uri: Uri = format!("/v1/jobs{query}").parse().unwrap();
        let mut headers = HeaderMap::new();
        prefer.iter().for_each(|value| _ = headers.append(PREFER, HeaderValue::from_str(value).unwrap()));
        assert_eq!(is_asked(&uri, &headers), Wait::of(&uri, &headers).is_ok_and(|wait| wait.patience().is_some()));
        Wait::of(&uri, &headers)
    }

    fn applied(wait: &Wait) -> Option<String> {
        wait.applied().get(PREFERENCE_APPLIED).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_wait_is_a_span_in_the_query_or_seconds_in_a_preference_and_no_longer_than_a_minute() {
        for (query, prefer, patience, said) in [
            ("", &[][..], None, None),
            ("?wait=30s", &[], Some(30_000), None),
            ("?wait=500ms", &["wait=9"], Some(500), None),
            ("?wait=1h", &[], Some(60_000), None),
            ("?wait=0s", &[], Some(0), None),
            ("", &["wait=7"], Some(7_000), Some("wait=7")),
            ("", &["respond-async, Wait = 10; x=1"], Some(10_000), Some("wait=10")),
            ("", &["handling=lenient", "wait=\"2\", wait=5"], Some(2_000), Some("wait=2")),
            ("", &["wait=9999"], Some(60_000), Some("wait=60")),
            ("", &["wait=soon"], None, None),
            ("", &["await=5", "wait"], None, None),
        ] {
            let wait = wait(query, prefer).unwrap();
            assert_eq!(wait.patience(), patience.map(Duration::from_millis), "{query} {prefer:?}");
            assert_eq!(applied(&wait).as_deref(), said, "{query} {prefer:?}");
        }
        for wrong in ["?wait=30", "?wait=", "?wait=soon", "?wait=-1s", "?wait=1month"] {
            assert!(wait(wrong, &[]).unwrap_err().body.message.starts_with("wait: "), "{wrong}");
        }
    }
}
