//! `job submit` of several specifications, or of the lines of a file: many jobs in few requests.
//!
//! All are read and checked before anyone is asked. Each gets an id first, as one that is submitted alone does, so that
//! a request whose answer was lost is repeated and makes no second job. The id of each that was submitted is printed,
//! in the order in which they were named; what became of the others is told on stderr.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use futures::stream::{self, StreamExt};
use quorate_api::{
    ErrorBody, SUBMIT_MANY_BYTES_MAX, SUBMIT_MANY_JOBS_MAX, SubmitManyInfo, SubmitOutcome, SubmitRequest,
};
use quorate_protocols::ids::{JobId, QuorumId};
use quorate_protocols::text::counted;
use quorate_protocols::units::ByteSize;
use quorate_testnet::{Client, ClientError};
use serde::Deserialize;

use super::super::args::{Common, SpecArgs, SubmitArgs};
use super::super::failure::{Failure, unless_reader_gone};
use super::super::output::{print, print_json, print_to_stderr};
use super::super::reference::resolve_optional;
use super::submit::{self, PATIENCE, PAUSE, Spec, Stored};
use super::watch;

/// Largest file of jobs that is read, in bytes: it is in memory.
const LINES_BYTES_MAX: u64 = 64 << 20;

/// Ids that are asked for at once.
const IDS_TOGETHER: usize = 8;

/// One line of a file of jobs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    file: Option<PathBuf>,
    spec: Option<String>,
    #[serde(default)]
    set: BTreeMap<String, String>,
    key: Option<String>,
    quorum: Option<QuorumId>,
}

/// One job to submit.
struct Wanted {
    /// As errors name it.
    name: String,
    from: Origin,
    set: Vec<(String, String)>,
    key: Option<String>,
    quorum: Option<QuorumId>,
}

/// Where its specification is.
enum Origin {
    File(PathBuf),
    /// The text, and what the names of files in it are relative to.
    Text(String, PathBuf),
}

impl Wanted {
    /// Read anew each time: all of them together may be more than fits into memory.
    fn read(&self) -> Result<Spec, Failure> {
        match &self.from {
            Origin::File(path) => submit::read(&SpecArgs { spec: path.clone(), set: self.set.clone() }),
            Origin::Text(text, folder) => Spec::of(text.clone(), self.name.clone(), folder.clone(), &self.set),
        }
    }
}

/// Submits them all.
pub async fn submit_many(common: &Common, client: &Client, args: SubmitArgs) -> Result<(), Failure> {
    let SubmitArgs { specs, batch, set, wait, follow, detach: _, dry_run, key, quorum } = args;
    if wait || follow || dry_run || key.is_some() {
        return Err(Failure::usage(
            "--wait, --follow, --dry-run and --key are for one specification: submit each by itself, or `quorate job \
             wait` for the ids that are printed",
        ));
    }
    let jobs = match batch {
        Some(path) => read_lines(&path)?,
        None => of_files(specs, &set)?,
    };
    for job in &jobs {
        let checked = job.read().and_then(|spec| spec.check(&spec.named()?));
        checked.map_err(|failure| failure.and_hint(format!("that is {}; nothing was submitted", job.name)))?;
    }
    let quorum = resolve_optional(quorum, client).await?;
    let mut submitter =
        Submitter { common, client, waiting: Vec::new(), bytes: 0, stored: Stored::new(), outcomes: Vec::new() };
    let mut ids = stream::iter(&jobs)
        .map(|job| async move {
            let spec = job.read()?;
            let id = spec.id(client, job.key.clone(), job.quorum.or(quorum)).await?;
            Ok::<_, Failure>((job, spec, id))
        })
        .buffered(IDS_TOGETHER);
    while let Some(found) = ids.next().await {
        let (job, spec, id) = found?;
        submitter.add(job, spec, id).await?;
    }
    submitter.send().await?;
    submitter.finish()
}

fn of_files(specs: Vec<PathBuf>, set: &[(String, String)]) -> Result<Vec<Wanted>, Failure> {
    if specs.iter().any(|spec| spec == Path::new("-")) {
        return Err(Failure::usage("`-` is one specification, and is submitted by itself"));
    }
    let wanted = |path: PathBuf| Wanted {
        name: path.display().to_string(),
        from: Origin::File(path),
        set: set.to_vec(),
        key: None,
        quorum: None,
    };
    Ok(specs.into_iter().map(wanted).collect())
}

fn read_lines(path: &Path) -> Result<Vec<Wanted>, Failure> {
    let stdin = path == Path::new("-");
    let name = if stdin { "standard input".to_owned() } else { path.display().to_string() };
    let mut text = String::new();
    let limit = LINES_BYTES_MAX + 1;
    let got = match stdin {
        true => std::io::stdin().lock().take(limit).read_to_string(&mut text),
        false => std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text)),
    };
    got.map_err(|error| Failure::failed(format!("cannot read {name}: {error}")))?;
    if text.len() as u64 > LINES_BYTES_MAX {
        let most = ByteSize(LINES_BYTES_MAX);
        return Err(Failure::failed(format!("{name} is longer than {most}")).hint("submit its jobs in several parts"));
    }
    let folder = if stdin { PathBuf::new() } else { path.parent().map(Path::to_owned).unwrap_or_default() };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(at, line)| read_line(line, format!("{name}:{}", at + 1), &folder)).collect()
}

fn read_line(line: &str, name: String, folder: &Path) -> Result<Wanted, Failure> {
    let wrong = |what: String| {
        Failure::failed(format!("{name}: {what}"))
            .hint("a line is a JSON object with `file` or `spec`, and may have `set`, `key` and `quorum`")
    };
    let Line { file, spec, set, key, quorum } =
        serde_json::from_str(line).map_err(|error| wrong(format!("not a job: {error}")))?;
    let from = match (file, spec) {
        (Some(file), None) => Origin::File(folder.join(file)),
        (None, Some(text)) => Origin::Text(text, folder.to_owned()),
        (Some(_), Some(_)) => return Err(wrong("`file` and `spec` are both given".to_owned())),
        (None, None) => return Err(wrong("neither `file` nor `spec` is given".to_owned())),
    };
    Ok(Wanted { name, from, set: set.into_iter().collect(), key, quorum })
}

/// Fills requests and sends them.
struct Submitter<'a> {
    common: &'a Common,
    client: &'a Client,
    /// For the next request, with the name of each.
    waiting: Vec<(String, SubmitRequest)>,
    bytes: usize,
    stored: Stored,
    outcomes: Vec<SubmitOutcome>,
}

impl Submitter<'_> {
    async fn add(&mut self, job: &Wanted, spec: Spec, id: JobId) -> Result<(), Failure> {
        let request = spec.into_request(self.common, self.client, job.set.clone(), id, &mut self.stored).await?;
        // With the comma behind it, and the brackets around all.
        let bytes = serde_json::to_vec(&request).map_err(|error| Failure::of(&error))?.len() + 3;
        if self.waiting.len() >= SUBMIT_MANY_JOBS_MAX || self.bytes + bytes > SUBMIT_MANY_BYTES_MAX {
            self.send().await?;
        }
        self.waiting.push((job.name.clone(), request));
        self.bytes += bytes;
        Ok(())
    }

    /// Sends what waits until each has an answer that stays, and prints the ids.
    async fn send(&mut self) -> Result<(), Failure> {
        let waiting = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        let mut answers: Vec<Option<SubmitOutcome>> = vec![None; waiting.len()];
        let (began, mut told) = (Instant::now(), false);
        loop {
            let open: Vec<usize> = (0..waiting.len()).filter(|at| is_open(answers[*at].as_ref())).collect();
            if open.is_empty() || (began.elapsed() >= PATIENCE && answers.iter().all(Option::is_some)) {
                break;
            }
            let requests: Vec<&SubmitRequest> = open.iter().map(|at| &waiting[*at].1).collect();
            match self.client.post::<_, SubmitManyInfo>("/v1/jobs:batch", &requests).await {
                Ok(SubmitManyInfo { jobs }) if jobs.len() == open.len() => {
                    open.into_iter().zip(jobs).for_each(|(at, outcome)| answers[at] = Some(outcome));
                }
                Ok(SubmitManyInfo { jobs }) => {
                    let (asked, answered) = (open.len(), jobs.len());
                    return Err(Failure::failed(format!("{asked} jobs were submitted, and {answered} were answered")));
                }
                Err(error) if began.elapsed() < PATIENCE && watch::passes(&error) => {
                    if !std::mem::replace(&mut told, true) {
                        print_to_stderr(format!("{error}; asking again under the same ids"));
                    }
                }
                Err(error @ ClientError::Refused { .. }) => return Err(error.into()),
                Err(error) => {
                    let first = requests.first().and_then(|request| request.job);
                    let first = first.map(|job| format!(", from {job} on")).unwrap_or_default();
                    let jobs = counted(requests.len(), "job");
                    return Err(Failure::from(error).and_hint(format!(
                        "whether {jobs} were submitted{first} is unknown: `quorate job ls` through any node says"
                    )));
                }
            }
            if answers.iter().any(|answer| is_open(answer.as_ref())) {
                tokio::time::sleep(PAUSE).await;
            }
        }
        for ((name, _), answer) in waiting.into_iter().zip(answers.into_iter().flatten()) {
            self.print_outcome(&name, &answer)?;
            self.outcomes.push(answer);
        }
        Ok(())
    }

    fn print_outcome(&self, name: &str, outcome: &SubmitOutcome) -> Result<(), Failure> {
        match outcome {
            SubmitOutcome::Submitted(info) => {
                if info.existed {
                    print_to_stderr(format!("job {} was submitted before and is {}", info.job, info.state));
                }
                if self.common.json { Ok(()) } else { print(info.job) }
            }
            SubmitOutcome::Refused(ErrorBody { message, hint, .. }) => {
                let hint = hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
                print_to_stderr(format!("{name}: {message}{hint}"));
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<(), Failure> {
        if self.common.json {
            unless_reader_gone(print_json(&self.outcomes))?;
        }
        let refused = self.outcomes.iter().filter(|outcome| matches!(outcome, SubmitOutcome::Refused(_))).count();
        match refused {
            0 => Ok(()),
            _ => {
                Err(Failure::failed(format!("{refused} of {} were not submitted", counted(self.outcomes.len(), "job"))))
            }
        }
    }
}

/// Whether the submit is to be sent again: it has no answer, or one that passes.
fn is_open(answer: Option<&SubmitOutcome>) -> bool {
    match answer {
        None => true,
        Some(SubmitOutcome::Refused(body)) => watch::PASSING.contains(&body.error),
        Some(SubmitOutcome::Submitted(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_file_or_has_a_specification_and_nothing_that_is_not_known() {
        let read = |line: &str| read_line(line, "jobs:7".to_owned(), Path::new("folder"));
        let file = read("{\"file\":\"a.toml\",\"set\":{\"who\":\"moon\"},\"key\":\"k\"}").unwrap();
        assert!(matches!(&file.from, Origin::File(path) if path == Path::new("folder/a.toml")));
        assert_eq!((file.set, file.key.as_deref()), (vec![("who".to_owned(), "moon".to_owned())], Some("k")));
        let text = read("{\"spec\":\"engine = 1\"}").unwrap();
        assert!(
            matches!(&text.from, Origin::Text(text, folder) if text == "engine = 1" && folder == Path::new("folder"))
        );
        for (wrong, word) in [
            ("{}", "neither"),
            ("{\"file\":\"a\",\"spec\":\"b\"}", "both"),
            ("{\"file\":\"a\",\"sets\":{}}", "sets"),
            ("{\"file\":\"a\",\"quorum\":\"x\"}", "not a job"),
            ("nothing", "not a job"),
        ] {
            let failure = read(wrong).err().expect("it is wrong").to_string();
            assert!(failure.contains("jobs:7") && failure.contains(word), "{failure}");
        }
    }
}
