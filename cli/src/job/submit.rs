//! `job submit|validate|plan`: from a file to a job.
//!
//! The specification is read here before anyone is asked, so that most mistakes cost nothing; modules are checked, and
//! lose their custom sections (debug information), which workers have no use for. Files that it names are sent along;
//! what is too large for the record is stored as an object first, in the quorum that the job's id names. The submit
//! itself is repeated under its id until it is answered: a failover in the middle makes no second job. It waits for the
//! end for a moment, so that a short job takes one request.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use quorate_api::{
    FileContent, JobIdInfo, JobIdRequest, JobInfo, Kind, PlanInfo, PutInfo, RunState, SubmitAnswer, SubmitInfo,
    SubmitRequest, WaitedInfo,
};
use quorate_modules::check;
use quorate_protocols::ids::{JobId, ManifestHash, ObjectId, QuorumId};
use quorate_protocols::job::JobSpec;
use quorate_protocols::job::limits::SPEC_BYTES_MAX;
use quorate_protocols::job::plan::Plan;
use quorate_protocols::task::limits::MODULE_BYTES_MAX;
use quorate_protocols::task::spec::Content;
use quorate_protocols::text::counted;
use quorate_protocols::units::ByteSize;
use quorate_spec::{Faults, Source, SpecFile, show};
use quorate_testnet::{Client, ClientError};

use super::super::advice;
use super::super::args::{Common, SpecArgs, SubmitArgs};
use super::super::failure::{Failure, unless_reader_gone};
use super::super::ids::Ids;
use super::super::output::{Text, bytes, print, print_json, print_to_stderr, progress, set_message};
use super::super::reference::resolve_optional;
use super::super::transfer::{Upload, open_file, upload};
use super::{show_info, text, watch};

/// A file up to this size travels in the specification; all of them together up to [`INLINE_BYTES_MAX`].
const INLINE_FILE_BYTES_MAX: u64 = 64 * 1024;
const INLINE_BYTES_MAX: u64 = 160 * 1024;

const _: () = assert!(INLINE_BYTES_MAX < SPEC_BYTES_MAX as u64);

/// How long a submit is repeated whose answer did not come: a failover and more.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const PAUSE: Duration = Duration::from_millis(200);

/// A specification as its file has it, read.
pub struct Spec {
    text: String,
    /// As errors name it.
    name: String,
    /// What the names of files in it are relative to.
    folder: PathBuf,
    pub file: SpecFile,
}

/// Largest file that is read as a module, in bytes: as much debug information as code many times over.
const MODULE_FILE_BYTES_MAX: u64 = 512 << 20;

/// What becomes of a file that the specification names.
pub enum Named {
    Inline(Vec<u8>),
    /// Too large for the record: bytes, and where they are.
    Large(u64, PathBuf),
    /// A module that is too large for the record, as it will be stored, and the file that it was made from.
    Module(Bytes, PathBuf),
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
    let folder = match stdin {
        true => PathBuf::new(),
        false => args.spec.parent().map(Path::to_owned).unwrap_or_default(),
    };
    Spec::of(text, name, folder, &args.set)
}

fn wrong(error: &Faults) -> Failure {
    Failure::failed(Text::lines(error.lines())).hint("docs/jobs.md and examples/ show what a specification may say")
}

impl Spec {
    pub fn of(text: String, name: String, folder: PathBuf, set: &[(String, String)]) -> Result<Self, Failure> {
        let file = quorate_spec::read(&text, &name, set).map_err(|error| wrong(&error))?;
        Ok(Self { text, name, folder, file })
    }

    /// Every file that it names, by that name. What the record has room for is read.
    pub fn named(&self) -> Result<BTreeMap<String, Named>, Failure> {
        let (mut named, modules) = (BTreeMap::new(), self.file.module_sources());
        let mut room = INLINE_BYTES_MAX;
        for source in self.file.sources() {
            let Source::File(path) = source else { continue };
            let place = self.folder.join(path);
            let fault = |error: std::io::Error| {
                Failure::failed(format!("{}: cannot read {}: {error}", self.name, place.display()))
            };
            let size = std::fs::metadata(&place).map_err(fault)?.len();
            let content = if modules.contains(source) {
                let module = read_module(&place).map_err(fault)?;
                match module.len() as u64 <= INLINE_FILE_BYTES_MAX.min(room) {
                    true => {
                        room = room.saturating_sub(module.len() as u64);
                        Named::Inline(module)
                    }
                    false => Named::Module(module.into(), place),
                }
            } else if size <= INLINE_FILE_BYTES_MAX.min(room) {
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

/// A module as it is stored: without its custom sections. The same file always gives the same bytes.
fn read_module(place: &Path) -> std::io::Result<Vec<u8>> {
    let mut module = Vec::new();
    std::fs::File::open(place)?.take(MODULE_FILE_BYTES_MAX + 1).read_to_end(&mut module)?;
    if module.len() as u64 > MODULE_FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "it is no module: it has more than {}",
            ByteSize(MODULE_FILE_BYTES_MAX)
        )));
    }
    Ok(match check::strip(&module) {
        Cow::Borrowed(_) => module,
        Cow::Owned(stripped) => stripped,
    })
}

impl Spec {
    /// Checks everything that can be checked without asking anyone: the specification with its files, and the modules.
    /// Objects stand in it for what is stored later.
    pub fn check(&self, named: &BTreeMap<String, Named>) -> Result<JobSpec, Failure> {
        // An object of its own for each file, which a verdict is found by.
        let stand_in = |path: &str| {
            let manifest = ManifestHash(*blake3::hash(path.as_bytes()).as_bytes());
            ObjectId { quorum: QuorumId([0; 16]), manifest }
        };
        let built = self.file.build(|source| match source {
            Source::File(path) => match named.get(path) {
                Some(Named::Inline(content)) => Ok(Content::Inline(Bytes::copy_from_slice(content))),
                Some(Named::Large(size, _)) => Ok(Content::Object { object: stand_in(path), size: *size }),
                Some(Named::Module(module, _)) => {
                    // The check says more of one that is too large than the bound of a specification does.
                    let size = (module.len() as u64).min(MODULE_BYTES_MAX);
                    Ok(Content::Object { object: stand_in(path), size })
                }
                None => Err("not read".to_owned()),
            },
            // How large it is only the network knows; whatever that says of the number of tasks is said by `job plan`.
            Source::Object(object) => Ok(Content::Object { object: *object, size: 1 }),
        });
        let built = built.map_err(|error| wrong(&error))?;
        let memory = |module: &[u8]| check::check(module).map(|checked| checked.facts.memory_bytes);
        let verdict = |module: &Content| match module {
            Content::Inline(bytes) => Some(memory(bytes)),
            Content::Object { object, .. } => named.iter().find_map(|(path, named)| match named {
                Named::Module(module, _) if stand_in(path) == *object => Some(memory(module)),
                _ => None,
            }),
        };
        self.file.check_modules(&built, verdict).map_err(|error| wrong(&error))?;
        Ok(built)
    }
}

/// Says whether a specification is sound, as far as that can be said without asking anyone.
pub fn validate(common: &Common, args: &SpecArgs) -> Result<(), Failure> {
    let spec = read(args)?;
    let named = spec.named()?;
    let objects = spec.file.sources().iter().filter(|source| matches!(source, Source::Object(_))).count();
    let built = spec.check(&named)?;
    let steps = built.as_batch().map_or(0, |spec| Plan::of(spec).steps.len());
    let trigger = spec.file.trigger().map(show::when);
    if common.json {
        return print_json(&serde_json::json!({
            "file": spec.name, "valid": true, "kind": Kind::from(built.kind()), "name": built.name(), "steps": steps,
            "trigger": trigger,
            "files": named.len(), "objects": objects,
        }));
    }
    let objects = match objects {
        0 => String::new(),
        _ => "; whether the objects are there, `quorate job plan` asks".to_owned(),
    };
    let steps = counted(steps, "step");
    let trigger = trigger.map(|when| format!(", {when}")).unwrap_or_default();
    print(format!("{} is sound: a job of kind {}, {steps}{trigger}{objects}", spec.name, built.kind()))
}

/// Shows what a submit would do. Large files are not stored for it: an object of their size takes their place.
pub async fn plan(common: &Common, client: &Client, args: &SpecArgs) -> Result<(), Failure> {
    let spec = read(args)?;
    let named = spec.named()?;
    spec.check(&named)?;
    let mut files = BTreeMap::new();
    for (name, content) in named {
        // Nothing else that a plan says depends on what is in them.
        let content = match content {
            Named::Inline(content) => inline(content),
            Named::Large(bytes, _) => FileContent::Unsent { bytes, compile_memory_bytes: 0 },
            Named::Module(module, _) => FileContent::Unsent {
                bytes: module.len() as u64,
                compile_memory_bytes: check::check(&module).map_or(0, |checked| checked.facts.compile_memory_bytes),
            },
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
        false => print(text::plan_text(&plan, &Ids::ask(common, client).await)),
    }
}

fn inline(content: Vec<u8>) -> FileContent {
    match String::from_utf8(content) {
        Ok(text) => FileContent::Text(text),
        Err(error) => FileContent::Base64(STANDARD.encode(error.as_bytes())),
    }
}

/// Files that were stored for jobs, and the quorums in which they are.
pub type Stored = BTreeMap<(PathBuf, QuorumId), ObjectId>;

impl Spec {
    /// An id to submit it under. Asking chooses the quorum.
    pub async fn id(&self, client: &Client, key: Option<String>, quorum: Option<QuorumId>) -> Result<JobId, Failure> {
        let wanted = JobIdRequest { key, quorum: quorum.or(self.file.quorum()), dedicated: self.file.is_dedicated() };
        let JobIdInfo { job } = client.post("/v1/jobs/ids", &wanted).await?;
        Ok(job)
    }

    /// The request that submits it under an id. What is too large to travel along is stored, unless it is already.
    pub async fn into_request(
        self,
        common: &Common,
        client: &Client,
        set: Vec<(String, String)>,
        job: JobId,
        stored: &mut Stored,
    ) -> Result<SubmitRequest, Failure> {
        let mut files = BTreeMap::new();
        for (name, content) in self.named()? {
            let (size, place, module) = match content {
                Named::Inline(content) => {
                    files.insert(name, inline(content));
                    continue;
                }
                Named::Large(size, place) => (size, place, None),
                Named::Module(module, place) => (module.len() as u64, place, Some(module)),
            };
            let at = (place, job.quorum);
            let object = match (stored.get(&at), module) {
                (Some(object), _) => *object,
                (None, None) => {
                    let (body, what) = open_file(&at.0).await?;
                    let what = Upload { quorum: Some(job.quorum), ..what };
                    store(common, client, &at.0, size, &what, body).await?
                }
                (None, Some(module)) => {
                    let what = module_upload(&module, &at.0, job);
                    store(common, client, &at.0, size, &what, futures::stream::iter([Ok(module)])).await?
                }
            };
            stored.insert(at, object);
            files.insert(name, FileContent::Object(object));
        }
        Ok(SubmitRequest {
            spec: self.text,
            file: Some(self.name),
            files,
            set: set.into_iter().collect(),
            job: Some(job),
            ..SubmitRequest::default()
        })
    }
}

/// Submits the one specification.
pub async fn submit(common: &Common, client: &Client, from: SpecArgs, args: SubmitArgs) -> Result<(), Failure> {
    if args.dry_run {
        return plan(common, client, &from).await;
    }
    let spec = read(&from)?;
    spec.check(&spec.named()?)?;
    let quorum = resolve_optional(args.quorum, client).await?;
    let job = spec.id(client, args.key, quorum).await?;
    let is_triggered = spec.file.trigger().is_some();
    let request = spec.into_request(common, client, from.set, job, &mut Stored::new()).await?;
    // A short job has ended when it is answered, and nothing more is asked.
    let is_awaited = !args.detach && (!is_triggered || args.wait || args.follow);
    let (submitted, seen) = match until_answered(client, &request, job, is_awaited).await? {
        SubmitAnswer::Waited(waited) => {
            let WaitedInfo { info, existed, acknowledged_by } = *waited;
            (SubmitInfo { job, state: info.state, existed, acknowledged_by }, Some(info))
        }
        SubmitAnswer::Submitted(submitted) => (submitted, None),
    };
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
            print_to_stderr(format!("job {job} was submitted before and is {}", submitted.state));
        }
        return printed;
    }
    match submitted.existed {
        true => print_to_stderr(format!("job {job}, which was submitted before and is {}", submitted.state)),
        false => print_to_stderr(format!("job {job}")),
    }
    if !is_awaited {
        let info: JobInfo = client.get(&format!("/v1/jobs/{job}")).await?;
        let next = format!("`quorate job fires {job}` shows what it fires; `quorate job cancel {job}` ends it");
        print_to_stderr(advice::complete(common, &next.into()));
        return show_info(common, client, &info).await;
    }
    let ended = watch::until_end(common, client, job, args.follow, seen).await;
    ended.map_err(|failure| if ended_badly { failure.and_hint(RUN_ANEW) } else { failure })
}

/// To whoever submits under the key of a job that has ended.
const RUN_ANEW: &str = "a key stands for one job, however it ended: another --key, or none, runs it anew";

/// How a module says at its upload what it is. The fingerprint is of its bytes: the file has others.
fn module_upload(module: &Bytes, place: &Path, job: JobId) -> Upload {
    Upload {
        name: place.file_name().map(|name| name.to_string_lossy().into_owned()),
        size: Some(module.len() as u64),
        quorum: Some(job.quorum),
        fingerprint: Some(blake3::hash(module).to_hex().to_string()),
        ..Upload::default()
    }
}

/// Stores a file that the job needs. The same file in the same quorum is the same object, so a submit that is repeated
/// under a key names the same.
async fn store<S>(
    common: &Common,
    client: &Client,
    place: &Path,
    size: u64,
    what: &Upload,
    body: S,
) -> Result<ObjectId, Failure>
where
    S: futures::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
{
    let bar = progress(Some(size), common.json);
    let stored: Result<PutInfo, Failure> = upload(client, what, body, |progress| {
        set_message(&bar, progress.phase.to_string());
        bar.set_position(progress.bytes_stored);
    })
    .await;
    bar.finish_and_clear();
    let stored = stored?;
    print_to_stderr(format!("stored {} ({}) as object {}", place.display(), bytes(size), stored.object));
    Ok(stored.object)
}

/// Repeats the submit under its id while nobody can say whether it was heard.
async fn until_answered(
    client: &Client,
    request: &SubmitRequest,
    job: JobId,
    is_awaited: bool,
) -> Result<SubmitAnswer, Failure> {
    let path = match is_awaited {
        true => format!("/v1/jobs?wait={}ms", watch::WAIT_MS),
        false => "/v1/jobs".to_owned(),
    };
    let began = Instant::now();
    let mut told = false;
    loop {
        match client.post(&path, request).await {
            Ok(submitted) => return Ok(submitted),
            Err(error) if began.elapsed() < PATIENCE && watch::passes(&error) => {
                if !std::mem::replace(&mut told, true) {
                    print_to_stderr(format!("{error}; asking again under the same id"));
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
