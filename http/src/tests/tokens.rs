//! Tokens of others than the operator, over a real socket.

use quorate_api::{MintInfo, MintRequest, TokenInfo, Verb};

use super::*;

const HOUR: u64 = 3600 * 1000;

impl Edge {
    pub(super) async fn minted(&self, owner: &str, may: &[Verb]) -> MintInfo {
        let request = MintRequest { owner: owner.to_owned(), may: may.to_vec(), for_ms: HOUR };
        self.client.post("/v1/tokens", &request).await.unwrap_or_else(|error| panic!("{error:?}"))
    }
    pub(super) fn with_token(&self, secret: &str) -> Client {
        Client::new(self.client.base(), Some(secret.to_owned()))
    }
    async fn revoked(&self, token: &str) -> TokenInfo {
        self.client.delete(&format!("/v1/tokens/{token}")).await.unwrap_or_else(|error| panic!("{error:?}"))
    }
    /// Closes the node, so that all lines are written.
    pub(super) async fn audited(&self) -> Vec<serde_json::Value> {
        self.fake.tasks.close().await;
        let text = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

async fn status(client: &Client, method: Method, path: &str) -> StatusCode {
    client.request(method, path).json(&serde_json::json!({})).send().await.unwrap().status()
}

fn path_of(route: &quorate_api::Route) -> String {
    let job = JOB.to_string();
    route
        .path
        .replace("{job}", &job)
        .replace("{object}", &OBJECT.to_string())
        .replace("{quorum}", &QUORUM.to_string())
        .replace("{token}", "0123456789abcdef")
}

/// Goal: each verb opens its routes and no other. Method: a token for each verb, and every route of the table with
/// each.
#[tokio::test]
async fn a_token_opens_the_routes_of_its_verbs_and_no_other() {
    let edge = Edge::start().await;
    for verb in Verb::grantable() {
        let client = edge.with_token(&edge.minted("alice", &[verb]).await.secret);
        for route in quorate_api::ROUTES {
            // What waits is asked for by its head, which waits as long.
            if route.is_long && route.verb == verb {
                continue;
            }
            let found = status(&client, Method::from_bytes(route.method.as_bytes()).unwrap(), &path_of(route)).await;
            match route.verb == verb {
                true => assert!(
                    ![StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED].contains(&found),
                    "{verb}: {} {}: {found}",
                    route.method,
                    route.path
                ),
                false => assert_eq!(found, StatusCode::FORBIDDEN, "{verb}: {} {}", route.method, route.path),
            }
        }
        assert_eq!(status(&client, Method::GET, "/v1/nothing").await, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_token_is_told_what_it_lacks_and_cannot_mint() {
    let edge = Edge::start().await;
    let client = edge.with_token(&edge.minted("alice", &[Verb::JobRead]).await.secret);
    let refused = client.request(Method::GET, "/v1/objects").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let body: ErrorBody = refused.json().await.unwrap();
    assert!(
        body.message.contains("object.read") && body.hint.unwrap().contains("--may object.read"),
        "{}",
        body.message
    );
    let wish = MintRequest { owner: "mallory".to_owned(), may: vec![Verb::JobRead], for_ms: HOUR };
    let refused = client.request(Method::POST, "/v1/tokens").json(&wish).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    // Nor does the operator give it away.
    let wish = MintRequest { may: vec![Verb::Operate], ..wish };
    let refused = edge.client.request(Method::POST, "/v1/tokens").json(&wish);
    assert_eq!(edge.status(refused).await, (StatusCode::BAD_REQUEST, ErrorCode::BadRequest));
}

/// Goal: a revocation holds at once, also for what is being answered. Method: a follower, a download and a connection
/// that is kept, of a token that is revoked.
#[tokio::test]
async fn a_revoked_token_loses_what_it_was_being_answered() {
    let edge = Edge::start().await;
    let minted = edge.minted("alice", &[Verb::EventRead, Verb::NodeRead, Verb::ObjectRead]).await;
    let client = edge.with_token(&minted.secret);
    let mut events = client.send(client.request(Method::GET, "/v1/events")).await.unwrap();
    assert!(events.chunk().await.unwrap().is_some());
    let mut content =
        client.send(client.request(Method::GET, &format!("/v1/objects/{ENDLESS}/content"))).await.unwrap();
    assert!(content.chunk().await.unwrap().is_some());
    assert_eq!(status(&client, Method::GET, "/v1/node").await, StatusCode::OK);
    let listed: Listing<TokenInfo> = edge.client.list("/v1/tokens").await.unwrap();
    assert_eq!((listed.items.len(), listed.items[0].used_at), (1, Some(Millis(5))));
    assert_eq!(edge.revoked(&minted.info.token).await.owner, "alice");
    assert_eq!(status(&client, Method::GET, "/v1/node").await, StatusCode::UNAUTHORIZED);
    for (what, response) in [("events", &mut events), ("content", &mut content)] {
        let end = async { while let Ok(Some(_)) = response.chunk().await {} };
        tokio::time::timeout(Duration::from_secs(60), end).await.unwrap_or_else(|_| panic!("{what} go on"));
    }
    let again = edge.client.request(Method::DELETE, &format!("/v1/tokens/{}", minted.info.token));
    assert_eq!(edge.status(again).await, (StatusCode::NOT_FOUND, ErrorCode::NotFound));
}

#[tokio::test]
async fn a_token_ends_by_itself_and_its_node_remembers_it_until_then() {
    let edge = Edge::start().await;
    let minted = edge.minted("alice", &[Verb::NodeRead]).await;
    let client = edge.with_token(&minted.secret);
    edge.fake.now.store(4 + HOUR, Ordering::Relaxed);
    assert_eq!(status(&client, Method::GET, "/v1/node").await, StatusCode::OK);
    edge.fake.now.store(5 + HOUR, Ordering::Relaxed);
    assert_eq!(status(&client, Method::GET, "/v1/node").await, StatusCode::UNAUTHORIZED);
}

/// Goal: one token cannot keep others out by waiting.
#[tokio::test]
async fn a_token_has_a_share_of_the_places() {
    let limits = DoorLimits { connections_max: 2 * limits::TOKEN_SHARE, ..DoorLimits::default() };
    let edge = Edge::limited(Fake::new(false), limits).await;
    let client = edge.with_token(&edge.minted("alice", &[Verb::EventRead, Verb::NodeRead]).await.secret);
    let follow = || client.send(client.request(Method::GET, "/v1/events"));
    let open = [follow().await.unwrap(), follow().await.unwrap()];
    assert_eq!(status(&client, Method::GET, "/v1/node").await, StatusCode::TOO_MANY_REQUESTS);
    let _: NodeInfo = edge.client.get("/v1/node").await.unwrap();
    drop(open);
    tokio::time::timeout(Duration::from_secs(60), async {
        while status(&client, Method::GET, "/v1/node").await != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("its places come back");
}

/// Goal: the log says who did what from where, with what outcome, and is for the operator's eyes.
#[tokio::test]
async fn the_audit_log_has_who_did_what_and_what_came_of_it() {
    use std::os::unix::fs::PermissionsExt;
    let edge = Edge::start().await;
    let minted = edge.minted("alice", &[Verb::JobSubmit, Verb::JobRead]).await;
    let client = edge.with_token(&minted.secret);
    let submitted: SubmitInfo = client.post("/v1/jobs", &jobs::request(jobs::SPEC)).await.unwrap();
    let _: JobInfo = client.get(&format!("/v1/jobs/{}", submitted.job)).await.unwrap();
    status(&client, Method::DELETE, &format!("/v1/objects/{OBJECT}")).await;
    status(&edge.with_token("wrong"), Method::GET, "/v1/node").await;
    let _: NodeInfo = edge.client.get("/v1/node").await.unwrap();
    edge.revoked(&minted.info.token).await;
    let lines = edge.audited().await;
    let mode = std::fs::metadata(edge.dir.path().join("audit.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let told: Vec<_> = lines
        .iter()
        .map(|line| (line["who"].as_str(), line["verb"].as_str().unwrap(), line["status"].as_u64().unwrap()))
        .collect();
    let alice = Some(minted.info.token.as_str());
    assert_eq!(
        told,
        [
            (Some("operator"), "node.operate", 200),
            (alice, "job.submit", 200),
            (alice, "job.read", 200),
            (alice, "object.remove", 403),
            (None, "node.read", 401),
            (Some("operator"), "node.operate", 200),
        ]
    );
    assert_eq!(lines[0]["subject"], minted.info.token);
    assert_eq!((&lines[1]["subject"], &lines[1]["owner"]), (&submitted.job.to_string().into(), &"alice".into()));
    assert_eq!((&lines[3]["error"], &lines[4]["error"]), (&"forbidden".into(), &"unauthorized".into()));
    assert!(lines.iter().all(|line| line["from"].as_str().unwrap().starts_with("127.0.0.1:") && line["asked_at"] == 5));
    let text = serde_json::to_string(&lines).unwrap();
    assert!(!text.contains(&minted.secret), "the log has no secrets");
}
