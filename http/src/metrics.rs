//! `/metrics`.

use std::sync::atomic::{AtomicI64, AtomicU64};

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use quorate_api::ErrorBody;
use quorate_protocols::quorum::request::QuorumView;

use super::backend::Shared;
use super::door::Overdue;

/// OpenMetrics text, in the words of its specification.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counters and gauges for Prometheus (OpenMetrics text), among them each quorum's term: a term grows by one with
/// every election that was tried.
#[utoipa::path(get, path = "/metrics", tag = "node",
    responses((status = 200, body = String, content_type = CONTENT_TYPE), (status = "default", body = ErrorBody)))]
pub async fn metrics(State(backend): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], backend.metrics())
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Label {
    quorum: String,
}

type PerQuorum = Family<Label, Gauge<u64, AtomicU64>>;
type PerQuorumSigned = Family<Label, Gauge<i64, AtomicI64>>;

/// Gauges of this node's quorums, made anew for each scrape: quorums come and go, and a gauge that is kept would
/// outlive its quorum.
pub struct QuorumGauges;

impl QuorumGauges {
    pub fn of(quorums: impl Iterator<Item = (bool, QuorumView)>) -> Registry {
        let mut registry = Registry::with_prefix("quorate");
        let mut family = |name: &str, help: &str| {
            let family = PerQuorum::default();
            registry.register(name, help, family.clone());
            family
        };
        let term = family("quorum_term", "Term as this member knows it; every election attempt raises it");
        let leading = family("quorum_leading", "Whether this node is primary and hears a majority");
        let committed = family("quorum_committed_index", "Last log index known to be committed");
        let applied = family("quorum_applied_index", "Last log index applied here");
        let jobs = family("quorum_jobs_live", "Jobs that have not ended");
        let objects = family("quorum_objects", "Objects it stewards");
        let paused = family("quorum_paused", "Whether this member knows that the quorum cannot commit");
        let apart = PerQuorumSigned::default();
        registry.register(
            "quorum_clock_apart_milliseconds",
            "How far this member's clock is ahead of a majority's; negative: behind",
            apart.clone(),
        );
        let members = Gauge::<u64, AtomicU64>::default();
        registry.register("quorums", "Quorums this node is a member of", members.clone());
        for (leads, view) in quorums {
            let set = |family: &PerQuorum, value: u64| {
                family.get_or_create(&Label { quorum: view.quorum.to_string() }).set(value);
            };
            set(&term, view.term.0);
            set(&leading, leads.into());
            set(&committed, view.committed.0);
            set(&applied, view.applied.0);
            set(&jobs, view.jobs_live.into());
            set(&objects, view.objects.into());
            set(&paused, view.paused.is_some().into());
            if let Some(ms) = view.clock_apart_ms {
                apart.get_or_create(&Label { quorum: view.quorum.to_string() }).set(ms);
            }
            members.inc();
        }
        registry
    }
}

/// Why the door closed a connection or refused a request, as metrics name it.
#[derive(Clone, Copy, Debug)]
pub enum Closed {
    /// More connections without a token than the lobby holds.
    Crowded,
    /// Idle, and its place was needed.
    MadeRoom,
    /// No place for a request with a token.
    Full,
    SlowHead,
    Idle,
    /// Its client does not read.
    Stalled,
}

impl Closed {
    pub const fn of(overdue: Overdue) -> Self {
        match overdue {
            Overdue::Head => Self::SlowHead,
            Overdue::Idle => Self::Idle,
            Overdue::Answer => Self::Stalled,
        }
    }
    const fn name(self) -> &'static str {
        match self {
            Self::Crowded => "crowded",
            Self::MadeRoom => "made-room",
            Self::Full => "full",
            Self::SlowHead => "slow-head",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClosedLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PlaceLabel {
    place: &'static str,
}

/// The connections of the API. Clones are the same metrics.
#[derive(Clone, Default)]
pub struct DoorMetrics {
    open: Family<PlaceLabel, Gauge<u64, AtomicU64>>,
    closed: Family<ClosedLabel, Counter>,
}

impl DoorMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("quorate_api");
        registry.register(
            "connections",
            "Open connections of the API: without a token yet (lobby), with one (own), in a place kept for short requests",
            self.open.clone(),
        );
        let closed = "Connections closed or refused by the API, by reason";
        registry.register("connections_closed", closed, self.closed.clone());
    }
    /// Of the lobby, with a place of their own, and in a kept place.
    pub fn set_open(&self, counts: [usize; 3]) {
        for (place, count) in ["lobby", "own", "kept"].into_iter().zip(counts) {
            self.open.get_or_create(&PlaceLabel { place }).set(count as u64);
        }
    }
    pub fn on_closed(&self, reason: Closed, count: u64) {
        self.closed.get_or_create(&ClosedLabel { reason: reason.name() }).inc_by(count);
    }
}
