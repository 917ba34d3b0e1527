//! `object put|get|ls|show`.

use std::io::IsTerminal;
use std::path::Path;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use quorate_api::{Claim, Listing, ObjectInfo, PutInfo};
use quorate_protocols::ids::JobId;
use quorate_protocols::text::counted;
use quorate_testnet::Client;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::args::{Common, GetArgs, ObjectCommand, PutArgs};
use super::failure::Failure;
use super::find::client_of;
use super::ids::Ids;
use super::output::{
    Missing, Payload, Text, bytes, facts, instant, or_dash, print, print_json, print_to_stderr, progress, set_message,
    table, word,
};
use super::reader;
use super::reference::resolve_optional;
use super::removal::{self, claim_text};
use super::sealing::{SealingKey, random_salt, seal, sealed_bytes, unseal};
use super::transfer::{READ_BYTES, Upload, download, open_file, upload};

pub async fn run(common: &Common, command: ObjectCommand) -> Result<(), Failure> {
    let client = client_of(common)?;
    match command {
        ObjectCommand::Put(args) => put(common, &client, args).await,
        ObjectCommand::Get(args) => get(common, &client, args).await,
        ObjectCommand::Ls { complete } => {
            let listing: Listing<ObjectInfo> = client.list("/v1/objects").await?;
            let missing = Missing::of(&listing);
            let ids = missing.ids(common, &client).await;
            let whole = missing.warn(complete, &ids);
            match common.json {
                true => print_json(&listing.items),
                false => print(objects_table(&listing.items, &ids)),
            }?;
            whole
        }
        ObjectCommand::Show { object } => {
            let object = object.resolve(&client).await?;
            let info: ObjectInfo = client.get(&format!("/v1/objects/{object}")).await?;
            match common.json {
                true => print_json(&info),
                false => print(object_text(&info, &Ids::ask(common, &client).await)),
            }
        }
        ObjectCommand::Rm(args) => removal::run(common, &client, args).await,
    }
}

async fn put(common: &Common, client: &Client, args: PutArgs) -> Result<(), Failure> {
    let resume = match args.resume {
        Some(job) => Some(job.resolve(client).await?),
        None => None,
    };
    let stdin = args.file == Path::new("-");
    let sealing = args.encrypt.as_deref().map(|key_file| Sealing::of(key_file, &args.file)).transpose()?;
    let (body, what) = match stdin {
        true => {
            let input = tokio_util::io::ReaderStream::with_capacity(tokio::io::stdin(), READ_BYTES);
            (input.boxed(), Upload::default())
        }
        false => {
            let (body, upload) = open_file(&args.file).await?;
            (body.boxed(), upload)
        }
    };
    let (body, what) = match &sealing {
        Some(sealing) => sealing.apply(body, what),
        None => (body, what),
    };
    let size = what.size;
    let quorum = resolve_optional(args.quorum, client).await?;
    let what = Upload { name: args.name.or(what.name), profile: args.profile, quorum, resume, ..what };
    let bar = progress(size, common.json);
    let mut job: Option<JobId> = resume;
    let stored = upload(client, &what, body, |progress| {
        job = progress.job.or(job);
        set_message(
            &bar,
            match &progress.waiting {
                Some(waiting) => format!("{}: waiting, {waiting}", progress.phase),
                None => progress.phase.to_string(),
            },
        );
        bar.set_position(progress.bytes_stored);
    });
    let stored = tokio::select! {
        stored = stored => Some(stored),
        _ = tokio::signal::ctrl_c() => None,
    };
    bar.finish_and_clear();
    match stored {
        Some(Ok(info)) if common.json => print_json(&info),
        Some(Ok(info)) => print(put_text(&info, &Ids::ask(common, client).await)),
        Some(Err(failure)) => match job {
            Some(job) if failure.code == super::failure::FAILED => {
                Err(failure.and_hint(format!("`quorate job show {job}` says where the run stands")))
            }
            _ => Err(failure),
        },
        None => Err(interrupted(job, stdin, &args.file)),
    }
}

/// What an upload is encrypted with.
struct Sealing {
    key: SealingKey,
    salt: [u8; 32],
}

impl Sealing {
    fn of(key_file: &Path, file: &Path) -> Result<Self, Failure> {
        let unread = |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", file.display()));
        // What cannot be read twice has no salt of its own. Looked at first: no key is made for a file that is not
        // there.
        let is_file = file != Path::new("-") && std::fs::metadata(file).map_err(unread)?.is_file();
        let (key, is_new) = SealingKey::load_or_create(key_file)?;
        if is_new {
            let told = format!("the key is in {}: without it nobody reads the object again", key_file.display());
            print_to_stderr(Text::lines([told]));
        }
        let salt = match is_file {
            true => std::fs::File::open(file).and_then(|file| key.salt_of(file)).map_err(unread)?,
            false => random_salt()?,
        };
        Ok(Self { key, salt })
    }

    fn apply(&self, body: Body, what: Upload) -> (Body, Upload) {
        let (size, fingerprint) = (what.size.map(sealed_bytes), what.fingerprint);
        // The same file is another object for each key.
        let salt: String = self.salt.iter().map(|byte| format!("{byte:02x}")).collect();
        let fingerprint = fingerprint.map(|of| blake3::hash(format!("{of}\0{salt}").as_bytes()).to_hex().to_string());
        (seal(&self.key, self.salt, body).boxed(), Upload { size, fingerprint, ..what })
    }
}

/// The bytes of an upload.
type Body = BoxStream<'static, std::io::Result<Bytes>>;

/// The run stays, and what it stored: say how to come back to it.
fn interrupted(job: Option<JobId>, stdin: bool, file: &Path) -> Failure {
    let Some(job) = job else {
        return Failure::failed("interrupted before the run began; nothing was stored");
    };
    let file = if stdin { "-".into() } else { file.to_string_lossy() };
    let again = match stdin {
        true => String::new(),
        false => format!("`quorate object put {file}` on this node goes on where it stopped; from another node add "),
    };
    Failure::failed(format!("interrupted; job {job} waits for the rest of the file")).hint(format!(
        "{again}`--resume {job}`{}; `quorate job cancel {job}` gives up what was stored",
        if stdin { " with the same input goes on where it stopped" } else { "" }
    ))
}

fn put_text(info: &PutInfo, ids: &Ids) -> Text {
    let seconds = info.took_ms as f64 / 1000.0;
    let mut rows = vec![
        ("object", info.object.to_string()),
        ("bytes", format!("{} ({}) in {seconds:.2} s{}", info.bytes, bytes(info.bytes), rate(info.bytes, seconds))),
        ("profile", format!("{}{}", info.profile, if info.degraded { ", degraded: a repair is owed" } else { "" })),
        ("job", info.job.to_string()),
        ("acknowledged", format!("by {}", ids.peer(info.acknowledged_by.peer))),
    ];
    rows.extend(info.columns.iter().map(|column| ("column", format!("{} {}", column.column, ids.peer(column.holder)))));
    rows.extend(info.existed.iter().map(|claim| ("was there", claim_text(claim, ids))));
    if info.pieces_skipped > 0 {
        rows.push((
            "resumed",
            format!("{} stored before, {} sent now", counted(info.pieces_skipped, "piece"), info.pieces_sent),
        ));
    }
    facts(&rows)
}

/// Names of one object in a listing; `object show` has them all.
const NAMES_LISTED_MAX: usize = 4;

/// Said only of what is large enough for a rate to say something.
fn rate(bytes: u64, seconds: f64) -> String {
    match seconds > 0.0 && bytes >= RATED_BYTES_MIN {
        true => format!(", {:.0} MB/s", bytes as f64 / 1e6 / seconds),
        false => String::new(),
    }
}

/// Below this the time goes to agreement, not to bytes.
const RATED_BYTES_MIN: u64 = 10_000_000;

async fn get(common: &Common, client: &Client, args: GetArgs) -> Result<(), Failure> {
    let output = match args.output {
        Some(path) => Some(path).filter(|path| path != Path::new("-")),
        None if !std::io::stdout().is_terminal() => None,
        None => return Err(Failure::usage("say where to write: -o FILE, or -o - for the terminal")),
    };
    let object = args.object.resolve(client).await?;
    let (length, stream) = download(client, object, args.range.as_deref()).await?;
    let bar = progress(length, common.json);
    set_message(&bar, "reading");
    let tick = bar.clone();
    let stream = stream.inspect(move |chunk| tick.inc(chunk.as_ref().map_or(0, |chunk| chunk.len() as u64))).boxed();
    let stream = match &args.decrypt {
        Some(key_file) => unseal(SealingKey::load(key_file)?, stream).boxed(),
        None => stream,
    };
    let writing = async {
        match &output {
            None => print_payload(stream, args.raw).await.map(Some),
            Some(path) => write_file(stream, path).await.map(Some),
        }
    };
    // Dropping the write removes its draft; dying of the signal would leave it.
    let written = tokio::select! {
        written = writing => written,
        _ = tokio::signal::ctrl_c() => Ok(None),
    };
    bar.finish_and_clear();
    let Some(written) = written? else {
        return Err(match &output {
            None => Failure::failed("interrupted; what was written is not the whole"),
            Some(path) => Failure::failed(format!("interrupted; {} was not written", path.display())),
        });
    };
    match (&output, common.json) {
        // With the bytes on standard output there is no room for words.
        (None, _) => Ok(()),
        (Some(path), true) => {
            print_json(&serde_json::json!({ "object": object, "bytes": written, "file": path.to_string_lossy() }))
        }
        (Some(path), false) => print(format!("{written} bytes to {}", path.display())),
    }
}

/// Writes bytes on standard output as [`Payload`] says, for as long as somebody reads them.
pub async fn print_payload(stream: impl Stream<Item = Result<Bytes, Failure>>, raw: bool) -> Result<u64, Failure> {
    let mut payload = Payload::to_stdout(raw);
    let writing = async {
        if !payload.is_escaped() {
            return copy(stream, tokio::io::stdout(), "standard output").await;
        }
        let mut stream = std::pin::pin!(stream);
        let mut written = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            payload.write(&chunk)?;
            written += chunk.len() as u64;
        }
        payload.finish()?;
        Ok(written)
    };
    reader::while_read(writing).await
}

pub async fn copy(
    stream: impl Stream<Item = Result<Bytes, Failure>>,
    mut to: impl AsyncWrite + Unpin,
    name: &str,
) -> Result<u64, Failure> {
    let mut stream = std::pin::pin!(stream);
    let mut written = 0;
    let fault = |error: std::io::Error, written: u64| match error.kind() {
        // Whoever read it has had enough (`| head`), which is no fault of this end.
        std::io::ErrorKind::BrokenPipe => Ok(written),
        _ => Err(Failure::failed(format!("writing to {name}: {error}"))),
    };
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        if let Err(error) = to.write_all(&chunk).await {
            return fault(error, written);
        }
        written += chunk.len() as u64;
    }
    match to.flush().await {
        Ok(()) => Ok(written),
        Err(error) => fault(error, written),
    }
}

/// Writes under a temporary name and renames: the name appears with the whole content or not at all. What is there
/// already and is no file (a device, a pipe) is written to as it is.
pub async fn write_file(stream: impl Stream<Item = Result<Bytes, Failure>>, path: &Path) -> Result<u64, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let name = path.display().to_string();
    let fault = |error: std::io::Error| Failure::failed(format!("writing {name}: {error}"));
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(Failure::failed(format!("{name} is a folder; name a file"))),
        Ok(found) if !found.is_file() => {
            let file = tokio::fs::OpenOptions::new().write(true).open(path).await.map_err(fault)?;
            return copy(stream, file, &name).await;
        }
        _ => (),
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = tempfile::Builder::new()
        .prefix(".quorate-")
        // As any new file: the umask takes its part away.
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(parent)
        .map_err(fault)?;
    let (file, draft) = draft.into_parts();
    let written = fill(stream, file, &name).await?;
    draft.persist(path).map_err(|error| fault(error.error))?;
    Ok(written)
}

/// Chunks that wait for the disk while more are received: a few MiB.
const CHUNKS_WAITING_MAX: usize = 16;

/// Writes to a file on a thread of its own, so that receiving and writing overlap and no chunk is copied in between.
async fn fill(
    stream: impl Stream<Item = Result<Bytes, Failure>>,
    mut file: std::fs::File,
    name: &str,
) -> Result<u64, Failure> {
    use std::io::Write;
    let (send, mut receive) = tokio::sync::mpsc::channel::<Bytes>(CHUNKS_WAITING_MAX);
    let writing = tokio::task::spawn_blocking(move || {
        let mut chunks = Vec::new();
        let mut written = 0;
        while receive.blocking_recv_many(&mut chunks, CHUNKS_WAITING_MAX) > 0 {
            for chunk in chunks.drain(..) {
                file.write_all(&chunk)?;
                written += chunk.len() as u64;
            }
        }
        Ok(written)
    });
    let mut stream = std::pin::pin!(stream);
    while let Some(chunk) = stream.next().await {
        // Closed when writing failed, which says so itself.
        if send.send(chunk?).await.is_err() {
            break;
        }
    }
    drop(send);
    let written: std::io::Result<u64> = writing.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    written.map_err(|error| Failure::failed(format!("writing {name}: {error}")))
}

fn objects_table(objects: &[ObjectInfo], ids: &Ids) -> Text {
    let rows = objects.iter().map(|object| {
        vec![
            ids.object(object.object),
            bytes(object.bytes),
            object.profile.to_string(),
            if object.degraded { "degraded".to_owned() } else { word(&object.state) },
            instant(object.created_at),
            names(&object.claims),
        ]
    });
    table(&["object", "size", "profile", "state", "created", "name"], rows)
}

/// Names of an object, and how many keep it if it is more than one.
fn names(claims: &[Claim]) -> String {
    let mut names: Vec<String> = claims.iter().map(|claim| or_dash(claim.name.as_ref())).collect();
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(NAMES_LISTED_MAX);
    names.truncate(NAMES_LISTED_MAX);
    let owners = claims.iter().map(|claim| claim.owner).collect::<std::collections::BTreeSet<_>>().len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let owners = if owners > 1 { format!(" ({owners} owners)") } else { String::new() };
    format!("{}{more}{owners}", names.join(", "))
}

fn object_text(info: &ObjectInfo, ids: &Ids) -> Text {
    let mut rows = vec![
        ("object", info.object.to_string()),
        ("bytes", format!("{} ({})", info.bytes, bytes(info.bytes))),
        ("profile", info.profile.to_string()),
        ("state", format!("{}{}", word(&info.state), if info.degraded { ", degraded" } else { "" })),
        ("job", info.job.to_string()),
        ("created", instant(info.created_at)),
    ];
    rows.extend(info.claims.iter().map(|claim| ("claim", claim_text(claim, ids))));
    rows.extend(info.columns.iter().map(|column| {
        let holder = or_dash(column.holder.map(|peer| ids.peer(peer)));
        ("column", format!("{} {holder} {}", column.column, word(&column.state)))
    }));
    rows.extend(info.owed.iter().map(|owed| ("owed", format!("{}: {}", owed.column, ids.sentence(&owed.reason)))));
    facts(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_protocols::ids::QuorumId;

    #[tokio::test]
    async fn a_download_that_breaks_off_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let broken = futures::stream::iter([Ok(Bytes::from_static(b"half")), Err(Failure::failed("broke off"))]);
        assert!(write_file(broken, &path).await.is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        let whole = futures::stream::iter([Ok(Bytes::from_static(b"whole"))]);
        assert_eq!(write_file(whole, &path).await.unwrap(), 5);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        let device = futures::stream::iter([Ok(Bytes::from_static(b"gone"))]);
        assert_eq!(write_file(device, Path::new("/dev/null")).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn a_download_that_is_given_up_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let stuck = futures::stream::iter([Ok(Bytes::from_static(b"half"))]).chain(futures::stream::pending());
        let mut writing = Box::pin(write_file(stuck, &path));
        assert!(futures::poll!(&mut writing).is_pending());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a draft");
        drop(writing);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[tokio::test]
    async fn a_reader_that_has_had_enough_is_no_fault() {
        let (ours, theirs) = tokio::io::duplex(16);
        drop(theirs);
        let chunks = futures::stream::iter((0..3).map(|_| Ok(Bytes::from_static(b"chunk"))));
        assert!(copy(chunks, ours, "a pipe").await.is_ok());
    }

    #[test]
    fn a_listing_names_an_object_by_all_its_names() {
        let job = JobId { quorum: QuorumId([1; 16]), local: [2; 16] };
        let claim = |owner, name: Option<&str>| Claim {
            owner: quorate_protocols::ids::PeerId([owner; 32]),
            name: name.map(str::to_owned),
            job,
            claimed_at: Default::default(),
        };
        assert_eq!(names(&[claim(1, None)]), "-");
        assert_eq!(names(&[claim(1, Some("b.txt")), claim(1, Some("a.txt"))]), "a.txt, b.txt");
        assert_eq!(names(&[claim(1, Some("a.txt")), claim(2, Some("a.txt"))]), "a.txt (2 owners)");
        let many: Vec<_> = (0..6).map(|number| claim(number, Some(&format!("{number}")))).collect();
        assert_eq!(names(&many), "0, 1, 2, 3 and 2 more (6 owners)");
    }

    #[test]
    fn only_what_is_large_gets_a_rate() {
        assert_eq!(rate(6, 0.2), "");
        assert_eq!(rate(40_000_000, 0.5), ", 80 MB/s");
    }

    #[test]
    fn an_interrupted_put_says_how_to_come_back() {
        let job = JobId { quorum: QuorumId([1; 16]), local: [2; 16] };
        let failure = interrupted(Some(job), false, Path::new("film.mkv"));
        let hint = failure.hint.unwrap();
        let hint = hint.as_str();
        assert!(hint.contains("quorate object put film.mkv"), "{hint}");
        assert!(hint.contains(&format!("--resume {job}")), "{hint}");
        assert!(hint.contains(&format!("quorate job cancel {job}")), "{hint}");
        assert!(interrupted(None, false, Path::new("x")).message.as_str().contains("nothing was stored"));
    }
}
