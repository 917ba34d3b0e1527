//! `POST /v1/jobs` and what comes before it: ids and plans of jobs that compute, at once or when a trigger fires.
//!
//! The body of a submit has the specification as its file has it, and what the files hold that it names; this node
//! knows the objects. So whoever speaks HTTP needs no library to submit, and what is wrong is told by line.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use quorate_api::{
    ErrorBody, FileContent, JobIdInfo, JobIdRequest, Kind, PlanInfo, SubmitAnswer, SubmitInfo, SubmitRequest,
    WaitedInfo,
};
use quorate_node::quorums::submit::Wanted;
use quorate_protocols::ids::{JobId, ObjectId};
use quorate_protocols::job::JobSpec;
use quorate_protocols::quorum::watch::Until;
use quorate_protocols::task::spec::Content;
use quorate_spec::{Source, SpecFile, read, show};
use std::collections::BTreeMap;
use std::time::Duration;

use super::audit::Subject;
use super::backend::Shared;
use super::error::ApiError;
use super::extract;
use super::limits::{LISTING_FAN_OUT, TEXT_BYTES_MAX};
use super::modules::NOT_SENT;
use super::wait::{Wait, WaitParams};
use super::{jobs, views};

/// An id to submit under. Asking chooses the quorum, and forms one when there is none with room.
#[utoipa::path(post, path = "/v1/jobs/ids", tag = "jobs", request_body = JobIdRequest,
    responses((status = 200, body = JobIdInfo), (status = "default", body = ErrorBody)))]
pub async fn id(
    State(backend): State<Shared>,
    extract::Json(request): extract::Json<JobIdRequest>,
) -> Result<Json<JobIdInfo>, ApiError> {
    let JobIdRequest { key, quorum, dedicated } = request;
    Ok(Json(JobIdInfo { job: backend.job_id(Wanted { key, quorum, dedicated }).await? }))
}

/// Submits a job that computes, at once or each time its trigger fires. Committed when it is answered with success. A
/// submit whose answer was lost is repeated under its id or key.
///
/// With `wait`, or `Prefer: wait=30`, the answer comes when the job has ended or the time is up, with the job as it is
/// then. A job whose quorum says nothing more within that time is answered as without.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", params(WaitParams), request_body = SubmitRequest,
    responses((status = 200, body = SubmitAnswer), (status = "default", body = ErrorBody)))]
pub async fn submit(
    State(backend): State<Shared>,
    wait: Result<Wait, ApiError>,
    extract::Json(request): extract::Json<SubmitRequest>,
) -> Result<(Extension<Subject>, HeaderMap, Json<SubmitAnswer>), ApiError> {
    let wait = wait?;
    let (job, spec) = prepare(&backend, &request).await?;
    let answer = match wait.patience() {
        None => SubmitAnswer::Submitted(backend.submit(job, spec).await?),
        Some(patience) => submit_and_wait(&backend, job, spec, patience).await?,
    };
    Ok((Extension(Subject(job.to_string())), wait.applied(), Json(answer)))
}

/// The submit and the watch for the end leave together, so that both take one trip to the quorum.
async fn submit_and_wait(
    backend: &Shared,
    job: JobId,
    spec: JobSpec,
    patience: Duration,
) -> Result<SubmitAnswer, ApiError> {
    // A wait that fails is no failure of the submit.
    let waiting =
        async { Ok::<_, ApiError>(jobs::wait_until(backend, job, Until::EndedOnceSubmitted, patience).await) };
    let (submitted, ended) = tokio::try_join!(backend.submit(job, spec), waiting)?;
    let info = match ended {
        Ok(Some(info)) => Ok(info),
        Ok(None) => backend.job(job).await,
        Err(error) => Err(error),
    };
    Ok(match info {
        Ok(info) => {
            let SubmitInfo { existed, acknowledged_by, .. } = submitted;
            SubmitAnswer::Waited(Box::new(WaitedInfo { info, existed, acknowledged_by }))
        }
        // That it is submitted is known, and worth more than why its state is not.
        Err(_) => SubmitAnswer::Submitted(submitted),
    })
}

/// The id and the specification of what is submitted. Chooses the quorum if the request names no id.
pub async fn prepare(backend: &Shared, request: &SubmitRequest) -> Result<(JobId, JobSpec), ApiError> {
    let Built { file, spec, .. } = built(backend, request, Use::Submit).await?;
    let job = match request.job {
        None => {
            let quorum = request.quorum.or(file.quorum());
            let wanted = Wanted { key: request.key.clone(), quorum, dedicated: file.is_dedicated() };
            backend.job_id(wanted).await?
        }
        Some(_) if request.key.is_some() || request.quorum.is_some() => {
            return Err(ApiError::bad_request("an id was chosen by key and quorum already: give the id alone"));
        }
        Some(job) => job,
    };
    Ok((job, spec))
}

/// What a submit of this would do, and who could run its tasks. Nothing is submitted.
#[utoipa::path(post, path = "/v1/jobs/plan", tag = "jobs", request_body = SubmitRequest,
    responses((status = 200, body = PlanInfo), (status = "default", body = ErrorBody)))]
pub async fn plan(
    State(backend): State<Shared>,
    extract::Json(request): extract::Json<SubmitRequest>,
) -> Result<Json<PlanInfo>, ApiError> {
    let Built { file, spec, compile_memory_bytes } = built(&backend, &request, Use::Plan).await?;
    let spec = spec.as_batch().ok_or_else(|| ApiError::internal("a specification of a job that stores"))?;
    Ok(Json(PlanInfo {
        kind: Kind::Batch,
        engine: spec.engine().into(),
        name: spec.name.clone(),
        trigger: file.trigger().map(show::when),
        steps: views::steps(spec),
        resources: views::resources(&spec.resources),
        compile_memory_bytes,
        peers: backend.candidates(spec.engine(), spec.resources.clone(), compile_memory_bytes),
    }))
}

/// What a specification is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Submit,
    Plan,
}

struct Built {
    file: SpecFile,
    spec: JobSpec,
    /// What a worker sets aside to compile the largest of its modules.
    compile_memory_bytes: u64,
}

/// The specification with everything that it names, its modules checked.
async fn built(backend: &Shared, request: &SubmitRequest, purpose: Use) -> Result<Built, ApiError> {
    let name = request.file.as_deref().filter(|name| name.len() <= TEXT_BYTES_MAX).unwrap_or("spec");
    let set: Vec<_> = request.set.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let file = read(&request.spec, name, &set).map_err(ApiError::bad_request)?;
    let objects = sizes(backend, &file, request).await;
    let object = |object: &ObjectId| match objects.get(object) {
        Some(Ok(size)) => Ok(Content::Object { object: *object, size: *size }),
        Some(Err(why)) => Err(why.clone()),
        None => Err("its size was not asked for".to_owned()),
    };
    let built = file.build(|source| match source {
        Source::Object(reference) => object(reference),
        Source::File(path) => match request.files.get(path) {
            Some(FileContent::Object(reference)) => object(reference),
            Some(FileContent::Text(text)) => Ok(Content::Inline(Bytes::from(text.clone()))),
            Some(FileContent::Base64(text)) => match STANDARD.decode(text) {
                Ok(bytes) => Ok(Content::Inline(Bytes::from(bytes))),
                Err(error) => Err(format!("its content is not base64: {error}")),
            },
            Some(FileContent::Unsent { bytes, .. }) if purpose == Use::Plan => {
                Ok(Content::Object { object: NOT_SENT, size: *bytes })
            }
            Some(FileContent::Unsent { .. }) | None => Err("its content was not sent along (`files`)".to_owned()),
        },
    });
    let spec = built.map_err(ApiError::bad_request)?;
    let verdicts = backend.modules().of_spec(backend, &spec).await;
    let verdict = |module: &Content| {
        let (_, verdict) = verdicts.iter().find(|(of, _)| of == module)?;
        Some(verdict.as_ref().map(|facts| facts.memory_bytes))
    };
    file.check_modules(&spec, verdict).map_err(ApiError::bad_request)?;
    let known = verdicts.iter().filter_map(|(_, verdict)| Some(verdict.as_ref().ok()?.compile_memory_bytes));
    let told = request.files.values().map(|content| match content {
        FileContent::Unsent { compile_memory_bytes, .. } => *compile_memory_bytes,
        _ => 0,
    });
    let compile_memory_bytes = known.chain(told).max().unwrap_or(0);
    Ok(Built { file, spec, compile_memory_bytes })
}

/// Bytes of every object that the specification names, or why they are not known.
async fn sizes(backend: &Shared, file: &SpecFile, request: &SubmitRequest) -> BTreeMap<ObjectId, Result<u64, String>> {
    let sources = file.sources();
    let objects = sources.iter().filter_map(|source| match source {
        Source::Object(object) => Some(*object),
        Source::File(path) => match request.files.get(path) {
            Some(FileContent::Object(object)) => Some(*object),
            _ => None,
        },
    });
    let objects: std::collections::BTreeSet<ObjectId> = objects.collect();
    stream::iter(objects)
        .map(|object| async move {
            let size = backend.object(object).await.map(|info| info.bytes);
            (object, size.map_err(|error| error.body.message))
        })
        .buffer_unordered(LISTING_FAN_OUT)
        .collect()
        .await
}
