//! `job submit|validate|plan`: from a file to a job.
//!
//! The specification is read here before anyone is asked, so that most mistakes cost nothing. Files that it names are
//! sent along; what is too large for the record is stored as an object first, in the quorum that the job's id names.
//! The submit itself is repeated under its id until it is answered: a failover in the middle makes no second job.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use quorate_protocols::api::{
    FileContent, JobIdInfo, JobIdRequest, JobInfo, PlanInfo, PutInfo, SubmitInfo, SubmitRequest,
};
use quorate_protocols::ids::{JobId, ManifestHash, ObjectId, QuorumId};
use quorate_protocols::job::RunState;
use quorate_protocols::job::compute::Content;
use quorate_protocols::job::limits::SPEC_BYTES_MAX;
use quorate_protocols::job::plan::Plan;
use quorate_testnet::{Client, ClientError};

use super::super::advice;
use super::super::args::{Common, SpecArgs, SubmitArgs};
use super::super::failure::{Failure, unless_reader_gone};
use super::super::output::{Text, bytes, note, print, print_json, progress};
use super::super::transfer::{Upload, open_file, upload};
use super::{show_info, text, watch};
use crate::jobs::spec::{self, Source, SpecFile, show};

/// A file up to this size travels in the specification; all of them together up to [`INLINE_BYTES_MAX`].
const INLINE_FILE_BYTES_MAX: u64 = 64 * 1024;
const INLINE_BYTES_MAX: u64 = 160 * 1024;

const _: () = assert!(INLINE_BYTES_MAX < SPEC_BYTES_MAX as u64);

/// How long a submit is repeated whose answer did not come: a failover and more.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);

/// A specification as its file has it, read.
pub struct Spec {
    text: String,
    /// As errors name it.
    name: String,
    /// What the names of files in it are relative to.
    folder: PathBuf,
    pub file: SpecFile,
}

/// What becomes of a file that the specification names.
enum Named {
    Inline(Vec<u8>),
    /// Too large for the record: bytes, and where they are.
    Large(u64, PathBuf),
}

pub fn read(args: &SpecArgs) -> Result<Spec, Failure> {
    let stdin = args.spec == Path::new("-");
    let name = if stdin { "standard input".to_owned() } else { args.spec.display().to_string() };
    let mut bytes = Vec::new();
    // One more than allowed, so that a file that is too long is seen to be and is not read whole.
    let limit = SPEC_BYTES_MAX as u64 + 1;
    let got = match stdin {
        true => std::io::stdin().lock().take(limit).read_to_end(&mut bytes),
        false => std::fs::File::open(&args.spec).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    got.map_err(|error| Failure::failed(format!("cannot read {name}: {error}")))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::failed(format!("{name} is not UTF-8 text; a specification is a TOML file")))?;
    let file = spec::read(&text, &name, &args.set).map_err(|error| wrong(&error))?;
    let folder = match stdin {
        true => PathBuf::new(),
        false => args.spec.parent().map(Path::to_owned).unwrap_or_default(),
    };
    Ok(Spec { text, name, folder, file })
}

fn wrong(error: &spec::SpecError) -> Failure {
    Failure::failed(Text::lines(error.lines())).hint("the README and examples/ show what a specification may say")
}

impl Spec {
    /// Every file that it names, by that name. What the record has room for is read.
    fn named(&self) -> Result<BTreeMap<String, Named>, Failure> {
        let mut named = BTreeMap::new();
        let mut room = INLINE_BYTES_MAX;
        for source in self.file.sources() {
            let Source::File(path) = source else { continue };
            let place = self.folder.join(path);
            let fault = |error: std::io::Error| {
                Failure::failed(format!("{}: cannot read {}: {error}", self.name, place.display()))
            };
            let size = std::fs::metadata(&place).map_err(fault)?.len();
            let content = if size <= INLINE_FILE_BYTES_MAX.min(room) {
                let content = std::fs::read(&place).map_err(fault)?;
                room = room.saturating_sub(content.len() as u64);
                Named::Inline(content)
            } else {
                Named::Large(size, place)
            };
            named.insert(path.clone(), content);
        }
        Ok(named)
    }
}

/// Says whether a specification is sound, as far as that can be said without asking anyone.
pub fn validate(common: &Common, args: &SpecArgs) -> Result<(), Failure> {
    let spec = read(args)?;
    let named = spec.named()?;
    let somewhere = ObjectId { quorum: QuorumId([0; 16]), manifest: ManifestHash([0; 32]) };
    let mut objects = 0;
    let built = spec.file.build(|source| match source {
        Source::File(path) => match named.get(path) {
            Some(Named::Inline(content)) => Ok(Content::Inline(Bytes::copy_from_slice(content))),
            Some(Named::Large(size, _)) => Ok(Content::Object { object: somewhere, size: *size }),
            None => Err("not read".to_owned()),
        },
        // How large it is only the network knows; whatever that says of the number of tasks is said by `job plan`.
        Source::Object(object) => {
            objects += 1;
            Ok(Content::Object { object: *object, size: 1 })
        }
    });
    let built = built.map_err(|error| wrong(&error))?;
    let steps = built.computes().map_or(0, |spec| Plan::of(spec).steps.len());
    let trigger = spec.file.trigger().map(show::when);
    if common.json {
        return print_json(&serde_json::json!({
            "file": spec.name, "valid": true, "kind": built.kind(), "name": built.name(), "steps": steps,
            "trigger": trigger,
            "files": named.len(), "objects": objects,
        }));
    }
    let objects = match objects {
        0 => String::new(),
        _ => "; whether the objects are there, `quorate job plan` asks".to_owned(),
    };
    let steps = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
    let trigger = trigger.map(|when| format!(", {when}")).unwrap_or_default();
    print(format!("{} is sound: a job of kind {}, {steps}{trigger}{objects}", spec.name, built.kind()))
}

/// Shows what a submit would do. Large files are not stored for it: an object of their size takes their place.
pub async fn plan(common: &Common, client: &Client, args: &SpecArgs) -> Result<(), Failure> {
    let spec = read(args)?;
    let mut files = BTreeMap::new();
    for (name, content) in spec.named()? {
        // Nothing that a plan says depends on what is in them.
        let content = match content {
            Named::Inline(content) => inline(content),
            Named::Large(..) => FileContent::Text("?".to_owned()),
        };
        files.insert(name, content);
    }
    let request = SubmitRequest {
        spec: spec.text,
        file: Some(spec.name),
        files,
        set: args.set.iter().cloned().collect(),
        ..SubmitRequest::default()
    };
    let plan: PlanInfo = client.post("/v1/jobs/plan", &request).await?;
    match common.json {
        true => print_json(&plan),
        false => print(text::plan_text(&plan)),
    }
}

fn inline(content: Vec<u8>) -> FileContent {
    match String::from_utf8(content) {
        Ok(text) => FileContent::Text(text),
        Err(error) => FileContent::Base64(STANDARD.encode(error.as_bytes())),
    }
}

pub async fn submit(common: &Common, client: &Client, args: SubmitArgs) -> Result<(), Failure> {
    if args.dry_run {
        return plan(common, client, &args.spec).await;
    }
    let spec = read(&args.spec)?;
    let named = spec.named()?;
    let quorum = args.quorum.or(spec.file.quorum());
    let wanted = JobIdRequest { key: args.key, quorum, dedicated: spec.file.is_dedicated() };
    let JobIdInfo { job } = client.post("/v1/jobs/ids", &wanted).await?;
    let mut files = BTreeMap::new();
    for (name, content) in named {
        let content = match content {
            Named::Inline(content) => inline(content),
            Named::Large(size, place) => FileContent::Object(store(common, client, &place, size, job).await?),
        };
        files.insert(name, content);
    }
    let request = SubmitRequest {
        spec: spec.text,
        file: Some(spec.name),
        files,
        set: args.spec.set.into_iter().collect(),
        job: Some(job),
        ..SubmitRequest::default()
    };
    let submitted = until_answered(client, &request, job).await?;
    let ended_badly = submitted.existed && submitted.state.is_final() && submitted.state != RunState::Succeeded;
    if args.detach {
        let printed = match common.json {
            true => print_json(&submitted),
            false => print(submitted.job),
        };
        // What runs is not what the user may take it for: nothing does.
        if ended_badly {
            unless_reader_gone(printed)?;
            let state = submitted.state;
            return Err(Failure::failed(format!("job {job} was submitted before and is {state}; it was not run anew"))
                .hint(format!("`quorate job why {job}` says why"))
                .and_hint(RUN_ANEW));
        }
        if submitted.existed {
            note(format!("job {job} was submitted before and is {}", submitted.state));
        }
        return printed;
    }
    match submitted.existed {
        true => note(format!("job {job}, which was submitted before and is {}", submitted.state)),
        false => note(format!("job {job}")),
    }
    if spec.file.trigger().is_some() && !args.wait && !args.follow {
        let info: JobInfo = client.get(&format!("/v1/jobs/{job}")).await?;
        let next = format!("`quorate job fires {job}` shows what it fires; `quorate job cancel {job}` ends it");
        note(advice::complete(common, &next.into()));
        return show_info(common, &info);
    }
    let ended = watch::until_end(common, client, job, args.follow).await;
    ended.map_err(|failure| if ended_badly { failure.and_hint(RUN_ANEW) } else { failure })
}

/// To whoever submits under the key of a job that has ended.
const RUN_ANEW: &str = "a key stands for one job, however it ended: another --key, or none, runs it anew";

/// Stores a file that the job needs. The same file in the same quorum is the same object, so a submit that is repeated
/// under a key names the same.
async fn store(common: &Common, client: &Client, place: &Path, size: u64, job: JobId) -> Result<ObjectId, Failure> {
    let (body, what) = open_file(place).await?;
    let what = Upload { quorum: Some(job.quorum), ..what };
    let bar = progress(Some(size), common.json);
    let stored: Result<PutInfo, Failure> = upload(client, &what, body, |progress| {
        bar.set_message(progress.phase.to_string());
        bar.set_position(progress.bytes_stored);
    })
    .await;
    bar.finish_and_clear();
    let stored = stored?;
    note(format!("stored {} ({}) as object {}", place.display(), bytes(size), stored.object));
    Ok(stored.object)
}

/// Repeats the submit under its id while nobody can say whether it was heard.
async fn until_answered(client: &Client, request: &SubmitRequest, job: JobId) -> Result<SubmitInfo, Failure> {
    let began = Instant::now();
    let mut told = false;
    loop {
        match client.post("/v1/jobs", request).await {
            Ok(submitted) => return Ok(submitted),
            Err(error) if began.elapsed() < PATIENCE && watch::passes(&error) => {
                if !std::mem::replace(&mut told, true) {
                    note(format!("{error}; asking again under the same id"));
                }
            }
            Err(error @ ClientError::Refused { .. }) => return Err(error.into()),
            Err(error) => {
                return Err(Failure::from(error).and_hint(format!(
                    "whether the job was submitted is unknown: `quorate job show {job}` through any node says"
                )));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
