//! All routes with their description, guarded.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Uri, header};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::get;
use quorate_api::{ErrorCode, SUBMIT_MANY_BYTES_MAX};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::backend::Shared;
use super::body::attended;
use super::door::Connection;
use super::error::ApiError;
use super::events::StreamPlaces;
use super::guard::{Guard, guard};
use super::limits::{JSON_BYTES_MAX, SUBMIT_BYTES_MAX};
use super::submit_many::SubmitManyPlaces;
use super::{
    bench, bench_triggers, events, jobs, metrics, node, objects, quorums, submit, submit_many, tasks, testing, token,
    triggers,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "quorate",
        description = "One node of a quorate network. Every request needs the bearer token of the node's data folder.",
        license(name = "MIT OR Apache-2.0")
    ),
    modifiers(&Bearer),
    security(("token" = []))
)]
struct Description;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

fn described(testing: bool) -> OpenApiRouter<Shared> {
    // Specifications are longer than any other request.
    let submits = OpenApiRouter::new()
        .routes(routes!(submit::submit))
        .routes(routes!(submit::plan))
        .layer(DefaultBodyLimit::max(SUBMIT_BYTES_MAX));
    let many = OpenApiRouter::new()
        .routes(routes!(submit_many::submit_many))
        .layer(DefaultBodyLimit::max(SUBMIT_MANY_BYTES_MAX));
    let router = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(node::node))
        .routes(routes!(node::peers))
        .routes(routes!(node::contact))
        .routes(routes!(quorums::list))
        .routes(routes!(quorums::show))
        .routes(routes!(quorums::members))
        .routes(routes!(node::resources))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show))
        .routes(routes!(jobs::history))
        .routes(routes!(jobs::wait))
        .routes(routes!(jobs::why))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::pause))
        .routes(routes!(jobs::resume))
        .routes(routes!(jobs::retry))
        .routes(routes!(jobs::resolve))
        .routes(routes!(jobs::update))
        .routes(routes!(triggers::fires))
        .routes(routes!(triggers::next))
        .routes(routes!(triggers::fire))
        .routes(routes!(triggers::suspend))
        .routes(routes!(triggers::unsuspend))
        .routes(routes!(tasks::tasks))
        .routes(routes!(tasks::outputs))
        .routes(routes!(tasks::receipts))
        .routes(routes!(tasks::logs))
        .routes(routes!(submit::id))
        .merge(submits)
        .merge(many)
        .routes(routes!(objects::list, objects::put))
        .routes(routes!(objects::show, objects::remove))
        .routes(routes!(objects::content))
        .routes(routes!(events::events, events::emit))
        .routes(routes!(token::list, token::mint))
        .routes(routes!(token::revoke))
        .routes(routes!(metrics::metrics));
    match testing {
        true => router
            .routes(routes!(testing::faults, testing::set_faults))
            .routes(routes!(bench::noop))
            .routes(routes!(bench::form))
            .routes(routes!(bench_triggers::triggers)),
        false => router,
    }
}

/// Where the routes of testing nodes are.
const OF_TESTING: [&str; 2] = ["/v1/bench/", "/v1/testing/"];

/// The answer to a path that leads nowhere on this node.
fn no_route(path: &str, testing: bool) -> ApiError {
    match !testing && OF_TESTING.iter().any(|prefix| path.starts_with(prefix)) {
        true => {
            ApiError::not_found("this node was not started with --testing, and has no routes for tests and benchmarks")
                .hint("measure and break nodes of a testnet: `quorate testnet up` starts them with --testing")
        }
        false => ApiError::not_found("no such route").hint("GET /openapi.json lists all"),
    }
}

/// The API's description, as `/openapi.json` gives it.
pub fn description(testing: bool) -> utoipa::openapi::OpenApi {
    described(testing).into_openapi()
}

/// The whole API over a node.
///
/// At most `streams_max` clients follow its events at once.
pub fn router(backend: Shared, required: Guard, streams_max: usize) -> axum::Router {
    let testing = backend.testing().is_some();
    let (router, description) = described(testing).split_for_parts();
    let description = description.to_json().unwrap_or_else(|error| {
        // The description is made of constants; a test reads it.
        tracing::error!(%error, "the API description cannot be written");
        "{}".to_owned()
    });
    let tasks = backend.tasks().clone();
    router
        .route("/openapi.json", get(move || async move { ([(header::CONTENT_TYPE, "application/json")], description) }))
        .fallback(move |uri: Uri| async move { no_route(uri.path(), testing).into_response() })
        .method_not_allowed_fallback(|| async {
            ApiError::new(ErrorCode::MethodNotAllowed, "this route does not take this method").into_response()
        })
        .layer(DefaultBodyLimit::max(JSON_BYTES_MAX))
        .layer(Extension(StreamPlaces::new(streams_max)))
        .layer(Extension(SubmitManyPlaces::default()))
        .layer(Extension(required.tokens.clone()))
        .layer(middleware::from_fn_with_state((required, backend.clone()), guard))
        // Handlers act as part of the node: what they start belongs to it.
        .layer(middleware::from_fn(move |request: Request, next: middleware::Next| {
            let tasks = tasks.clone();
            let connection = request.extensions().get::<Arc<Connection>>().cloned();
            let request = request.map(|body| attended(body, connection, tasks.clone()));
            async move { tasks.scope(next.run(request)).await }
        }))
        .with_state(backend)
}
