//! `receipt verify`: checks what workers signed, with nothing but the file.

use std::io::Read;
use std::path::Path;

use quorate_api::{ReceiptBundle, Verdict};
use quorate_protocols::ids::Digest;
use quorate_protocols::task::vote::{ResultReceipt, check_receipts};
use serde::Serialize;

use super::args::{Common, ReceiptCommand};
use super::failure::Failure;
use super::job::verdict_text;
use super::output::{Text, print, print_json};

/// More than the receipts of the widest job need.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What the receipts of one task prove, for `--json`.
#[derive(Serialize)]
struct Proven {
    step: u16,
    task: u32,
    verdict: Verdict,
    agreeing: Vec<String>,
    dissenting: Vec<String>,
}

pub fn run(common: &Common, command: ReceiptCommand) -> Result<(), Failure> {
    let ReceiptCommand::Verify { file, output } = command;
    let bundle = read(&file)?;
    if bundle.tasks.is_empty() {
        return Err(Failure::failed("there are no receipts in it").hint("only a job with [verify] has receipts"));
    }
    let mut proven = Vec::new();
    for task in &bundle.tasks {
        let name = format!("task {}.{}", task.step, task.task);
        let fault = |why: String| Failure::failed(format!("{name}: {why}"));
        for receipt in &task.receipts {
            let id = receipt.statement.task.id;
            if (id.job, id.step, id.task) != (bundle.job, task.step, task.task) {
                return Err(fault(format!(
                    "a receipt is about task {}.{} of job {}: it does not belong here",
                    id.step, id.task, id.job
                )));
            }
        }
        let signed: Vec<ResultReceipt> = task.receipts.iter().copied().map(Into::into).collect();
        let agreement = check_receipts(&signed, bundle.agree.into()).map_err(|reason| fault(reason.to_string()))?;
        proven.push(Proven {
            step: task.step.0,
            task: task.task.0,
            verdict: agreement.verdict.into(),
            agreeing: agreement.agreeing.iter().map(ToString::to_string).collect(),
            dissenting: agreement.dissenting.iter().map(ToString::to_string).collect(),
        });
    }
    if let Some(path) = &output {
        compare(path, &proven)?;
    }
    match common.json {
        true => print_json(&serde_json::json!({ "job": bundle.job, "agree": bundle.agree, "tasks": proven })),
        false => print(proven_text(&bundle, &proven, output.as_deref())),
    }
}

fn read(path: &Path) -> Result<ReceiptBundle, Failure> {
    let name = path.display();
    let fault = |error: &dyn std::fmt::Display| Failure::failed(format!("cannot read {name}: {error}"));
    let mut text = Vec::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().lock().take(FILE_BYTES_MAX).read_to_end(&mut text),
        false => std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text)),
    };
    read.map_err(|error| fault(&error))?;
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| fault(&error))?;
    // The receipts alone, or a job with its receipts.
    let bundle = value.get("receipts").filter(|receipts| receipts.is_object()).cloned().unwrap_or(value);
    serde_json::from_value(bundle)
        .map_err(|error| fault(&error).hint("give it what `quorate job show ID --receipts --json` printed, unchanged"))
}

fn compare(path: &Path, proven: &[Proven]) -> Result<(), Failure> {
    let fault = |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    let [only] = proven else {
        return Err(Failure::usage(format!("--output is for a job with one task; this one has {}", proven.len())));
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path).map_err(fault)?).map_err(fault)?;
    let found = Verdict::Output(Digest(*hasher.finalize().as_bytes()));
    if found != only.verdict {
        let (found, agreed) = (verdict_text(found), verdict_text(only.verdict));
        return Err(Failure::failed(format!("{} is not what was agreed on: {found}, not {agreed}", path.display())));
    }
    Ok(())
}

fn proven_text(bundle: &ReceiptBundle, proven: &[Proven], output: Option<&Path>) -> Text {
    let mut lines = vec![format!("job {}: every receipt is signed by its worker", bundle.job)];
    for task in proven {
        let voices = task.agreeing.len() + task.dissenting.len();
        lines.push(format!(
            "task {}.{}: {} of {voices} workers agree on {} ({} needed)",
            task.step,
            task.task,
            task.agreeing.len(),
            verdict_text(task.verdict),
            bundle.agree
        ));
        lines.extend(task.agreeing.iter().map(|worker| format!("  {worker}")));
        lines.extend(task.dissenting.iter().map(|worker| format!("  {worker} DISSENTS")));
    }
    if let Some(path) = output {
        lines.push(format!("{} is that output", path.display()));
    }
    Text::lines(lines)
}
